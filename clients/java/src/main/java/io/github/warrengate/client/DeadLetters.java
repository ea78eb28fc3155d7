package io.github.warrengate.client;

import warrengate.v1.DeadLetter;
import warrengate.v1.DeadLetterFilter;
import warrengate.v1.DeadLetterSelection;
import warrengate.v1.ListDeadLettersRequest;
import warrengate.v1.PurgeDeadLettersRequest;
import warrengate.v1.RedriveDeadLettersRequest;
import warrengate.v1.RedriveDeadLettersResponse;
import warrengate.v1.TopologyGrpc;

/** The messages for which no further attempt is made. They can be listed, sent again and deleted. */
public final class DeadLetters {
  private final WarrengateClient client;

  DeadLetters(WarrengateClient client) {
    this.client = client;
  }

  /**
   * Selects all dead letters of a queue.
   *
   * @param queue its name
   * @return the selection
   */
  public static DeadLetterSelection ofQueue(String queue) {
    return DeadLetterSelection.newBuilder().setFilter(DeadLetterFilter.newBuilder().setQueue(queue)).build();
  }

  /**
   * Lists the dead letters of a queue, oldest first. They stay where they are.
   *
   * @param queue its name
   * @return the dead letters, which are fetched page by page
   */
  public Iterable<DeadLetter> list(String queue) {
    return list(DeadLetterFilter.newBuilder().setQueue(queue).build());
  }

  /**
   * Lists dead letters, oldest first. They stay where they are.
   *
   * @param filter which ones
   * @return the dead letters, which are fetched page by page
   */
  public Iterable<DeadLetter> list(DeadLetterFilter filter) {
    return new Pages<>(token -> {
      var request = ListDeadLettersRequest.newBuilder().setFilter(filter).setPageToken(token).build();
      var page = client.topology().call(stub -> stub.listDeadLetters(request));
      return new Pages.Page<>(page.getDeadLettersList(), page.getNextPageToken());
    });
  }

  /**
   * Sends dead letters to the queues that they come from, and waits until that is done.
   *
   * @param selection which ones
   * @param maxPerSecond how many messages in a second at most; 0 for no limit
   * @return the numbers of all, and every failure
   */
  public RedriveDeadLettersResponse redrive(DeadLetterSelection selection, int maxPerSecond) {
    var request = RedriveDeadLettersRequest.newBuilder().setSelection(selection).setMaxPerSecond(maxPerSecond).build();
    return client.callWithoutLimit(TopologyGrpc::newBlockingStub, stub -> {
      var total = RedriveDeadLettersResponse.newBuilder();
      stub.redriveDeadLetters(request).forEachRemaining(progress -> total.setRedriven(progress.getRedriven())
          .setFailed(progress.getFailed()).setRemaining(progress.getRemaining()).addAllFailures(progress.getFailuresList()));
      return total.build();
    });
  }

  /**
   * Deletes dead letters.
   *
   * @param selection which ones
   * @return the number of messages deleted
   */
  public long purge(DeadLetterSelection selection) {
    var request = PurgeDeadLettersRequest.newBuilder().setSelection(selection).build();
    return client.topology().call(stub -> stub.purgeDeadLetters(request)).getPurged();
  }
}

package io.github.warrengate.bench;

import io.github.warrengate.client.ConsumeOptions;
import io.github.warrengate.client.Message;
import io.github.warrengate.client.Publisher;
import io.github.warrengate.client.WarrengateClient;
import java.util.ArrayList;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;

/** The library's side of the measurement. */
public final class Library implements Program.Side {
  private final WarrengateClient client;
  private final Publisher publisher;

  private Library(WarrengateClient client) {
    this.client = client;
    publisher = client.publisher();
  }

  @Override
  public void publish(Program.Command command) {
    var body = new byte[command.size()];
    for (var first = 0; first < command.count(); first += command.window()) {
      var outcomes = new ArrayList<CompletableFuture<?>>();
      for (var number = Math.min(command.window(), command.count() - first); number > 0; number--) {
        outcomes.add(publisher.publish(command.queue(), Message.builder().body(body).build()));
      }
      outcomes.forEach(CompletableFuture::join);
    }
  }

  @Override
  public void consume(Program.Command command) throws InterruptedException {
    var left = new CountDownLatch(command.count());
    var consumer = client.consume(command.queue(), delivery -> left.countDown(), new ConsumeOptions().window(command.prefetch()));
    left.await();
    consumer.close();
  }

  public static void main(String[] arguments) throws Exception {
    try (var client = WarrengateClient.fromEnv()) {
      Program.serve(new Library(client));
    }
  }
}

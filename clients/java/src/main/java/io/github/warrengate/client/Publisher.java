package io.github.warrengate.client;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import warrengate.v1.MessagingGrpc;
import warrengate.v1.Outcome;
import warrengate.v1.Publication;
import warrengate.v1.Publications;
import warrengate.v1.PublishRequest;
import warrengate.v1.PublishResponse;
import warrengate.v1.PublishResult;
import warrengate.v1.Reauthenticate;

/**
 * Publishes to one exchange. Safe for use by several threads. Each message gets exactly one outcome, by its deadline at
 * the latest.
 */
public final class Publisher implements AutoCloseable {
  /**
   * Far below the size limit of a frame, so that only a message that is too large by itself is refused for its size.
   */
  private static final long MAX_FRAME_BYTES = 256 * 1024;
  /** What a frame has for each message besides the message: sequence, exchange, routing key and lengths, at most. */
  private static final long OVERHEAD = 600;
  /** The pause before a message whose outcome the gateway did not learn is sent again. */
  private static final long RESEND_PAUSE = 200_000_000;
  /** How long messages are gathered for a frame that is not full, unless nothing else is in flight. */
  private static final long GATHER = 1_000_000;
  private static final Duration CLOSE_LIMIT = Duration.ofSeconds(30);
  /** Refusals that a later attempt, perhaps at another gateway, need not meet. */
  private static final Set<String> TRANSIENT_REASONS = Set.of(Errors.DRAINING, "BROKER_UNREACHABLE");

  private final WarrengateClient client;
  private final String exchange;
  private final int maxInFlight;
  private final long maxInFlightBytes;
  private final int batchMessages;
  private final long timeout;
  private final boolean retryThrottled;
  private final boolean allowUnroutable;
  private final CompletableFuture<Void> stopped = new CompletableFuture<>();
  private final Recovery recovery;

  private final ReentrantLock lock = new ReentrantLock();
  private final Condition capacity = lock.newCondition();
  /** By sequence, in the order of publishing, which is also that of the deadlines. */
  private final Map<Long, Entry> entries = new LinkedHashMap<>();
  private final PriorityQueue<Entry> unwritten = new PriorityQueue<>(Comparator.comparingLong((Entry entry) -> entry.sequence));
  private long sequence;
  private long bytes;
  /** Nothing is written before this moment of the monotonic clock. */
  private long notBefore = System.nanoTime();
  private boolean timerIsSet;
  private Stream stream;
  private boolean running;
  private boolean closed;
  private CompletableFuture<Void> idle = CompletableFuture.completedFuture(null);

  Publisher(WarrengateClient client, PublisherOptions options) {
    this.client = client;
    exchange = options.exchange;
    maxInFlight = options.maxInFlight;
    maxInFlightBytes = options.maxInFlightBytes;
    batchMessages = options.batchMessages;
    timeout = options.timeout.toNanos();
    retryThrottled = options.retryThrottled;
    allowUnroutable = options.allowUnroutable;
    recovery = new Recovery(client, "publisher", stopped);
  }

  /** A message without an outcome. */
  private static final class Entry {
    final long sequence;
    final Publication publication;
    final long size;
    final long deadline;
    final Tracing.Span span;
    final CompletableFuture<Confirmation> future = new CompletableFuture<>();
    /** Whether the present stream has it. */
    boolean written;
    /** Whether an attempt ended without an answer, so that the message may be stored. */
    boolean lost;
    boolean done;
    PublishException refusal;

    Entry(long sequence, Publication publication, long size, long deadline, Tracing.Span span) {
      this.sequence = sequence;
      this.publication = publication;
      this.size = size;
      this.deadline = deadline;
      this.span = span;
    }

    String messageId() {
      return publication.getMessage().getMessageId();
    }
  }

  /**
   * Publishes a message. Waits only while the publisher is full. Messages that one thread publishes reach the broker in
   * this order while nothing fails.
   *
   * @param routingKey the routing key; for the default exchange, the name of a queue
   * @param message the message
   * @return completes when the broker has confirmed the message, and otherwise exceptionally with a
   *     {@link PublishException} or another {@link WarrengateException}; {@link WarrengateException#from} unpacks it
   */
  public CompletableFuture<Confirmation> publish(String routingKey, Message message) {
    var sent = message.proto().toBuilder();
    if (sent.getMessageId().isEmpty()) {
      sent.setMessageId(UUID.randomUUID().toString());
    }
    var span = client.tracing.producer(exchange.isEmpty() ? routingKey : exchange, sent);
    var publication = Publication.newBuilder().setExchange(exchange).setRoutingKey(routingKey).setAllowUnroutable(allowUnroutable)
        .setMessage(sent.build());
    try {
      return accept(publication, span);
    } catch (WarrengateException refusal) {
      span.end(refusal);
      return CompletableFuture.failedFuture(refusal);
    }
  }

  /**
   * Publishes a message and waits until the broker has confirmed it.
   *
   * @param routingKey the routing key; for the default exchange, the name of a queue
   * @param message the message
   * @return the confirmation
   * @throws PublishException if the message is not confirmed
   */
  public Confirmation publishAndWait(String routingKey, Message message) {
    try {
      return publish(routingKey, message).join();
    } catch (CompletionException failure) {
      throw WarrengateException.from(failure);
    }
  }

  private CompletableFuture<Confirmation> accept(Publication.Builder publication, Tracing.Span span) {
    Entry entry;
    Stream current;
    lock.lock();
    try {
      // A message larger than the limit is sent alone.
      var size = Math.min(publication.getMessage().getSerializedSize() + OVERHEAD, maxInFlightBytes);
      while (!closed && (entries.size() >= maxInFlight || bytes + size > maxInFlightBytes)) {
        capacity.await();
      }
      if (closed) {
        throw Errors.closed("publisher");
      }
      sequence++;
      entry = new Entry(sequence, publication.setSequence(sequence).build(), size, System.nanoTime() + timeout, span);
      if (entries.isEmpty()) {
        idle = new CompletableFuture<>();
      }
      entries.put(sequence, entry);
      bytes += size;
      unwritten.add(entry);
      if (!timerIsSet) {
        timerIsSet = true;
        client.schedule(timeout, this::expire);
      }
      if (!running) {
        running = true;
        client.execute(this::run);
      }
      current = stream;
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw Errors.interrupted();
    } finally {
      lock.unlock();
    }
    if (current != null) {
      current.wake();
    }
    return entry.future;
  }

  /**
   * The messages that have no outcome yet.
   *
   * @return their number
   */
  public int inFlight() {
    lock.lock();
    try {
      return entries.size();
    } finally {
      lock.unlock();
    }
  }

  /**
   * Waits for the outcomes of all messages.
   *
   * @return completes when every message has its outcome
   */
  public CompletableFuture<Void> flush() {
    lock.lock();
    try {
      return idle.copy();
    } finally {
      lock.unlock();
    }
  }

  /** The outcome of an entry, to be reported outside of the lock, because futures run code of the application. */
  private record Ending(Entry entry, Confirmation confirmation, WarrengateException error) {
    void report() {
      entry.span.end(error);
      if (error == null) {
        entry.future.complete(confirmation);
      } else {
        entry.future.completeExceptionally(error);
      }
    }
  }

  /** Gives a message its outcome. The caller has the lock and calls {@link #report} without it. */
  private void end(List<Ending> endings, Entry entry, Confirmation confirmation, WarrengateException error) {
    if (entry.done) {
      return;
    }
    entry.done = true;
    entries.remove(entry.sequence);
    bytes -= entry.size;
    endings.add(new Ending(entry, confirmation, error));
  }

  private void report(List<Ending> endings) {
    if (endings.isEmpty()) {
      return;
    }
    CompletableFuture<Void> finished = null;
    Stream current;
    lock.lock();
    try {
      capacity.signalAll();
      if (entries.isEmpty()) {
        finished = idle;
      }
      current = stream;
    } finally {
      lock.unlock();
    }
    if (finished != null && current != null) {
      current.wake();
    }
    var done = finished;
    client.execute(() -> {
      endings.forEach(Ending::report);
      if (done != null) {
        done.complete(null);
      }
    });
  }

  private void takeResults(List<PublishResult> results) {
    var endings = new ArrayList<Ending>();
    var again = false;
    Stream current;
    lock.lock();
    try {
      for (var result : results) {
        var entry = entries.get(result.getSequence());
        if (entry == null) {
          continue;
        }
        if (result.getOutcome() == Outcome.OUTCOME_CONFIRMED) {
          end(endings, entry, new Confirmation(result.getMessageId(), result.getTraceId()), null);
        } else {
          again |= takeRefusal(endings, entry, Errors.fromResult(result, entry.messageId()));
        }
      }
      current = stream;
    } finally {
      lock.unlock();
    }
    report(endings);
    if (again && current != null) {
      current.wake();
    }
  }

  /** Whether the message is sent again. */
  private boolean takeRefusal(List<Ending> endings, Entry entry, PublishException refusal) {
    var pause = 0L;
    var again = TRANSIENT_REASONS.contains(refusal.reason());
    switch (refusal.outcome()) {
      case UNKNOWN -> {
        entry.lost = true;
        again = true;
        pause = RESEND_PAUSE;
      }
      case THROTTLED -> {
        again = retryThrottled;
        pause = Math.max(refusal.retryAfter().orElse(Duration.ZERO).toNanos(), RESEND_PAUSE / 4);
      }
      default -> { }
    }
    if (again) {
      var until = System.nanoTime() + pause;
      if (until - notBefore > 0) {
        notBefore = until;
      }
      entry.refusal = refusal;
      entry.written = false;
      unwritten.add(entry);
    } else if (entry.lost) {
      // An earlier attempt had no answer, so this refusal does not say that the message is not stored.
      end(endings, entry, null, Errors.unknown(entry.messageId(), refusal.getMessage(), refusal.reason(), true));
    } else {
      end(endings, entry, null, refusal);
    }
    return again;
  }

  private void expire() {
    var endings = new ArrayList<Ending>();
    lock.lock();
    try {
      timerIsSet = false;
      var now = System.nanoTime();
      while (!entries.isEmpty()) {
        var oldest = entries.values().iterator().next();
        if (oldest.deadline - now > 0) {
          timerIsSet = true;
          client.schedule(oldest.deadline - now, this::expire);
          break;
        }
        end(endings, oldest, null, overdue(oldest));
      }
    } finally {
      lock.unlock();
    }
    report(endings);
  }

  private static WarrengateException overdue(Entry entry) {
    if (entry.lost || entry.written) {
      return Errors.unknown(entry.messageId(), "no answer came in time", "UNKNOWN", true);
    }
    return entry.refusal != null ? entry.refusal : Errors.notSent(entry.messageId(), "no gateway took it");
  }

  /** Keeps a stream open until the publisher is closed or refused for good. */
  private void run() {
    while (true) {
      var current = new Stream();
      lock.lock();
      try {
        if (closed && entries.isEmpty()) {
          running = false;
          return;
        }
        stream = current;
        current.closing = closed;
      } finally {
        lock.unlock();
      }
      var failure = current.run();
      lock.lock();
      try {
        stream = null;
        rewind();
        if (closed && entries.isEmpty()) {
          running = false;
          return;
        }
      } finally {
        lock.unlock();
      }
      var refusal = recovery.after(current.channel, current.token, failure);
      if (refusal != null) {
        fail(refusal);
        return;
      }
      lock.lock();
      try {
        // The next message starts it again.
        running = !entries.isEmpty();
        if (!running) {
          return;
        }
      } finally {
        lock.unlock();
      }
    }
  }

  /** Makes everything without an outcome unwritten, in the order of publishing. The caller has the lock. */
  private void rewind() {
    unwritten.clear();
    for (var entry : entries.values()) {
      if (entry.written) {
        entry.written = false;
        entry.lost = true;
      }
      unwritten.add(entry);
    }
  }

  private void fail(WarrengateException refusal) {
    var endings = new ArrayList<Ending>();
    lock.lock();
    try {
      running = false;
      for (var entry : List.copyOf(entries.values())) {
        end(endings, entry, null, entry.lost
            ? Errors.unknown(entry.messageId(), refusal.getMessage(), refusal.reason(), refusal.isRetryable())
            : refusal.details().exception(io.github.warrengate.client.Outcome.NOT_SENT, entry.messageId()));
      }
    } finally {
      lock.unlock();
    }
    endings.sort(Comparator.comparingLong(ending -> ending.entry().sequence));
    report(endings);
  }

  /** Takes no more messages and waits up to 30 s until every message has its outcome. */
  @Override
  public void close() {
    close(CLOSE_LIMIT);
  }

  /**
   * Takes no more messages and waits until every message has its outcome.
   *
   * @param limit how long to wait; messages without an outcome then fail
   */
  public void close(Duration limit) {
    Stream current;
    CompletableFuture<Void> finished;
    lock.lock();
    try {
      closed = true;
      capacity.signalAll();
      current = stream;
      finished = idle;
    } finally {
      lock.unlock();
    }
    if (current != null) {
      current.close();
    }
    WarrengateClient.isDoneWithin(finished, limit);
    var endings = new ArrayList<Ending>();
    lock.lock();
    try {
      for (var entry : List.copyOf(entries.values())) {
        end(endings, entry, null, overdue(entry));
      }
      current = stream;
    } finally {
      lock.unlock();
    }
    report(endings);
    stopped.complete(null);
    if (current != null) {
      current.close();
    }
    client.forget(this);
  }

  /** One publish stream. */
  private final class Stream extends Session<PublishRequest, PublishResponse> {
    /** Whether a frame is written even if it is not full. */
    private boolean due;

    Stream() {
      // What is written to a stream that the gateway has not accepted would have to count as perhaps stored.
      super(Publisher.this.client, "publisher", MessagingGrpc.getPublishMethod(), true);
    }

    @Override
    void opened() {
      client.emit(Event.Kind.CONNECTED, source, "");
    }

    /**
     * While answers are due and more messages may come, one frame of many messages costs less than many frames. The caller has the
     * lock.
     */
    private boolean gathers() {
      var waiting = unwritten.size();
      var answersAreDue = waiting < entries.size() && entries.size() < maxInFlight;
      return waiting > 0 && waiting < batchMessages && answersAreDue && !closing && !draining;
    }

    @Override
    void gathered() {
      lock.lock();
      try {
        due = true;
      } finally {
        lock.unlock();
      }
    }

    @Override
    PublishRequest nextFrame() {
      lock.lock();
      try {
        if (draining || notBefore - System.nanoTime() > 0) {
          return null;
        }
        if (gathers() && !due) {
          wakeAfter(GATHER);
          return null;
        }
        due = false;
        var frame = Publications.newBuilder();
        var size = 0L;
        while (frame.getPublicationsCount() < batchMessages && !unwritten.isEmpty()) {
          var entry = unwritten.peek();
          if (!entry.done && !entry.written) {
            size += entry.size;
            if (frame.getPublicationsCount() > 0 && size > MAX_FRAME_BYTES) {
              break;
            }
            entry.written = true;
            frame.addPublications(entry.publication);
          }
          unwritten.remove();
        }
        return frame.getPublicationsCount() == 0 ? null : PublishRequest.newBuilder().setPublications(frame).build();
      } finally {
        lock.unlock();
      }
    }

    @Override
    long pauseNanos() {
      lock.lock();
      try {
        return draining || unwritten.isEmpty() ? 0 : Math.max(notBefore - System.nanoTime(), 0);
      } finally {
        lock.unlock();
      }
    }

    @Override
    long gatherNanos() {
      lock.lock();
      try {
        return gathers() ? GATHER : 0;
      } finally {
        lock.unlock();
      }
    }

    @Override
    boolean isDone() {
      // Messages that wait for their time go to the next gateway.
      return draining || inFlight() == 0;
    }

    @Override
    PublishRequest reauthentication(String text) {
      return PublishRequest.newBuilder().setReauthenticate(Reauthenticate.newBuilder().setAccessToken(text)).build();
    }

    @Override
    void receive(PublishResponse response) {
      switch (response.getEventCase()) {
        case RESULTS -> {
          recovery.works = true;
          takeResults(response.getResults().getResultsList());
        }
        case AUTH_EXPIRING -> onExpiring();
        case DRAINING -> onDraining(response.getDraining().getDeadline());
        case EVENT_NOT_SET -> { }
      }
    }
  }
}

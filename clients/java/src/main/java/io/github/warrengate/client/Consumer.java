package io.github.warrengate.client;

import io.grpc.Status;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import warrengate.v1.Ack;
import warrengate.v1.Deliveries;
import warrengate.v1.ExtendLease;
import warrengate.v1.MessagingGrpc;
import warrengate.v1.Nack;
import warrengate.v1.Reauthenticate;
import warrengate.v1.StreamPosition;
import warrengate.v1.SubscribeRequest;
import warrengate.v1.SubscribeResponse;
import warrengate.v1.SubscribeStart;
import warrengate.v1.Settled;

/**
 * A subscription that outlives its streams. With a handler it calls the handler; without one, take deliveries with
 * {@link #next}, {@link #poll} or by iterating, and settle each of them.
 */
public final class Consumer implements AutoCloseable, Iterable<Delivery> {
  /** How long acknowledgements are gathered before they are written. */
  private static final long GATHER = 5_000_000;
  private static final int GATHERED = 64;
  private static final int MAX_IDS = 10_000;
  private static final Duration CLOSE_LIMIT = Duration.ofSeconds(30);

  private final WarrengateClient client;
  private final String queue;
  private final Handler handler;
  private final int concurrency;
  private final Duration lease;
  private final long maxLease;
  private final SubscribeStart start;
  private final CompletableFuture<Void> started = new CompletableFuture<>();
  private final CompletableFuture<Void> ended = new CompletableFuture<>();
  private final CompletableFuture<Void> stopped = new CompletableFuture<>();
  private final Recovery recovery;

  private final ReentrantLock lock = new ReentrantLock();
  private final Condition arrived = lock.newCondition();
  private final ArrayDeque<Delivery> ready = new ArrayDeque<>();
  private final Set<Thread> handling = new HashSet<>();
  private int workers;
  private Stream stream;
  private Long resumeFrom;
  private boolean closing;
  private boolean finished;
  private WarrengateException error;

  Consumer(WarrengateClient client, String queue, Handler handler, ConsumeOptions options) {
    this.client = client;
    this.queue = queue;
    this.handler = handler;
    concurrency = options.concurrency;
    lease = options.lease;
    maxLease = options.maxLease.toNanos();
    var first = SubscribeStart.newBuilder().setQueue(queue)
        .setMaxOutstandingMessages(Math.max(options.window, options.concurrency)).setMaxOutstandingBytes(options.maxBytes)
        .setAckDeadline(Times.proto(options.lease)).setExclusive(options.exclusive).setPriority(options.priority);
    if (options.position != null) {
      first.setPosition(options.position.value);
    }
    start = first.build();
    recovery = new Recovery(client, queue, stopped);
  }

  /** Waits until the gateway has accepted the subscription. */
  void start(Duration limit) {
    client.execute(this::run);
    var either = CompletableFuture.anyOf(started, ended);
    if (!WarrengateClient.isDoneWithin(either, limit)) {
      stop();
      throw Thread.currentThread().isInterrupted()
          ? Errors.interrupted()
          : Errors.timeout("the subscription of " + queue + " did not start in time");
    }
    if (!started.isDone()) {
      throw error().orElseGet(() -> Errors.closed("consumer"));
    }
  }

  /**
   * The queue.
   *
   * @return its name
   */
  public String queue() {
    return queue;
  }

  /**
   * The handlers that run now.
   *
   * @return their number
   */
  public int running() {
    lock.lock();
    try {
      return handling.size();
    } finally {
      lock.unlock();
    }
  }

  /**
   * The end of the consumer.
   *
   * @return completes when the consumer was closed, and exceptionally when an error has ended it
   */
  public CompletableFuture<Void> ended() {
    return ended.copy();
  }

  /**
   * The error that has ended the consumer.
   *
   * @return the error; empty while the consumer works, and when it was closed
   */
  public Optional<WarrengateException> error() {
    lock.lock();
    try {
      return Optional.ofNullable(error);
    } finally {
      lock.unlock();
    }
  }

  /**
   * Waits for the next delivery of a consumer without a handler.
   *
   * @return the delivery, which has to be settled; its lease is extended until then
   * @throws WarrengateException if the consumer has ended
   * @throws InterruptedException if the thread is interrupted
   */
  public Delivery next() throws InterruptedException {
    lock.lock();
    try {
      while (true) {
        var delivery = take();
        if (delivery != null) {
          return delivery;
        }
        ensureOpen();
        arrived.await();
      }
    } finally {
      lock.unlock();
    }
  }

  /**
   * Waits for the next delivery of a consumer without a handler.
   *
   * @param limit how long to wait
   * @return the delivery, or nothing when none came in time
   * @throws WarrengateException if the consumer has ended
   * @throws InterruptedException if the thread is interrupted
   */
  public Optional<Delivery> poll(Duration limit) throws InterruptedException {
    var left = limit.toNanos();
    lock.lock();
    try {
      while (true) {
        var delivery = take();
        if (delivery != null) {
          return Optional.of(delivery);
        }
        ensureOpen();
        if (left <= 0) {
          return Optional.empty();
        }
        left = arrived.awaitNanos(left);
      }
    } finally {
      lock.unlock();
    }
  }

  private void ensureOpen() {
    if (error != null) {
      throw error;
    }
    if (finished || closing) {
      throw Errors.closed("consumer");
    }
  }

  /**
   * Iterates over the deliveries of a consumer without a handler, until it is closed or the thread is interrupted.
   * Iterating throws the error that has ended the consumer.
   *
   * @return the iterator
   */
  @Override
  public Iterator<Delivery> iterator() {
    return new Iterator<>() {
      private Delivery following;

      @Override
      public boolean hasNext() {
        if (following == null) {
          try {
            following = Consumer.this.next();
          } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
          } catch (WarrengateException end) {
            if (!end.reason().equals("CLOSED")) {
              throw end;
            }
          }
        }
        return following != null;
      }

      @Override
      public Delivery next() {
        if (!hasNext()) {
          throw new NoSuchElementException();
        }
        var delivery = following;
        following = null;
        return delivery;
      }
    };
  }

  private Delivery take() {
    var delivery = ready.poll();
    if (delivery != null) {
      delivery.started = true;
    }
    return delivery;
  }

  /** Takes deliveries of the present stream. The caller has the lock. */
  private void deliver(List<Delivery> batch) {
    ready.addAll(batch);
    if (handler == null) {
      arrived.signalAll();
      return;
    }
    for (var free = Math.min(ready.size(), concurrency - workers); free > 0; free--) {
      workers++;
      client.handlers.execute(this::work);
    }
  }

  /** Runs handlers one after another until nothing is ready. */
  private void work() {
    while (true) {
      Delivery delivery;
      lock.lock();
      try {
        delivery = take();
        if (delivery == null) {
          workers--;
          return;
        }
        handling.add(Thread.currentThread());
      } finally {
        lock.unlock();
      }
      try {
        handle(delivery);
      } finally {
        lock.lock();
        try {
          // An interrupt was for this handler, and must not reach the next one.
          handling.remove(Thread.currentThread());
          Thread.interrupted();
        } finally {
          lock.unlock();
        }
      }
    }
  }

  private void handle(Delivery delivery) {
    var span = client.tracing.consumer(queue, delivery);
    var scope = span.activate();
    try {
      handler.handle(delivery);
      delivery.ack();
      span.end(null);
    } catch (Throwable failure) { // the application's code may throw anything
      WarrengateClient.LOG.log(Level.WARNING, "a handler of " + queue + " failed; its message is retried unless it is settled", failure);
      delivery.retry(String.valueOf(failure));
      span.end(failure);
    } finally {
      scope.close();
    }
  }

  private void run() {
    try {
      while (true) {
        Stream current;
        lock.lock();
        try {
          if (closing) {
            return;
          }
          current = new Stream();
          stream = current;
        } finally {
          lock.unlock();
        }
        var failure = current.run();
        lock.lock();
        try {
          stream = null;
          var position = current.reset();
          resumeFrom = position == null ? resumeFrom : position;
          if (closing) {
            return;
          }
        } finally {
          lock.unlock();
        }
        var refusal = after(current, failure);
        if (refusal != null) {
          lock.lock();
          try {
            error = closing ? null : refusal;
          } finally {
            lock.unlock();
          }
          return;
        }
      }
    } finally {
      finish();
    }
  }

  private WarrengateException after(Stream current, WarrengateException failure) {
    // A plan's limit of streams refuses the first one. A later one may only have come before the gateway has noticed
    // the end of its predecessor.
    if (failure != null && !started.isDone() && failure.code() == Status.Code.RESOURCE_EXHAUSTED) {
      return failure;
    }
    return recovery.after(current.channel, current.token, failure);
  }

  private void finish() {
    WarrengateException reason;
    lock.lock();
    try {
      finished = true;
      reason = error;
      arrived.signalAll();
    } finally {
      lock.unlock();
    }
    client.forget(this);
    if (reason == null) {
      ended.complete(null);
    } else {
      WarrengateClient.LOG.log(Level.ERROR, "the consumer of {0} has ended: {1}", queue, reason.getMessage());
      ended.completeExceptionally(reason);
    }
  }

  /**
   * Takes no more messages, waits for running handlers (up to 30 s), settles, and ends the stream. Deliveries that were
   * taken without a handler are not waited for. A handler must not close its own consumer: it would wait for itself.
   */
  @Override
  public void close() {
    close(handler == null ? Duration.ZERO : CLOSE_LIMIT);
  }

  /**
   * Takes no more messages, waits until what was begun is settled, and ends the stream. The rest is delivered again
   * without using up an attempt.
   *
   * @param limit how long to wait; then handlers are interrupted, and their messages are delivered again
   */
  public void close(Duration limit) {
    Stream current;
    lock.lock();
    try {
      closing = true;
      ready.clear();
      arrived.signalAll();
      current = stream;
    } finally {
      lock.unlock();
    }
    if (current != null && current.channel != null) {
      current.close();
      if (!WarrengateClient.isDoneWithin(ended, limit)) {
        lock.lock();
        try {
          handling.forEach(Thread::interrupt);
          current.abandoned = true;
        } finally {
          lock.unlock();
        }
        current.close();
        WarrengateClient.isDoneWithin(ended, Session.CLOSE_TIMEOUT);
      }
    }
    stop();
    WarrengateClient.isDoneWithin(ended, Session.CLOSE_TIMEOUT);
  }

  private void stop() {
    Stream current;
    lock.lock();
    try {
      closing = true;
      current = stream;
    } finally {
      lock.unlock();
    }
    stopped.complete(null);
    if (current != null) {
      current.cancel();
    }
  }

  /**
   * One subscribe stream. A settlement is written only to the stream that delivered the message, so that a late one
   * cannot settle another message. Its fields are guarded by the lock of the consumer.
   */
  final class Stream extends Session<SubscribeRequest, SubscribeResponse> {
    private SubscribeStart first;
    /** What was delivered and is not settled at the gateway, in the order of delivery. */
    private final Map<Long, Delivery> outstanding = new LinkedHashMap<>();
    private final TreeSet<Long> acks = new TreeSet<>();
    private final ArrayDeque<Nack> nacks = new ArrayDeque<>();
    private final ArrayDeque<ExtendLease> extensions = new ArrayDeque<>();
    private long leaseNanos = lease.toNanos();
    private boolean timerIsSet;
    private Long lastOffset;
    private boolean abandoned;

    Stream() {
      super(Consumer.this.client, queue, MessagingGrpc.getSubscribeMethod(), false);
      var position = resumeFrom == null ? null : StreamPosition.newBuilder().setOffset(resumeFrom).build();
      first = position == null ? start : start.toBuilder().setPosition(position).build();
    }

    @Override
    void opened() {}

    @Override
    SubscribeRequest reauthentication(String text) {
      return SubscribeRequest.newBuilder().setReauthenticate(Reauthenticate.newBuilder().setAccessToken(text)).build();
    }

    @Override
    long gatherNanos() {
      lock.lock();
      try {
        return !acks.isEmpty() && acks.size() < GATHERED && nacks.isEmpty() && !closing && !draining ? GATHER : 0;
      } finally {
        lock.unlock();
      }
    }

    @Override
    long pauseNanos() {
      return 0;
    }

    @Override
    SubscribeRequest nextFrame() {
      lock.lock();
      try {
        var frame = SubscribeRequest.newBuilder();
        if (first != null) {
          frame.setStart(first);
          first = null;
        } else if (!nacks.isEmpty()) {
          frame.setNack(nacks.poll());
        } else if (!acks.isEmpty()) {
          frame.setAck(nextAck());
        } else if (!extensions.isEmpty()) {
          frame.setExtendLease(extensions.poll());
        } else {
          return null;
        }
        return frame.build();
      } finally {
        lock.unlock();
      }
    }

    /** Acknowledges all up to the first delivery that is not done by one number, and the rest by their ids. */
    private Ack nextAck() {
      var ack = Ack.newBuilder();
      for (var ids = outstanding.keySet().iterator(); ids.hasNext(); ) {
        var id = ids.next();
        if (!acks.remove(id)) {
          break;
        }
        ack.setThrough(id);
        ids.remove();
      }
      while (ack.getThrough() == 0 && !acks.isEmpty() && ack.getDeliveryIdsCount() < MAX_IDS) {
        var id = acks.pollFirst();
        ack.addDeliveryIds(id);
        outstanding.remove(id);
      }
      return ack.build();
    }

    @Override
    boolean isDone() {
      lock.lock();
      try {
        return abandoned || acks.isEmpty() && nacks.isEmpty()
            && outstanding.values().stream().allMatch(delivery -> delivery.settled || !delivery.started);
      } finally {
        lock.unlock();
      }
    }

    boolean isSettled(Delivery delivery) {
      lock.lock();
      try {
        return delivery.settled;
      } finally {
        lock.unlock();
      }
    }

    boolean holds(Delivery delivery) {
      lock.lock();
      try {
        return outstanding.get(delivery.value.getDeliveryId()) == delivery;
      } finally {
        lock.unlock();
      }
    }

    void settle(Delivery delivery, Nack.Builder nack) {
      var id = delivery.value.getDeliveryId();
      lock.lock();
      try {
        if (delivery.settled) {
          return;
        }
        delivery.settled = true;
        if (delivery.value.hasStreamOffset() && (lastOffset == null || delivery.value.getStreamOffset() > lastOffset)) {
          lastOffset = delivery.value.getStreamOffset();
        }
        if (outstanding.get(id) != delivery) {
          return;
        }
        if (nack == null) {
          acks.add(id);
        } else {
          outstanding.remove(id);
          nacks.add(nack.addDeliveryIds(id).build());
        }
      } finally {
        lock.unlock();
      }
      wake();
    }

    /**
     * Makes every delivery id void, those messages are delivered again; returns where to continue in a stream queue.
     */
    private Long reset() {
      var position = position();
      outstanding.clear();
      acks.clear();
      nacks.clear();
      extensions.clear();
      ready.clear();
      return position;
    }

    /** The first message of a stream queue that is not settled. */
    private Long position() {
      Long earliest = null;
      for (var delivery : outstanding.values()) {
        var offset = delivery.value.getStreamOffset();
        if (!delivery.settled && delivery.value.hasStreamOffset() && (earliest == null || offset < earliest)) {
          earliest = offset;
        }
      }
      return earliest != null || lastOffset == null ? earliest : Long.valueOf(lastOffset + 1);
    }

    @Override
    void receive(SubscribeResponse response) {
      switch (response.getEventCase()) {
        case DELIVERIES -> take(response.getDeliveries());
        case STARTED -> {
          lock.lock();
          try {
            var granted = Times.duration(response.getStarted().getAckDeadline()).toNanos();
            leaseNanos = granted > 0 ? granted : leaseNanos;
          } finally {
            lock.unlock();
          }
          recovery.works = true;
          client.emit(Event.Kind.CONNECTED, queue, "");
          started.complete(null);
        }
        case SETTLED -> onSettled(response.getSettled());
        case INTERRUPTED -> {
          lock.lock();
          try {
            var position = reset();
            lastOffset = position == null ? null : Long.valueOf(position - 1);
          } finally {
            lock.unlock();
          }
          client.emit(Event.Kind.INTERRUPTED, queue, response.getInterrupted().getReason());
        }
        case RESUMED -> client.emit(Event.Kind.RESUMED, queue, "");
        case AUTH_EXPIRING -> onExpiring();
        case DRAINING -> {
          lock.lock();
          try {
            ready.clear();
            draining = true;
          } finally {
            lock.unlock();
          }
          onDraining(response.getDraining().getDeadline());
        }
        case HEARTBEAT, EVENT_NOT_SET -> { }
      }
    }

    private void take(Deliveries deliveries) {
      var now = System.nanoTime();
      var batch = new ArrayList<Delivery>(deliveries.getDeliveriesCount());
      deliveries.getDeliveriesList().forEach(delivery -> batch.add(new Delivery(this, delivery, now)));
      lock.lock();
      try {
        batch.forEach(delivery -> outstanding.put(delivery.value.getDeliveryId(), delivery));
        if (!timerIsSet) {
          timerIsSet = true;
          client.schedule(leaseNanos / 3, this::extend);
        }
        // What is not started when the stream is about to end is delivered again.
        if (!closing && !draining && !Consumer.this.closing) {
          deliver(batch);
        }
      } finally {
        lock.unlock();
      }
    }

    private void onSettled(Settled settled) {
      var expired = settled.getExpiredDeliveryIdsCount();
      if (expired == 0) {
        return;
      }
      lock.lock();
      try {
        for (var id : settled.getExpiredDeliveryIdsList()) {
          var delivery = outstanding.remove(id);
          acks.remove(id);
          ready.remove(delivery);
        }
      } finally {
        lock.unlock();
      }
      WarrengateClient.LOG.log(Level.WARNING, "{0} leases of {1} expired; the messages are delivered again", expired, queue);
      client.emit(Event.Kind.LEASE_EXPIRED, queue, expired + " messages");
      pumpIfEnding();
    }

    /** An expired lease may have been the last thing that a stream waited for before its end. */
    private void pumpIfEnding() {
      if (closing || draining) {
        wake();
      }
    }

    /** Extends every lease that would end before the next call of this method, unless that exceeds the limit. */
    private void extend() {
      lock.lock();
      try {
        timerIsSet = !outstanding.isEmpty() && !hasEnded();
        if (!timerIsSet) {
          return;
        }
        client.schedule(leaseNanos / 3, this::extend);
        var now = System.nanoTime();
        var extension = ExtendLease.newBuilder();
        for (var delivery : outstanding.values()) {
          var age = now - delivery.receivedAt;
          if (!delivery.settled && age > leaseNanos / 4 && age + leaseNanos <= maxLease) {
            extension.addDeliveryIds(delivery.value.getDeliveryId());
          }
          if (extension.getDeliveryIdsCount() == MAX_IDS) {
            extensions.add(extension.build());
            extension.clear();
          }
        }
        if (extension.getDeliveryIdsCount() > 0) {
          extensions.add(extension.build());
        }
      } finally {
        lock.unlock();
      }
      wake();
    }
  }
}

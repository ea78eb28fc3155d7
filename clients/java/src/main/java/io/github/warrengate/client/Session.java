package io.github.warrengate.client;

import com.google.protobuf.Timestamp;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.time.Instant;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;

/**
 * One stream from its opening to its end. Frames are written by one task at a time, only while the transport is ready
 * for more, and reading never waits for writing.
 */
abstract class Session<RequestT, ResponseT> {
  /** How long a gateway may take to end a stream that was closed. */
  static final Duration CLOSE_TIMEOUT = Duration.ofSeconds(10);
  /** Tolerance for clocks that differ. */
  private static final Duration DRAIN_GRACE = Duration.ofSeconds(2);
  private static final Duration MAX_DRAIN = Duration.ofMinutes(5);
  private static final int READ_AHEAD = 8;

  final WarrengateClient client;
  final String source;
  volatile boolean closing;
  volatile boolean draining;
  volatile ManagedChannel channel;
  volatile Token token;

  private final MethodDescriptor<RequestT, ResponseT> method;
  private final boolean waitsForHeaders;
  private final CompletableFuture<Status> ended = new CompletableFuture<>();
  private final CompletableFuture<Void> cancelled = new CompletableFuture<>();
  private final AtomicReference<Token> newToken = new AtomicReference<>();
  private final AtomicBoolean renewing = new AtomicBoolean();
  private final AtomicBoolean gathering = new AtomicBoolean();
  private final AtomicBoolean pausing = new AtomicBoolean();
  private final AtomicInteger pumps = new AtomicInteger();
  private volatile ClientCall<RequestT, ResponseT> call;
  private volatile boolean open;
  private volatile boolean endedInOrder;
  private volatile Metadata trailers;
  private boolean halfClosed;

  /** With {@code waitsForHeaders} nothing is written before the gateway has accepted the call. */
  Session(WarrengateClient client, String source, MethodDescriptor<RequestT, ResponseT> method, boolean waitsForHeaders) {
    this.client = client;
    this.source = source;
    this.method = method;
    this.waitsForHeaders = waitsForHeaders;
  }

  /** The frame to write now, or null. */
  abstract RequestT nextFrame();

  /** How many nanoseconds to wait before asking for a frame again without a wake-up; 0 for no limit. */
  abstract long pauseNanos();

  /** How long more frames may be gathered before the next one is made, in nanoseconds. */
  abstract long gatherNanos();

  /** Whether nothing more will be written once the session is closing or draining. */
  abstract boolean isDone();

  abstract RequestT reauthentication(String text);

  abstract void opened();

  abstract void receive(ResponseT response);

  /** Opens the stream and serves it until it ends; null when it was closed in order. */
  WarrengateException run() {
    try {
      token = await(client.tokens.get());
      if (token == null) {
        return null;
      }
      channel = client.connection.channel();
      client.connection.prepare(channel);
    } catch (WarrengateException failure) {
      return endedInOrder ? null : failure;
    }
    var started = channel.newCall(method, CallOptions.DEFAULT);
    started.start(new Listener(), authorization(token));
    started.request(READ_AHEAD);
    call = started;
    if (cancelled.isDone()) {
      started.cancel("the stream was to end", null);
    }
    if (!waitsForHeaders) {
      open = true;
      pump();
    }
    var status = ended.join();
    if (endedInOrder) {
      return null;
    }
    if (status.isOk()) {
      return closing || draining ? null : Errors.lost("the gateway ended the stream");
    }
    return Errors.fromStatus(status, trailers, client.endpoint());
  }

  static Metadata authorization(Token token) {
    var headers = new Metadata();
    headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token.text);
    return headers;
  }

  /** The value, or null when the session was cancelled first. */
  private Token await(CompletableFuture<Token> future) {
    try {
      CompletableFuture.anyOf(future, cancelled).join();
    } catch (CompletionException failure) {
      throw WarrengateException.from(failure);
    }
    return future.isDone() ? future.join() : null;
  }

  private final class Listener extends ClientCall.Listener<ResponseT> {
    @Override
    public void onHeaders(Metadata headers) {
      if (waitsForHeaders) {
        open = true;
        opened();
        pump();
      }
    }

    @Override
    public void onMessage(ResponseT response) {
      receive(response);
      call.request(1);
    }

    @Override
    public void onReady() {
      pump();
    }

    @Override
    public void onClose(Status status, Metadata received) {
      trailers = received;
      ended.complete(status);
      cancelled.complete(null);
    }
  }

  boolean hasEnded() {
    return ended.isDone() || cancelled.isDone();
  }

  /** Writes what there is to write, after what is gathered meanwhile. */
  void wake() {
    var pause = gatherNanos();
    if (pause <= 0) {
      pump();
    } else {
      wakeAfter(pause);
    }
  }

  /** Asks for a frame after this time. */
  void wakeAfter(long pause) {
    if (gathering.compareAndSet(false, true)) {
      client.schedule(pause, () -> {
        gathering.set(false);
        gathered();
        pump();
      });
    }
  }

  /** The time for gathering has passed. */
  void gathered() {}

  private void pump() {
    if (pumps.getAndIncrement() == 0) {
      client.execute(this::writeAll);
    }
  }

  private void writeAll() {
    var seen = pumps.get();
    do {
      try {
        write();
      } catch (IllegalStateException ended) {
        // The call was cancelled meanwhile; its listener reports why.
      }
      seen = pumps.addAndGet(-seen);
    } while (seen != 0);
  }

  private void write() {
    var current = call;
    if (current == null || !open || halfClosed) {
      return;
    }
    while (!hasEnded() && current.isReady()) {
      var next = newToken.getAndSet(null);
      if (next != null) {
        token = next;
        current.sendMessage(reauthentication(next.text));
        client.emit(Event.Kind.REAUTHENTICATED, source, "");
        continue;
      }
      var frame = nextFrame();
      if (frame != null) {
        current.sendMessage(frame);
        continue;
      }
      if ((closing || draining) && isDone()) {
        halfClosed = true;
        endWithin(CLOSE_TIMEOUT);
        current.halfClose();
        return;
      }
      var pause = pauseNanos();
      if (pause > 0 && pausing.compareAndSet(false, true)) {
        client.schedule(pause, () -> {
          pausing.set(false);
          pump();
        });
      }
      return;
    }
  }

  /** Ends the stream when everything is written. */
  void close() {
    closing = true;
    pump();
  }

  /** Ends the stream now, in order. */
  void cancel() {
    endedInOrder = true;
    cancelled.complete(null);
    var current = call;
    if (current != null) {
      current.cancel("the stream was to end", null);
    }
  }

  private void endWithin(Duration limit) {
    var timer = client.schedule(limit.toNanos(), this::cancel);
    ended.whenComplete((status, failure) -> timer.cancel(false));
  }

  /** Prepares to leave the gateway. */
  void onDraining(Timestamp deadline) {
    draining = true;
    client.emit(Event.Kind.DRAINING, source, "");
    var left = Duration.between(Instant.now(), Times.instant(deadline));
    left = left.isNegative() ? Duration.ZERO : left;
    endWithin((left.compareTo(MAX_DRAIN) > 0 ? MAX_DRAIN : left).plus(DRAIN_GRACE));
    pump();
  }

  /** Renews the token of the stream. */
  void onExpiring() {
    if (client.tokens.isRenewable() && renewing.compareAndSet(false, true)) {
      client.execute(this::renew);
    }
  }

  private void renew() {
    var backoff = new Backoff();
    while (!hasEnded()) {
      try {
        var next = await(client.tokens.newerThan(token));
        if (next != null) {
          newToken.set(next);
          pump();
        }
        break;
      } catch (WarrengateException failure) {
        WarrengateClient.LOG.log(Level.WARNING, "the token of the stream of {0} could not be renewed: {1}", source, failure.getMessage());
        if (!failure.isRetryable() || WarrengateClient.isDoneWithin(cancelled, backoff.delay(failure.retryAfter().orElse(null)))) {
          break;
        }
      }
    }
    renewing.set(false);
  }
}

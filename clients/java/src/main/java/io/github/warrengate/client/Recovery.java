package io.github.warrengate.client;

import io.grpc.ManagedChannel;
import io.grpc.Status;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;

/** Decides, after a stream ended, whether and when the next one is opened. */
final class Recovery {
  /** Whether the gateway answered usefully since the last failure. */
  volatile boolean works;

  private final WarrengateClient client;
  private final String source;
  private final CompletableFuture<Void> stopped;
  private final Backoff backoff = new Backoff();
  private boolean triedAnotherToken;

  Recovery(WarrengateClient client, String source, CompletableFuture<Void> stopped) {
    this.client = client;
    this.source = source;
    this.stopped = stopped;
  }

  /** Waits until the next stream may be opened, or returns the error against which another stream would not help. */
  WarrengateException after(ManagedChannel channel, Token used, WarrengateException failure) {
    if (works) {
      works = false;
      backoff.reset();
      triedAnotherToken = false;
    }
    if (failure == null || failure.reason().equals(Errors.DRAINING)) {
      client.connection.replace(channel);
      return pause(failure == null ? null : failure.retryAfter().orElse(null));
    }
    var refusal = failure;
    if (failure.code() == Status.Code.UNAUTHENTICATED && used != null && client.tokens.isRenewable() && !triedAnotherToken) {
      try {
        client.tokens.newerThan(used).join();
        triedAnotherToken = true;
        return null;
      } catch (CompletionException error) {
        var tokenFailure = WarrengateException.from(error);
        // Otherwise the refusal says less than the end of the stream did.
        if (tokenFailure.isRetryable() || failure.reason().startsWith("TOKEN_")) {
          refusal = tokenFailure;
        }
      }
    }
    if (!refusal.isRetryable()) {
      return refusal;
    }
    WarrengateClient.LOG.log(Level.INFO, "the stream of {0} ended and is opened again: {1}", source, refusal.getMessage());
    client.emit(Event.Kind.DISCONNECTED, source, refusal.getMessage());
    return pause(refusal.retryAfter().orElse(null));
  }

  private WarrengateException pause(Duration atLeast) {
    return WarrengateClient.isDoneWithin(stopped, backoff.delay(atLeast)) ? Errors.closed("client") : null;
  }
}

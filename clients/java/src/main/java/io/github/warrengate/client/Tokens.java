package io.github.warrengate.client;

import io.github.warrengate.client.WarrengateException.Details;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import warrengate.v1.AuthGrpc;
import warrengate.v1.IssueTokenRequest;

/** The cached token of a client. At most one request for a token is in progress at a time. */
final class Tokens {
  private static final long TIMEOUT_SECONDS = 20;

  private final Connection connection;
  private final Executor executor;
  private final ClientOptions options;
  private Token present;
  private CompletableFuture<Token> fetching;

  Tokens(Connection connection, Executor executor, ClientOptions options) {
    this.connection = connection;
    this.executor = executor;
    this.options = options;
    if (options.token != null) {
      present = Token.ageless(options.token);
    }
  }

  boolean isRenewable() {
    return options.token == null;
  }

  /** A token that has not expired; one that is near its end is renewed in the background. */
  synchronized CompletableFuture<Token> get() {
    var now = System.nanoTime();
    if (present != null && present.isUsable(now)) {
      if (present.isDue(now)) {
        fetch();
      }
      return CompletableFuture.completedFuture(present);
    }
    return fetch();
  }

  /** Another token than this one: the present one when this one was replaced since, else a new one. */
  synchronized CompletableFuture<Token> newerThan(Token old) {
    if (present != null && present != old) {
      return CompletableFuture.completedFuture(present);
    }
    if (!isRenewable()) {
      return CompletableFuture.failedFuture(new Details("TOKEN_EXPIRED", Status.Code.UNAUTHENTICATED,
          "the token has expired and cannot be renewed: connect with a client id and its secret").exception());
    }
    return fetch();
  }

  private synchronized CompletableFuture<Token> fetch() {
    if (fetching == null) {
      var current = new CompletableFuture<Token>();
      fetching = current;
      executor.execute(() -> run(current));
    }
    return fetching;
  }

  private void run(CompletableFuture<Token> current) {
    Token token = null;
    WarrengateException failure = null;
    try {
      token = request();
    } catch (RuntimeException error) {
      failure = Errors.fromThrowable(error, options.endpoint);
    }
    synchronized (this) {
      fetching = null;
      if (token != null) {
        present = token;
      } else if (present != null) {
        WarrengateClient.LOG.log(Level.WARNING, "the token could not be renewed ahead of its end: {0}", failure.getMessage());
      }
    }
    if (token != null) {
      current.complete(token);
    } else {
      current.completeExceptionally(failure);
    }
  }

  private Token request() {
    var began = System.nanoTime();
    if (options.tokenSource != null) {
      try {
        var text = options.tokenSource.fetch();
        return Token.aged(text, began, Token.lifetimeOf(text));
      } catch (Exception error) {
        throw new Details("TOKEN_SOURCE_FAILED", Status.Code.UNAVAILABLE, "the source of tokens failed: " + error.getMessage())
            .retryable(true).cause(error).exception();
      }
    }
    var request = IssueTokenRequest.newBuilder().setClientId(options.clientId).setClientSecret(options.clientSecret);
    if (options.tokenLifetime != null) {
      request.setLifetime(Times.proto(options.tokenLifetime));
    }
    var channel = connection.channel();
    connection.prepare(channel);
    try {
      var response = AuthGrpc.newBlockingStub(channel).withDeadlineAfter(TIMEOUT_SECONDS, TimeUnit.SECONDS).issueToken(request.build());
      // The lifetime is taken from the token itself, so that the clocks need not agree.
      Duration lifetime = Token.lifetimeOf(response.getAccessToken());
      return Token.aged(response.getAccessToken(), began, lifetime == null ? options.tokenLifetime : lifetime);
    } catch (StatusRuntimeException error) {
      throw Errors.fromThrowable(error, options.endpoint);
    }
  }
}

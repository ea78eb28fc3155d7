package io.github.warrengate.client;

import io.github.warrengate.client.WarrengateException.Details;
import io.grpc.Channel;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.Future;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import warrengate.v1.AdminGrpc;
import warrengate.v1.AdminGrpc.AdminBlockingStub;
import warrengate.v1.AuthGrpc;
import warrengate.v1.WhoAmIRequest;
import warrengate.v1.WhoAmIResponse;

/** A connection to a gateway, and everything that uses it. Safe for use by several threads. */
public final class WarrengateClient implements AutoCloseable {
  /** The version of this library. */
  public static final String VERSION = "0.1.0";

  static final Logger LOG = System.getLogger("io.github.warrengate.client");
  /** The longest pause between two attempts to connect, apart from the back-off of the streams. */
  private static final Duration RECONNECT = Duration.ofSeconds(2);
  private static final Duration REQUEST_LIMIT = Duration.ofSeconds(10);
  private static final int RESPOND_CONCURRENCY = 8;
  private static final long IDLE_SECONDS = 5;
  private static final AtomicInteger THREADS = new AtomicInteger();

  final Connection connection;
  final Tokens tokens;
  final Tracing tracing = Tracing.load();
  final Executor handlers;

  private final ClientOptions options;
  private final Executor executor;
  private final ScheduledThreadPoolExecutor timers;
  private final Set<Publisher> publishers = ConcurrentHashMap.newKeySet();
  private final Set<Consumer> consumers = ConcurrentHashMap.newKeySet();
  private final AtomicBoolean closed = new AtomicBoolean();
  private final ArrayDeque<Event> events = new ArrayDeque<>();
  private boolean delivering;
  private final Topology topology = new Topology(this);
  private final DeadLetters deadLetters = new DeadLetters(this);
  private final Object repliesLock = new Object();
  private Replies replies;

  private WarrengateClient(ClientOptions options) {
    options.check();
    this.options = options;
    ThreadFactory threads = task -> {
      var thread = new Thread(task, "warrengate-" + THREADS.incrementAndGet());
      thread.setDaemon(true);
      return thread;
    };
    // Threads end by themselves soon after their last task, so that it needs no shutdown, after which tasks of gRPC
    // would be refused.
    executor = new ThreadPoolExecutor(0, Integer.MAX_VALUE, IDLE_SECONDS, TimeUnit.SECONDS, new SynchronousQueue<>(), threads);
    timers = new ScheduledThreadPoolExecutor(1, threads);
    timers.setRemoveOnCancelPolicy(true);
    timers.setExecuteExistingDelayedTasksAfterShutdownPolicy(false);
    handlers = options.handlerExecutor == null ? this::execute : options.handlerExecutor;
    try {
      connection = new Connection(options, executor);
      tokens = new Tokens(connection, executor, options);
    } catch (RuntimeException failure) {
      timers.shutdownNow();
      throw failure;
    }
    timers.scheduleWithFixedDelay(connection::retryNow, RECONNECT.toMillis(), RECONNECT.toMillis(), TimeUnit.MILLISECONDS);
  }

  /**
   * Connects with the settings of the environment; see {@link ClientOptions#fromEnv}.
   *
   * @return the client
   * @throws WarrengateException if the gateway cannot be reached in time or refuses the credentials
   */
  public static WarrengateClient fromEnv() {
    return connect(ClientOptions.fromEnv());
  }

  /**
   * Connects to a gateway.
   *
   * @param options the address and the identity; not changed afterwards
   * @return the client
   * @throws WarrengateException if the gateway cannot be reached in time or refuses the credentials
   */
  public static WarrengateClient connect(ClientOptions options) {
    var client = new WarrengateClient(options);
    try {
      client.authenticate();
    } catch (RuntimeException failure) {
      client.release();
      throw failure;
    }
    return client;
  }

  /** Reaches the gateway and has it accept the credentials; tries again until the time is over. */
  private void authenticate() {
    var deadline = System.nanoTime() + options.connectTimeout.toNanos();
    var backoff = new Backoff();
    while (true) {
      WarrengateException failure;
      var attempt = new CompletableFuture<Void>();
      executor.execute(() -> {
        try {
          tokens.get().join();
          whoAmI();
          attempt.complete(null);
        } catch (CompletionException | WarrengateException error) {
          attempt.completeExceptionally(WarrengateException.from(error));
        }
      });
      try {
        attempt.get(deadline - System.nanoTime(), TimeUnit.NANOSECONDS);
        return;
      } catch (ExecutionException error) {
        failure = WarrengateException.from(error);
      } catch (TimeoutException late) {
        throw Errors.unreachable(options.endpoint, "no answer came in " + options.connectTimeout.toMillis() + " ms");
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
        throw Errors.interrupted();
      }
      var delay = backoff.delay(failure.retryAfter().orElse(null));
      if (!failure.isRetryable() || System.nanoTime() + delay.toNanos() - deadline >= 0) {
        throw failure;
      }
      try {
        TimeUnit.NANOSECONDS.sleep(delay.toNanos());
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
        throw Errors.interrupted();
      }
    }
  }

  /**
   * Asks the gateway for the identity and the grants of this client.
   *
   * @return the identity
   */
  public WhoAmIResponse whoAmI() {
    return call(AuthGrpc::newBlockingStub, stub -> stub.whoAmI(WhoAmIRequest.getDefaultInstance()));
  }

  /**
   * The exchanges, queues and bindings.
   *
   * @return the topology
   */
  public Topology topology() {
    return topology;
  }

  /**
   * The messages for which no further attempt is made.
   *
   * @return the dead letters
   */
  public DeadLetters deadLetters() {
    return deadLetters;
  }

  /**
   * Makes a call of the administration service, with the client's token and this library's errors.
   *
   * @param <T> the response
   * @param call the call, for example {@code stub -> stub.listTenants(request)}
   * @return the response
   */
  public <T> T admin(Function<AdminBlockingStub, T> call) {
    return call(AdminGrpc::newBlockingStub, call);
  }

  <S extends AbstractStub<S>, T> T call(Function<Channel, S> make, Function<S, T> call) {
    var limit = options.callTimeout.toNanos();
    return attempt(make, stub -> call.apply(stub.withDeadlineAfter(limit, TimeUnit.NANOSECONDS)));
  }

  <S extends AbstractStub<S>, T> T callWithoutLimit(Function<Channel, S> make, Function<S, T> call) {
    return attempt(make, call);
  }

  private <S extends AbstractStub<S>, T> T attempt(Function<Channel, S> make, Function<S, T> call) {
    var triedAnotherToken = false;
    while (true) {
      ensureOpen();
      ManagedChannel channel = connection.channel();
      var token = await(tokens.get());
      try {
        var stub = make.apply(channel).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(Session.authorization(token)));
        return call.apply(stub.withWaitForReady());
      } catch (StatusRuntimeException error) {
        var failure = Errors.fromThrowable(error, options.endpoint);
        if (failure.reason().equals("CONNECTION_LOST") && channel.isShutdown() && !closed.get()) {
          // The connection was replaced before the call began.
          continue;
        }
        if (failure.code() != Status.Code.UNAUTHENTICATED || triedAnotherToken || !tokens.isRenewable()) {
          throw failure;
        }
        triedAnotherToken = true;
        await(tokens.newerThan(token));
      }
    }
  }

  private Token await(CompletableFuture<Token> token) {
    try {
      return token.get(options.callTimeout.toNanos(), TimeUnit.NANOSECONDS);
    } catch (ExecutionException error) {
      throw WarrengateException.from(error);
    } catch (TimeoutException late) {
      throw Errors.timeout("no token came in time");
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw Errors.interrupted();
    }
  }

  /**
   * Makes a publisher for the default exchange, which routes to the queue that the routing key names.
   *
   * @return the publisher
   */
  public Publisher publisher() {
    return publisher(new PublisherOptions());
  }

  /**
   * Makes a publisher.
   *
   * @param settings its settings
   * @return the publisher
   */
  public Publisher publisher(PublisherOptions settings) {
    ensureOpen();
    var publisher = new Publisher(this, settings);
    publishers.add(publisher);
    return publisher;
  }

  /**
   * Calls a handler for each message of a queue, one after the other. Returns when the gateway has accepted the
   * subscription.
   *
   * @param queue the queue
   * @param handler the handler
   * @return the consumer, which works until it is closed or an error ends it
   */
  public Consumer consume(String queue, Handler handler) {
    return consume(queue, handler, new ConsumeOptions());
  }

  /**
   * Calls a handler for each message of a queue. Returns when the gateway has accepted the subscription.
   *
   * @param queue the queue
   * @param handler the handler
   * @param settings the settings of the consumer
   * @return the consumer, which works until it is closed or an error ends it
   */
  public Consumer consume(String queue, Handler handler, ConsumeOptions settings) {
    return start(new Consumer(this, queue, handler, settings));
  }

  /**
   * Opens a consumer without a handler: take its deliveries by iterating, {@link Consumer#next} or
   * {@link Consumer#poll}.
   *
   * @param queue the queue
   * @return the consumer
   */
  public Consumer messages(String queue) {
    return messages(queue, new ConsumeOptions());
  }

  /**
   * Opens a consumer without a handler: take its deliveries by iterating, {@link Consumer#next} or
   * {@link Consumer#poll}.
   *
   * @param queue the queue
   * @param settings the settings of the consumer
   * @return the consumer
   */
  public Consumer messages(String queue, ConsumeOptions settings) {
    return start(new Consumer(this, queue, null, settings));
  }

  private Consumer start(Consumer consumer) {
    ensureOpen();
    consumers.add(consumer);
    consumer.start(options.callTimeout);
    return consumer;
  }

  /**
   * Sends a request to a queue and waits up to 10 s for the reply.
   *
   * @param queue the queue of the responder
   * @param request the request
   * @return the reply
   */
  public CompletableFuture<Message> request(String queue, Message request) {
    return request(queue, request, REQUEST_LIMIT);
  }

  /**
   * Sends a request to a queue. Needs the configure and subscribe grants for {@code reply.#}.
   *
   * @param queue the queue of the responder
   * @param request the request
   * @param limit how long to wait for the reply
   * @return the reply; fails with the reason {@code REQUEST_TIMEOUT} when none came in time
   */
  public CompletableFuture<Message> request(String queue, Message request, Duration limit) {
    Replies current;
    synchronized (repliesLock) {
      if (replies == null) {
        replies = new Replies(this);
      }
      current = replies;
    }
    return current.request(queue, request, limit);
  }

  /**
   * Answers each request of a queue with what the responder returns.
   *
   * @param queue the queue
   * @param responder makes the replies
   * @return the consumer of the requests
   */
  public Consumer respond(String queue, Responder responder) {
    var publisher = publisher();
    return consume(queue, request -> {
      var reply = responder.respond(request);
      var message = request.message();
      if (!message.replyTo().isEmpty()) {
        var id = message.correlationId().isEmpty() ? message.id() : message.correlationId();
        publisher.publishAndWait(message.replyTo(), reply.toBuilder().correlationId(id).build());
      }
    }, new ConsumeOptions().concurrency(RESPOND_CONCURRENCY));
  }

  /** Takes no more messages, waits up to 30 s for handlers and as long for outcomes, and closes the connection. */
  @Override
  public void close() {
    close(Consumer::close, Publisher::close);
  }

  /**
   * Takes no more messages, waits for handlers and outcomes, and closes the connection.
   *
   * @param limit how long to wait for handlers, and then for outcomes
   */
  public void close(Duration limit) {
    close(consumer -> consumer.close(limit), publisher -> publisher.close(limit));
  }

  private void close(java.util.function.Consumer<Consumer> closeConsumer, java.util.function.Consumer<Publisher> closePublisher) {
    if (!closed.compareAndSet(false, true)) {
      return;
    }
    all(List.copyOf(consumers), closeConsumer);
    all(List.copyOf(publishers), closePublisher);
    emit(Event.Kind.CLOSED, "client", "");
    release();
  }

  /** Calls a function with all items at the same time. */
  private <T> void all(List<T> items, java.util.function.Consumer<T> function) {
    var calls = items.stream().map(item -> CompletableFuture.runAsync(() -> function.accept(item), executor)).toList();
    calls.forEach(CompletableFuture::join);
  }

  private void release() {
    connection.close();
    timers.shutdown();
  }

  private void ensureOpen() {
    if (closed.get()) {
      throw Errors.closed("client");
    }
  }

  String endpoint() {
    return options.endpoint;
  }

  void forget(Publisher publisher) {
    publishers.remove(publisher);
  }

  void forget(Consumer consumer) {
    consumers.remove(consumer);
  }

  void execute(Runnable task) {
    executor.execute(task);
  }

  /** Runs a task later, unless the client is closed by then. */
  Future<?> schedule(long nanos, Runnable task) {
    try {
      return timers.schedule(() -> execute(task), nanos, TimeUnit.NANOSECONDS);
    } catch (RejectedExecutionException ended) {
      return CompletableFuture.completedFuture(null);
    }
  }

  void emit(Event.Kind kind, String source, String detail) {
    LOG.log(Level.DEBUG, "{0}: {1} {2}", source, kind, detail);
    if (options.onEvent == null) {
      return;
    }
    synchronized (events) {
      events.add(new Event(kind, source, detail));
      if (delivering) {
        return;
      }
      delivering = true;
    }
    execute(this::deliverEvents);
  }

  private void deliverEvents() {
    while (true) {
      Event event;
      synchronized (events) {
        event = events.poll();
        if (event == null) {
          delivering = false;
          return;
        }
      }
      try {
        options.onEvent.accept(event);
      } catch (RuntimeException failure) {
        LOG.log(Level.WARNING, "the listener of events failed", failure);
      }
    }
  }

  /** Whether a future is done, in whatever way, within a time; an interrupt counts as the end of the time. */
  static boolean isDoneWithin(CompletableFuture<?> future, Duration limit) {
    try {
      future.get(limit.toNanos(), TimeUnit.NANOSECONDS);
    } catch (ExecutionException done) {
      return true;
    } catch (TimeoutException late) {
      return false;
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      return false;
    }
    return true;
  }
}

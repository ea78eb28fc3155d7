package io.github.warrengate.conformance;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.warrengate.client.ClientOptions;
import io.github.warrengate.client.Confirmation;
import io.github.warrengate.client.ConsumeOptions;
import io.github.warrengate.client.Consumer;
import io.github.warrengate.client.DeadLetters;
import io.github.warrengate.client.Delivery;
import io.github.warrengate.client.Message;
import io.github.warrengate.client.Position;
import io.github.warrengate.client.PublishException;
import io.github.warrengate.client.Publisher;
import io.github.warrengate.client.PublisherOptions;
import io.github.warrengate.client.WarrengateClient;
import io.github.warrengate.client.WarrengateException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import warrengate.v1.ExchangeType;
import warrengate.v1.ListTenantsRequest;
import warrengate.v1.Queue;
import warrengate.v1.QueueType;
import warrengate.v1.RetryPolicy;

/** The driver of the Java library; clients/conformance/README.md describes the protocol. */
public final class Driver {
  private static final Gson GSON = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();
  private static final PrintStream OUTPUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);
  private static final ExecutorService TASKS = Executors.newCachedThreadPool(task -> {
    var thread = new Thread(task);
    thread.setDaemon(true);
    return thread;
  });

  private final Map<String, WarrengateClient> clients = new ConcurrentHashMap<>();
  private final Map<String, List<String>> events = new ConcurrentHashMap<>();
  private final Map<String, Publisher> publishers = new ConcurrentHashMap<>();
  private final Map<String, Watched> consumers = new ConcurrentHashMap<>();

  private Driver() {}

  /** A command with defaults for what it omits. */
  private record Command(JsonObject fields) {
    boolean has(String name) {
      return fields.has(name);
    }

    String text(String name) {
      return text(name, "");
    }

    String text(String name, String otherwise) {
      return has(name) ? fields.get(name).getAsString() : otherwise;
    }

    int number(String name, int otherwise) {
      return has(name) ? fields.get(name).getAsInt() : otherwise;
    }

    boolean flag(String name, boolean otherwise) {
      return has(name) ? fields.get(name).getAsBoolean() : otherwise;
    }

    Duration time(String name) {
      return Duration.ofMillis(fields.get(name).getAsLong());
    }
  }

  /** A consumer and what it has received. */
  private static final class Watched {
    private final long work;
    private final JsonArray rules;
    private final Map<String, int[]> keys = new LinkedHashMap<>();
    private final List<Delivery> unsettled = new ArrayList<>();
    private int total;
    private int running;
    private int maxRunning;
    private int maxAttempt;
    private Message last;
    private Consumer consumer;

    Watched(Command command) {
      work = command.number("work_ms", 0);
      rules = command.has("rules") ? command.fields().getAsJsonArray("rules") : new JsonArray();
    }

    synchronized Command arrive(Delivery delivery) {
      var key = keyOf(delivery.message());
      var seen = keys.computeIfAbsent(key, name -> new int[2]);
      seen[0]++;
      seen[1] = Math.max(seen[1], delivery.attempt());
      total++;
      maxAttempt = Math.max(maxAttempt, delivery.attempt());
      last = delivery.message();
      running++;
      maxRunning = Math.max(maxRunning, running);
      for (var element : rules) {
        var rule = new Command(element.getAsJsonObject());
        if (key.startsWith(rule.text("prefix")) && delivery.attempt() <= rule.number("attempts", Integer.MAX_VALUE)) {
          return rule;
        }
      }
      return new Command(JsonParser.parseString("{\"then\": \"ack\"}").getAsJsonObject());
    }

    synchronized void leave() {
      running--;
    }

    void handle(Delivery delivery) throws Exception {
      var rule = arrive(delivery);
      try {
        Thread.sleep(work);
        switch (rule.text("then")) {
          case "fail" -> throw new IllegalStateException("the case wants this handler to fail");
          case "stuck" -> new CountDownLatch(1).await();
          default -> settle(delivery, rule);
        }
      } finally {
        leave();
      }
    }

    static void settle(Delivery delivery, Command rule) {
      switch (rule.text("then")) {
        case "retry" -> {
          if (rule.has("delay_ms")) {
            delivery.retry(rule.time("delay_ms"), rule.text("reason"));
          } else {
            delivery.retry(rule.text("reason"));
          }
        }
        case "dead_letter" -> delivery.deadLetter(rule.text("reason"));
        case "drop" -> delivery.drop();
        default -> { }
      }
    }

    void iterate(int concurrency) {
      var slots = new Semaphore(concurrency);
      for (var delivery : consumer) {
        slots.acquireUninterruptibly();
        if (work == 0) {
          process(delivery, slots);
        } else {
          TASKS.execute(() -> process(delivery, slots));
        }
      }
    }

    private void process(Delivery delivery, Semaphore slots) {
      var rule = arrive(delivery);
      try {
        Thread.sleep(work);
        switch (rule.text("then")) {
          case "hold" -> {
            synchronized (this) {
              unsettled.add(delivery);
            }
          }
          case "fail" -> delivery.retry();
          case "ack" -> delivery.ack();
          default -> settle(delivery, rule);
        }
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
      } finally {
        leave();
        slots.release();
      }
    }

    synchronized Map<String, Object> settleAll() {
      unsettled.forEach(Delivery::ack);
      var count = unsettled.size();
      unsettled.clear();
      return Map.of("count", count);
    }

    synchronized Map<String, Object> report(boolean full) {
      var result = new LinkedHashMap<String, Object>();
      result.put("total", total);
      result.put("distinct", keys.size());
      result.put("running", running);
      result.put("max_running", maxRunning);
      result.put("max_attempt", maxAttempt);
      result.put("finished", consumer.ended().isDone());
      result.put("error", consumer.error().map(Driver::describe).orElse(null));
      if (!full) {
        return result;
      }
      var all = new ArrayList<List<Object>>();
      keys.forEach((key, seen) -> all.add(List.of(key, seen[0], seen[1])));
      result.put("keys", all);
      if (last != null && last.bodyBuffer().remaining() < 1000) {
        result.put("last", toJson(last));
      }
      return result;
    }
  }

  private static String keyOf(Message message) {
    return keyOf(message.text());
  }

  private static String keyOf(String body) {
    var separator = body.indexOf(':');
    return separator < 0 ? body : body.substring(0, separator);
  }

  private static Map<String, Object> toJson(Message message) {
    var headers = new LinkedHashMap<String, Object>();
    message.headers().forEach((name, value) ->
        headers.put(name, value instanceof byte[] raw ? Map.of("bytes", Base64.getEncoder().encodeToString(raw)) : value));
    var result = new LinkedHashMap<String, Object>();
    result.put("body", message.text());
    result.put("message_id", message.id());
    result.put("correlation_id", message.correlationId());
    result.put("reply_to", message.replyTo());
    result.put("content_type", message.contentType());
    result.put("type", message.type());
    result.put("app_id", message.appId());
    result.put("priority", message.priority());
    result.put("headers", headers);
    return result;
  }

  private static Message toMessage(JsonObject given) {
    var fields = new Command(given);
    var message = Message.builder().body(fields.text("body")).id(fields.text("message_id"))
        .correlationId(fields.text("correlation_id")).replyTo(fields.text("reply_to")).contentType(fields.text("content_type"))
        .type(fields.text("type")).appId(fields.text("app_id")).priority(fields.number("priority", 0));
    if (fields.has("headers")) {
      given.getAsJsonObject("headers").entrySet().forEach(entry -> message.header(entry.getKey(), toHeader(entry.getValue())));
    }
    return message.build();
  }

  private static Object toHeader(JsonElement value) {
    if (value.isJsonNull()) {
      return null;
    }
    if (value.isJsonArray()) {
      return value.getAsJsonArray().asList().stream().map(Driver::toHeader).toList();
    }
    if (value.isJsonObject()) {
      var fields = value.getAsJsonObject();
      if (fields.size() == 1 && fields.has("bytes")) {
        return Base64.getDecoder().decode(fields.get("bytes").getAsString());
      }
      var table = new LinkedHashMap<String, Object>();
      fields.entrySet().forEach(entry -> table.put(entry.getKey(), toHeader(entry.getValue())));
      return table;
    }
    var simple = value.getAsJsonPrimitive();
    if (simple.isBoolean()) {
      return simple.getAsBoolean();
    }
    if (simple.isString()) {
      return simple.getAsString();
    }
    return simple.getAsString().contains(".") ? (Object) simple.getAsDouble() : (Object) simple.getAsLong();
  }

  private Object execute(Command command) throws Exception {
    var client = clients.get(command.text("client"));
    return switch (command.text("do")) {
      case "hello" -> Map.of("protocol", 1, "language", "java", "library", WarrengateClient.VERSION);
      case "connect" -> connect(command);
      case "close" -> {
        if (command.has("timeout_ms")) {
          client.close(command.time("timeout_ms"));
        } else {
          client.close();
        }
        yield Map.of();
      }
      case "events" -> {
        var seen = events.get(command.text("client"));
        synchronized (seen) {
          yield Map.of("events", List.copyOf(seen));
        }
      }
      case "whoami" -> {
        var identity = client.whoAmI();
        yield Map.of("tenant", identity.getTenant(), "client_id", identity.getClientId());
      }
      case "publisher" -> publisher(client, command);
      case "publish" -> publish(publishers.get(command.text("publisher")), command);
      case "publish_message" -> {
        var message = toMessage(command.fields().getAsJsonObject("message"));
        var sent = publishers.get(command.text("publisher")).publishAndWait(command.text("routing_key"), message);
        yield Map.of("outcome", "CONFIRMED", "message_id", sent.messageId());
      }
      case "consume" -> consume(client, command);
      case "settle_held" -> consumers.get(command.text("consumer")).settleAll();
      case "report" -> consumers.get(command.text("consumer")).report(command.flag("full", false));
      case "stop" -> {
        var consumer = consumers.get(command.text("consumer")).consumer;
        if (command.has("timeout_ms")) {
          consumer.close(command.time("timeout_ms"));
        } else {
          consumer.close();
        }
        yield Map.of();
      }
      case "respond" -> {
        client.respond(command.text("queue"), request -> Message.text(request.message().text().toUpperCase(Locale.ROOT)));
        yield Map.of();
      }
      case "request" -> Map.of("body",
          client.request(command.text("routing_key"), Message.text(command.text("body")), command.time("timeout_ms")).join().text());
      default -> plain(client, command);
    };
  }

  /** The calls of topology, dead letters and administration. */
  private static Object plain(WarrengateClient client, Command command) {
    var topology = client.topology();
    var name = command.text("name");
    switch (command.text("do")) {
      case "declare_queue" -> topology.declareQueue(queue(command));
      case "declare_exchange" ->
          topology.declareExchange(name, ExchangeType.valueOf("EXCHANGE_TYPE_" + command.text("type").toUpperCase(Locale.ROOT)));
      case "bind" -> topology.bind(command.text("source"), command.text("destination"), command.text("routing_key"));
      case "delete_queue" -> {
        return Map.of("count", topology.deleteQueue(name));
      }
      case "purge_queue" -> {
        return Map.of("count", topology.purgeQueue(name));
      }
      case "queue_status" -> {
        var status = topology.queueStatus(name);
        return Map.of("ready", status.getMessagesReady(), "consumers", status.getConsumers());
      }
      case "list_queues" -> {
        var names = new ArrayList<String>();
        topology.queues().forEach(entry -> names.add(entry.getQueue().getName()));
        return Map.of("names", names);
      }
      case "list_tenants" -> {
        var tenants = client.admin(stub -> stub.listTenants(ListTenantsRequest.getDefaultInstance())).getTenantsList();
        return Map.of("names", tenants.stream().map(tenant -> tenant.getId()).toList());
      }
      case "dead_letters" -> {
        var letters = new ArrayList<Map<String, Object>>();
        client.deadLetters().list(command.text("queue")).forEach(letter -> letters.add(Map.of(
            "key", keyOf(letter.getMessage().getBody().toStringUtf8()), "code", letter.getCode(),
            "reason", letter.getReason(), "attempts", letter.getAttempts())));
        return Map.of("dead_letters", letters);
      }
      case "redrive" -> {
        var done = client.deadLetters().redrive(DeadLetters.ofQueue(command.text("queue")), 0);
        return Map.of("redriven", done.getRedriven(), "failed", done.getFailed());
      }
      case "purge_dead_letters" -> {
        return Map.of("purged", client.deadLetters().purge(DeadLetters.ofQueue(command.text("queue"))));
      }
      default -> throw new IllegalArgumentException("the driver has no command " + command.text("do"));
    }
    return Map.of();
  }

  private static Queue queue(Command command) {
    var queue = Queue.newBuilder().setName(command.text("name"))
        .setType(QueueType.valueOf("QUEUE_TYPE_" + command.text("type", "quorum").toUpperCase(Locale.ROOT)))
        .setMaxLength(command.number("max_length", 0)).setMaxDeliveryAttempts(command.number("max_delivery_attempts", 0));
    var policy = RetryPolicy.newBuilder();
    if (command.has("retry_min_ms")) {
      policy.setMinBackoff(proto(command.time("retry_min_ms")));
    }
    if (command.has("retry_max_ms")) {
      policy.setMaxBackoff(proto(command.time("retry_max_ms")));
    }
    if (command.has("retry_min_ms") || command.has("retry_max_ms")) {
      queue.setRetryPolicy(policy);
    }
    return queue.build();
  }

  private static com.google.protobuf.Duration proto(Duration time) {
    return com.google.protobuf.Duration.newBuilder().setSeconds(time.getSeconds()).setNanos(time.getNano()).build();
  }

  private Object connect(Command command) {
    var name = command.text("client");
    ClientOptions options;
    if (command.flag("from_env", false)) {
      options = ClientOptions.fromEnv();
    } else {
      var environment = System.getenv();
      options = new ClientOptions().endpoint(command.text("endpoint", environment.get("WARRENGATE_ENDPOINT")))
          .caFile(Path.of(command.text("ca", environment.get("WARRENGATE_CA"))));
      if (command.has("token")) {
        options.token(command.text("token"));
      } else {
        options.credentials(command.text("client_id", environment.get("WARRENGATE_CLIENT_ID")),
            command.text("client_secret", environment.get("WARRENGATE_CLIENT_SECRET")));
      }
    }
    if (command.has("token_lifetime_ms")) {
      options.tokenLifetime(command.time("token_lifetime_ms"));
    }
    if (command.has("connect_timeout_ms")) {
      options.connectTimeout(command.time("connect_timeout_ms"));
    }
    var seen = events.computeIfAbsent(name, key -> new ArrayList<>());
    options.onEvent(event -> {
      synchronized (seen) {
        seen.add(event.kind().name().toLowerCase(Locale.ROOT));
      }
    });
    clients.put(name, WarrengateClient.connect(options));
    return Map.of();
  }

  private Object publisher(WarrengateClient client, Command command) {
    var options = new PublisherOptions().exchange(command.text("exchange")).retryThrottled(command.flag("retry_throttled", true));
    if (command.has("max_in_flight")) {
      options.maxInFlight(command.number("max_in_flight", 0));
    }
    if (command.has("batch_messages")) {
      options.batchMessages(command.number("batch_messages", 0));
    }
    if (command.has("timeout_ms")) {
      options.timeout(command.time("timeout_ms"));
    }
    publishers.put(command.text("publisher"), client.publisher(options));
    return Map.of();
  }

  private record Sent(String key, CompletableFuture<Confirmation> future) {}

  private static Object publish(Publisher publisher, Command command) throws InterruptedException {
    var all = new ArrayList<Sent>();
    var peak = 0;
    for (var number = 0; number < command.number("count", 0); number++) {
      var key = command.text("prefix") + "-" + number;
      var dots = command.number("size", 0) - key.length() - 1;
      var body = command.has("size") ? key + ":" + ".".repeat(Math.max(dots, 0)) : key;
      all.add(new Sent(key, publisher.publish(command.text("routing_key"), Message.text(body))));
      peak = Math.max(peak, publisher.inFlight());
      Thread.sleep(command.number("interval_ms", 0));
    }
    var outcomes = new LinkedHashMap<String, Integer>();
    var failed = new ArrayList<Map<String, Object>>();
    for (var sent : all) {
      var outcome = "CONFIRMED";
      try {
        sent.future().join();
      } catch (CompletionException error) {
        var failure = WarrengateException.from(error);
        if (!(failure instanceof PublishException refusal)) {
          throw failure;
        }
        outcome = refusal.outcome().name();
        var item = new LinkedHashMap<String, Object>();
        item.put("key", sent.key());
        item.put("outcome", outcome);
        item.put("reason", refusal.reason());
        item.put("retry_after_ms", refusal.retryAfter().map(Duration::toMillis).orElse(null));
        item.put("message_id", refusal.messageId());
        failed.add(item);
      }
      outcomes.merge(outcome, 1, Integer::sum);
    }
    return Map.of("outcomes", outcomes, "failed", failed, "peak_in_flight", peak);
  }

  private Object consume(WarrengateClient client, Command command) {
    var watched = new Watched(command);
    var options = new ConsumeOptions();
    if (command.has("concurrency")) {
      options.concurrency(command.number("concurrency", 1));
    }
    if (command.has("window")) {
      options.window(command.number("window", 0));
    }
    if (command.has("lease_ms")) {
      options.lease(command.time("lease_ms"));
    }
    if (command.has("max_lease_ms")) {
      options.maxLease(command.time("max_lease_ms"));
    }
    if (command.has("position")) {
      options.position(Map.of("first", Position.FIRST, "last", Position.LAST, "next", Position.NEXT).get(command.text("position")));
    }
    if (command.text("form").equals("iterator")) {
      watched.consumer = client.messages(command.text("queue"), options);
      TASKS.execute(() -> watched.iterate(command.number("concurrency", 1)));
    } else {
      watched.consumer = client.consume(command.text("queue"), watched::handle, options);
    }
    consumers.put(command.text("consumer"), watched);
    return Map.of();
  }

  private static Map<String, Object> describe(Throwable error) {
    var failure = WarrengateException.from(error);
    var result = new LinkedHashMap<String, Object>();
    result.put("reason", failure.reason());
    result.put("code", failure.code().name());
    result.put("retryable", failure.isRetryable());
    result.put("retry_after_ms", failure.retryAfter().map(Duration::toMillis).orElse(null));
    result.put("message", failure.getMessage());
    return result;
  }

  private void answer(JsonObject line) {
    var answer = new LinkedHashMap<String, Object>();
    answer.put("id", line.has("id") ? line.get("id") : JsonNull.INSTANCE);
    try {
      answer.put("ok", execute(new Command(line)));
    } catch (Exception error) { // every error is an answer
      answer.put("error", describe(error));
    }
    synchronized (OUTPUT) {
      OUTPUT.println(GSON.toJson(answer));
      OUTPUT.flush();
    }
  }

  /**
   * Reads commands until standard input ends.
   *
   * @param arguments none
   * @throws IOException when standard input cannot be read
   */
  public static void main(String[] arguments) throws IOException {
    var driver = new Driver();
    try (var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
      for (var line = input.readLine(); line != null; line = input.readLine()) {
        var command = JsonParser.parseString(line).getAsJsonObject();
        TASKS.execute(() -> driver.answer(command));
      }
    }
    var closing = driver.clients.values().stream()
        .map(client -> CompletableFuture.runAsync(() -> client.close(Duration.ofSeconds(2)), TASKS)).toList();
    closing.forEach(CompletableFuture::join);
  }
}

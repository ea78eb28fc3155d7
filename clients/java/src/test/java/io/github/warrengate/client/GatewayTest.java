package io.github.warrengate.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.warrengate.junit.TestTenant;
import io.github.warrengate.junit.WarrengateExtension;
import io.grpc.Status;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.sdk.testing.junit5.OpenTelemetryExtension;
import io.opentelemetry.sdk.trace.data.SpanData;
import java.io.IOException;
import java.lang.ref.WeakReference;
import java.nio.file.Files;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.api.extension.RegisterExtension;
import warrengate.v1.Binding;
import warrengate.v1.DeadLetterFilter;
import warrengate.v1.DeadLetterSelection;
import warrengate.v1.ExchangeType;
import warrengate.v1.GetQueueRequest;
import warrengate.v1.ListPlansRequest;
import warrengate.v1.Queue;
import warrengate.v1.QueueType;

/** The library against a real gateway and broker. */
@ExtendWith(WarrengateExtension.class)
@Timeout(120)
class GatewayTest {
  @RegisterExtension
  static final OpenTelemetryExtension TELEMETRY = OpenTelemetryExtension.create();

  private static final Duration LIMIT = Duration.ofSeconds(30);

  private static <T> T within(CompletableFuture<T> future) throws Exception {
    return future.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
  }

  private static void publish(WarrengateClient client, String queue, String... bodies) {
    try (var publisher = client.publisher()) {
      for (var body : bodies) {
        publisher.publishAndWait(queue, Message.text(body));
      }
    }
  }

  @Test
  void oneTokenServesAllCallsThatBeginTogether(TestTenant tenant, WarrengateClient issuer) throws Exception {
    var requests = new AtomicInteger();
    var options = new ClientOptions().endpoint(tenant.endpoint()).ca(Files.readAllBytes(tenant.ca())).tokenSource(() -> {
      requests.incrementAndGet();
      return issuer.tokens.get().join().text;
    });
    try (var client = WarrengateClient.connect(options)) {
      var calls = IntStream.range(0, 20).mapToObj(number -> CompletableFuture.supplyAsync(client::whoAmI)).toList();
      for (var call : calls) {
        assertEquals(tenant.name(), within(call).getTenant());
      }
    }
    assertEquals(1, requests.get());
  }

  @Test
  void aTokenSourceThatFailsIsARetryableError(TestTenant tenant) {
    var options = new ClientOptions().endpoint(tenant.endpoint()).caFile(tenant.ca()).connectTimeout(Duration.ofMillis(500))
        .tokenSource(() -> {
          throw new IOException("the token server is down");
        });
    var error = assertThrows(WarrengateException.class, () -> WarrengateClient.connect(options));
    assertEquals("TOKEN_SOURCE_FAILED", error.reason());
    assertTrue(error.isRetryable());
    assertTrue(error.getMessage().contains("the token server is down"), error.getMessage());
  }

  @Test
  void topologyCallsReachTheBroker(WarrengateClient client) {
    var topology = client.topology();
    topology.declareExchange("events", ExchangeType.EXCHANGE_TYPE_HEADERS);
    topology.declareExchange("more", ExchangeType.EXCHANGE_TYPE_FANOUT);
    topology.declareQueue(Queue.newBuilder().setName("q").setMessageTtl(Times.proto(Duration.ofHours(1))).build());
    var binding = Binding.newBuilder().setSource("events").setDestination("q").putHeaders("kind", Message.toValue("order")).build();
    topology.bind(binding);
    topology.bind("more", "q", "");
    var declared = topology.call(stub -> stub.getQueue(GetQueueRequest.newBuilder().setName("q").build())).getQueue();
    assertEquals(3600, declared.getMessageTtl().getSeconds());
    try (var publisher = client.publisher(new PublisherOptions().exchange("events"))) {
      publisher.publishAndWait("", Message.builder().body("x").header("kind", "order").build());
      var error = assertThrows(PublishException.class, () -> publisher.publishAndWait("", Message.text("x")));
      assertEquals(Outcome.UNROUTABLE, error.outcome());
    }
    try (var publisher = client.publisher(new PublisherOptions().exchange("events").allowUnroutable(true))) {
      publisher.publishAndWait("", Message.text("x"));
    }
    assertEquals(1, topology.queueStatus("q").getMessagesReady());
    assertEquals(1, topology.purgeQueue("q"));
    topology.unbind(binding);
    topology.deleteExchange("more");
    assertEquals(0, topology.deleteQueue("q"));
    assertFalse(topology.queues().iterator().hasNext());
    var error = assertThrows(WarrengateException.class, () -> topology.queueStatus("q"));
    assertEquals("QUEUE_NOT_FOUND", error.reason());
    assertEquals(Status.Code.NOT_FOUND, error.code());
    assertFalse(error.isRetryable());
  }

  @Test
  void aHandlerSettlesInEveryWay(WarrengateClient client) throws Exception {
    var seen = ConcurrentHashMap.<String>newKeySet();
    var all = Set.of("again 1", "again 2", "bad 1", "useless 1", "last 1");
    var done = new CountDownLatch(1);
    client.topology().declareQueue(Queue.newBuilder().setName("q").setType(QueueType.QUEUE_TYPE_QUORUM)
        .setRetryPolicy(warrengate.v1.RetryPolicy.newBuilder().setMinBackoff(Times.proto(Duration.ofSeconds(60)))).build());
    publish(client, "q", "again", "bad", "useless", "last");
    Handler handler = delivery -> {
      var body = delivery.message().text();
      if (body.equals("again") && delivery.attempt() == 1) {
        delivery.retry(Duration.ofMillis(200), "not yet");
      } else if (body.equals("bad")) {
        delivery.deadLetter("bad");
        assertTrue(delivery.isSettled());
        assertFalse(delivery.isCurrent());
        delivery.ack();
      } else if (body.equals("useless")) {
        delivery.drop();
      }
      seen.add(body + " " + delivery.attempt());
      if (seen.equals(all)) {
        done.countDown();
      }
      if (body.equals("last")) {
        throw new IllegalStateException("fails");
      }
    };
    try (var consumer = client.consume("q", handler, new ConsumeOptions().concurrency(2).window(10).priority(1).maxBytes(1 << 20))) {
      assertTrue(done.await(LIMIT.toSeconds(), TimeUnit.SECONDS), seen.toString());
      assertEquals("q", consumer.queue());
      assertTrue(consumer.error().isEmpty());
      assertFalse(consumer.ended().isDone());
    }
    var reasons = new ArrayList<String>();
    client.deadLetters().list("q").forEach(letter -> reasons.add(letter.getReason()));
    assertEquals(List.of("bad"), reasons);
    assertEquals(1, client.deadLetters().purge(DeadLetters.ofQueue("q")));
  }

  @Test
  void deliveriesAreTakenOneByOneAndByIterating(WarrengateClient client) throws Exception {
    client.topology().declareQueue("q");
    try (var consumer = client.messages("q")) {
      assertTrue(consumer.poll(Duration.ofMillis(50)).isEmpty());
      publish(client, "q", "1", "2", "3");
      var first = consumer.next();
      assertEquals("1", first.message().text());
      assertEquals("q", first.routingKey());
      assertEquals("", first.exchange());
      assertTrue(first.streamOffset().isEmpty());
      assertFalse(first.isRedelivered());
      assertTrue(first.isCurrent());
      first.ack();
      consumer.poll(LIMIT).orElseThrow().ack();
      for (var delivery : consumer) {
        assertEquals("3", delivery.message().text());
        delivery.ack();
        CompletableFuture.runAsync(consumer::close);
      }
      within(consumer.ended());
      assertEquals("CLOSED", assertThrows(WarrengateException.class, consumer::next).reason());
    }
    assertEquals(0, client.topology().queueStatus("q").getMessagesReady());
  }

  @Test
  void aConsumerReportsTheErrorThatEndedIt(WarrengateClient client) {
    client.topology().declareQueue("q");
    var consumer = client.messages("q");
    client.topology().deleteQueue("q");
    var error = assertThrows(CompletionException.class, () -> consumer.ended().join());
    assertEquals("QUEUE_DELETED", WarrengateException.from(error).reason());
    assertEquals("QUEUE_DELETED", assertThrows(WarrengateException.class, consumer::next).reason());
    assertEquals("QUEUE_DELETED", assertThrows(WarrengateException.class, () -> consumer.poll(LIMIT)).reason());
    assertEquals("QUEUE_DELETED", assertThrows(WarrengateException.class, () -> consumer.iterator().hasNext()).reason());
    consumer.close();
  }

  @Test
  void aRequestIsAnsweredAndAnExceptionOfThePublisherReachesTheCaller(WarrengateClient client) throws Exception {
    client.topology().declareQueue("q");
    client.respond("q", request -> Message.text(new StringBuilder(request.message().text()).reverse().toString()));
    assertEquals("cba", within(client.request("q", Message.text("abc"))).text());
    var unanswered = client.request("nowhere", Message.text("abc"));
    var error = assertThrows(CompletionException.class, unanswered::join);
    assertEquals("NO_ROUTE", WarrengateException.from(error).reason());
  }

  @Test
  void aRefusedConnectionLeavesNoThread(TestTenant tenant) throws Exception {
    var before = Thread.getAllStackTraces().keySet();
    var error = assertThrows(WarrengateException.class, () -> WarrengateClient.connect(tenant.options().credentials(tenant.clientId(), "wrong")));
    assertEquals("INVALID_CLIENT_CREDENTIALS", error.reason());
    for (var thread : Thread.getAllStackTraces().keySet()) {
      if (!before.contains(thread) && thread.getName().startsWith("warrengate-")) {
        thread.join(LIMIT.toMillis());
        assertFalse(thread.isAlive(), thread.getName());
      }
    }
  }

  @Test
  void anInterruptedThreadDoesNotWaitForAFullPublisher(WarrengateClient client) {
    client.topology().declareQueue("q");
    try (var publisher = client.publisher(new PublisherOptions().maxInFlight(1).maxInFlightBytes(1000).timeout(LIMIT))) {
      Thread.currentThread().interrupt();
      // A confirmation takes longer than the next call, so that one of the first calls meets a full publisher.
      CompletableFuture<Confirmation> refused;
      do {
        refused = publisher.publish("q", Message.bytes(new byte[2000]));
      } while (!refused.isCompletedExceptionally());
      assertTrue(Thread.interrupted());
      assertEquals("INTERRUPTED", WarrengateException.from(assertThrows(CompletionException.class, refused::join)).reason());
      publisher.publishAndWait("q", Message.text("next"));
      publisher.flush().join();
      assertEquals(0, publisher.inFlight());
    }
  }

  /** Publishes a message, and returns a reference to its body that does not keep it in memory. */
  private static WeakReference<Object> confirmedBody(Publisher publisher) {
    var message = Message.bytes(new byte[1000]);
    publisher.publishAndWait("q", message);
    return new WeakReference<>(message.proto().getBody());
  }

  @Test
  void aConfirmedMessageIsNotKeptUntilItsDeadline(WarrengateClient client) {
    client.topology().declareQueue("q");
    try (var publisher = client.publisher(new PublisherOptions().timeout(Duration.ofHours(1)))) {
      var body = confirmedBody(publisher);
      var deadline = System.nanoTime() + LIMIT.toNanos();
      while (body.get() != null && System.nanoTime() < deadline) {
        System.gc();
      }
      assertNull(body.get(), "the publisher keeps a confirmed message");
    }
  }

  @Test
  void messagesAreTracedFromProducerToConsumer(WarrengateClient client) throws Exception {
    TELEMETRY.clearSpans();
    client.topology().declareQueue("q");
    publish(client, "q", "x");
    try (var publisher = client.publisher()) {
      assertThrows(PublishException.class, () -> publisher.publishAndWait("nowhere", Message.text("x")));
    }
    var traced = new CompletableFuture<String>();
    var consumer = client.consume("q", delivery -> traced.complete(Span.current().getSpanContext().getTraceId()));
    within(traced);
    consumer.close();
    var sent = span("publish q");
    var processed = span("process q");
    assertEquals(sent.getTraceId(), within(traced));
    assertEquals(sent.getSpanId(), processed.getParentSpanId());
    assertEquals(sent.getSpanId(), processed.getLinks().get(0).getSpanContext().getSpanId());
    assertEquals("NO_ROUTE", span("publish nowhere").getAttributes().get(AttributeKey.stringKey("error.type")));
  }

  private static SpanData span(String name) {
    return TELEMETRY.getSpans().stream().filter(span -> span.getName().equals(name)).findFirst()
        .orElseThrow(() -> new AssertionError(name + " is not among " + TELEMETRY.getSpans()));
  }

  @Test
  void aStreamQueueIsReadFromAnyPosition(WarrengateClient client) throws Exception {
    client.topology().declareQueue(Queue.newBuilder().setName("s").setType(QueueType.QUEUE_TYPE_STREAM).build());
    publish(client, "s", IntStream.range(0, 10).mapToObj(String::valueOf).toArray(String[]::new));
    for (var position : List.of(Position.offset(6), Position.since(Instant.now().minusSeconds(3600)), Position.FIRST)) {
      try (var consumer = client.messages("s", new ConsumeOptions().position(position))) {
        var delivery = consumer.poll(LIMIT).orElseThrow();
        assertEquals(String.valueOf(delivery.streamOffset().getAsLong()), delivery.message().text());
        assertEquals(position.value.hasOffset() ? 6 : 0, delivery.streamOffset().getAsLong());
      }
    }
  }

  @Test
  void deadLettersAreRedrivenByTheirIds(WarrengateClient client) throws Exception {
    client.topology().declareQueue("q");
    publish(client, "q", "a", "b");
    try (var consumer = client.messages("q")) {
      consumer.next().deadLetter("bad");
      consumer.next().deadLetter("bad");
    }
    var filter = DeadLetterFilter.newBuilder().setCode("rejected").build();
    var ids = new ArrayList<String>();
    var deadline = System.nanoTime() + LIMIT.toNanos();
    while (ids.size() < 2 && System.nanoTime() - deadline < 0) {
      ids.clear();
      client.deadLetters().list(filter).forEach(letter -> ids.add(letter.getDeadLetterId()));
    }
    assertEquals(2, ids.size());
    var done = client.deadLetters().redrive(DeadLetterSelection.newBuilder().addDeadLetterIds(ids.get(0)).build(), 100);
    assertEquals(List.of(1L, 0L), List.of(done.getRedriven(), done.getFailed()));
    assertEquals(1, client.deadLetters().purge(DeadLetters.ofQueue("q")));
    assertEquals(1, client.topology().queueStatus("q").getMessagesReady());
  }

  @Test
  void administrationIsRefusedToAClientWithoutTheGrant(WarrengateClient client) {
    var error = assertThrows(WarrengateException.class, () -> client.admin(stub -> stub.listPlans(ListPlansRequest.getDefaultInstance())));
    assertEquals(Status.Code.PERMISSION_DENIED, error.code());
  }

  @Test
  void closingInterruptsAHandlerAtItsLimit(TestTenant tenant) throws Exception {
    var events = new CopyOnWriteArrayList<Event.Kind>();
    var started = new CountDownLatch(1);
    var interrupted = new CountDownLatch(1);
    var executor = Executors.newCachedThreadPool();
    var client = WarrengateClient.connect(tenant.options().handlerExecutor(executor).callTimeout(LIMIT).onEvent(event -> {
      events.add(event.kind());
      throw new IllegalStateException("a listener that fails changes nothing");
    }));
    client.topology().declareQueue("q");
    publish(client, "q", "x");
    var consumer = client.consume("q", delivery -> {
      started.countDown();
      try {
        new CountDownLatch(1).await();
      } finally {
        interrupted.countDown();
      }
    });
    assertTrue(started.await(LIMIT.toSeconds(), TimeUnit.SECONDS));
    assertEquals(1, consumer.running());
    client.close(Duration.ofMillis(100));
    assertTrue(interrupted.await(LIMIT.toSeconds(), TimeUnit.SECONDS));
    executor.shutdown();
    client.close();
    assertTrue(consumer.ended().isDone());
    assertEquals("CLOSED", assertThrows(WarrengateException.class, client::publisher).reason());
    assertEquals("CLOSED", assertThrows(WarrengateException.class, () -> client.messages("q")).reason());
    assertTrue(events.contains(Event.Kind.CONNECTED), events.toString());
  }

  @Test
  void theEnvironmentOfATenantConnectsItsClient(TestTenant tenant) {
    try (var client = WarrengateClient.connect(ClientOptions.from(tenant.environment()))) {
      assertEquals(tenant.clientId(), client.whoAmI().getClientId());
    }
    assertFalse(tenant.toString().contains(tenant.clientSecret()));
  }
}

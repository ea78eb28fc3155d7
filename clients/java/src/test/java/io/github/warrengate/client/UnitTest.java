package io.github.warrengate.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.net.ConnectException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.CertificateException;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import warrengate.v1.PublishResult;

/** What needs no gateway: conversions, configuration and errors. */
class UnitTest {
  private static WarrengateException refused(ClientOptions options) {
    return assertThrows(WarrengateException.class, () -> WarrengateClient.connect(options));
  }

  private static ClientOptions options() {
    return new ClientOptions().endpoint("https://localhost:1").credentials("a", "b");
  }

  @Test
  void everyPropertyAndHeaderTypeSurvivesTheConversion() {
    var table = new HashMap<String, Object>();
    table.put("text", "x");
    table.put("number", -(1L << 62));
    table.put("real", 0.5);
    table.put("yes", true);
    table.put("nothing", null);
    table.put("moment", Instant.ofEpochSecond(1_767_312_000));
    table.put("list", List.of(1L, "two", List.of(false)));
    table.put("table", Map.of("inner", Map.of("deep", 1L)));
    table.put("empty", Map.of());
    var message = Message.builder().body("x").id("i").correlationId("c").replyTo("r").contentType("text/plain").contentEncoding("gzip")
        .type("t").appId("a").priority(4).ttl(Duration.ofMillis(1500)).setTransient(true).publishTime(Instant.ofEpochSecond(1_767_312_000))
        .headers(table).build();
    assertEquals(table, message.headers());
    assertEquals(List.of("x", "i", "c", "r", "text/plain", "gzip", "t", "a"), List.of(message.text(), message.id(), message.correlationId(),
        message.replyTo(), message.contentType(), message.contentEncoding(), message.type(), message.appId()));
    assertEquals(4, message.priority());
    assertEquals(Optional.of(Duration.ofMillis(1500)), message.ttl());
    assertEquals(Optional.of(Instant.ofEpochSecond(1_767_312_000)), message.publishTime());
    assertTrue(message.isTransient());
    assertEquals(message, message.toBuilder().build());
    assertEquals(message.hashCode(), message.toBuilder().build().hashCode());
    assertEquals(Optional.empty(), Message.text("").ttl());
    assertEquals(Optional.empty(), Message.text("").publishTime());
  }

  @Test
  void bytesAreCopiedIntoAMessageAndOutOfIt() {
    var bytes = new byte[] {0, -1};
    var message = Message.builder().body(bytes).header("raw", bytes).build();
    bytes[0] = 7;
    message.body()[0] = 7;
    assertTrue(Arrays.equals(new byte[] {0, -1}, message.body()));
    assertTrue(Arrays.equals(new byte[] {0, -1}, (byte[]) message.headers().get("raw")));
    assertEquals(2, message.bodyBuffer().remaining());
    assertThrows(UnsupportedOperationException.class, () -> message.headers().put("x", 1));
  }

  @Test
  void aHeaderOfAnotherTypeIsRefused() {
    var error = assertThrows(WarrengateException.class, () -> Message.builder().header("x", new Object()));
    assertEquals("CONFIGURATION", error.reason());
    assertTrue(error.getMessage().contains("java.lang.Object"), error.getMessage());
  }

  @Test
  void anErrorOfTheGatewayKeepsReasonFieldTraceAndTime() {
    var info = ErrorInfo.newBuilder().setReason("TOO_MANY_STREAMS").setDomain("warrengate").putMetadata("trace_id", "t");
    var retry = RetryInfo.newBuilder().setRetryDelay(com.google.protobuf.Duration.newBuilder().setSeconds(1).setNanos(500_000_000));
    var bad = BadRequest.newBuilder().addFieldViolations(BadRequest.FieldViolation.newBuilder().setField("queue"));
    var status = com.google.rpc.Status.newBuilder().setCode(Status.Code.RESOURCE_EXHAUSTED.value()).setMessage("too many")
        .addDetails(Any.pack(info.build())).addDetails(Any.pack(retry.build())).addDetails(Any.pack(bad.build())).build();
    var error = Errors.fromThrowable(StatusProto.toStatusRuntimeException(status), "https://x");
    assertEquals("TOO_MANY_STREAMS", error.reason());
    assertEquals(Status.Code.RESOURCE_EXHAUSTED, error.code());
    assertEquals(Optional.of(Duration.ofMillis(1500)), error.retryAfter());
    assertEquals("queue", error.field());
    assertEquals("t", error.traceId());
    assertTrue(error.isRetryable());
    assertEquals("too many [TOO_MANY_STREAMS]", error.getMessage());
    assertEquals("too many [TOO_MANY_STREAMS]", error.details().exception().getMessage());
  }

  private static void assertConnectionError(Status status, String reason, boolean retryable) {
    var error = Errors.fromStatus(status, new Metadata(), "https://x");
    assertEquals(reason, error.reason());
    assertEquals(retryable, error.isRetryable());
  }

  @Test
  void anErrorOfTheConnectionIsDistinguishedFromOneOfTheGateway() {
    assertConnectionError(Status.UNAVAILABLE.withCause(new ConnectException("Connection refused: /127.0.0.1:1")), "GATEWAY_UNREACHABLE", true);
    assertConnectionError(Status.UNAVAILABLE.withDescription("GOAWAY"), "CONNECTION_LOST", true);
    assertConnectionError(Status.INTERNAL.withDescription("RST_STREAM"), "CONNECTION_LOST", true);
    assertConnectionError(Status.UNAVAILABLE.withCause(new IOException(new CertificateException("PKIX"))), "CERTIFICATE_NOT_TRUSTED", false);
    assertConnectionError(Status.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT", true);
    assertConnectionError(Status.CANCELLED.withCause(new InterruptedException()), "INTERRUPTED", true);
    assertConnectionError(Status.UNIMPLEMENTED.withDescription("unknown method"), "", false);
  }

  private static PublishException outcome(warrengate.v1.Outcome outcome, String reason) {
    return Errors.fromResult(PublishResult.newBuilder().setOutcome(outcome).setReason(reason).build(), "id");
  }

  @Test
  void outcomesBecomeTypedErrors() {
    var throttled = Errors.fromResult(PublishResult.newBuilder().setOutcome(warrengate.v1.Outcome.OUTCOME_THROTTLED)
        .setReason("MESSAGE_RATE: too fast").setRetryAfter(Times.proto(Duration.ofMillis(250))).build(), "id");
    assertEquals(Outcome.THROTTLED, throttled.outcome());
    assertEquals("MESSAGE_RATE", throttled.reason());
    assertEquals(Optional.of(Duration.ofMillis(250)), throttled.retryAfter());
    assertEquals("id", throttled.messageId());
    assertTrue(throttled.isRetryable());
    assertFalse(outcome(warrengate.v1.Outcome.OUTCOME_UNROUTABLE, "NO_ROUTE: no queue").isRetryable());
    assertTrue(outcome(warrengate.v1.Outcome.OUTCOME_REJECTED, "BROKER_REJECTED: full").isRetryable());
    assertFalse(outcome(warrengate.v1.Outcome.OUTCOME_REJECTED, "MESSAGE_TOO_LARGE").isRetryable());
    assertEquals(Outcome.DENIED, outcome(warrengate.v1.Outcome.OUTCOME_DENIED, "PUBLISH_NOT_GRANTED: no").outcome());
    assertTrue(outcome(warrengate.v1.Outcome.OUTCOME_UNKNOWN, "BROKER_UNREACHABLE").isRetryable());
  }

  @ParameterizedTest
  @ValueSource(strings = {"", "gateway:8443", "ftp://x:1", "https://x:1/path", "http://example.org:8443", "https://a b"})
  void aMalformedEndpointIsAConfigurationError(String endpoint) {
    assertEquals("CONFIGURATION", refused(options().endpoint(endpoint)).reason());
  }

  @Test
  void anUnusableCaIsAConfigurationError(@TempDir Path folder) throws IOException {
    var file = folder.resolve("ca.pem");
    assertTrue(refused(options().caFile(file)).getMessage().contains("ca.pem"));
    Files.writeString(file, "no certificate");
    var error = refused(options().caFile(file));
    assertEquals("CONFIGURATION", error.reason());
    assertTrue(error.getMessage().contains("ca.pem"), error.getMessage());
    assertEquals("CONFIGURATION", refused(options().ca(new byte[0])).reason());
  }

  @Test
  void missingCredentialsAreAConfigurationError() {
    assertEquals("CONFIGURATION", refused(options().credentials("a", "")).reason());
  }

  @Test
  void theEnvironmentGivesEverythingAndNamesWhatIsMissing() {
    var error = assertThrows(WarrengateException.class, () -> ClientOptions.from(Map.of()));
    assertTrue(error.getMessage().contains("WARRENGATE_ENDPOINT"), error.getMessage());
    var options = ClientOptions.from(Map.of("WARRENGATE_ENDPOINT", "https://x", "WARRENGATE_CA", "ca.pem", "WARRENGATE_TOKEN", "t"));
    assertEquals(Path.of("ca.pem"), options.caFile);
    assertEquals("t", options.token);
  }

  @Test
  void limitsBelowOneAreConfigurationErrors() {
    assertThrows(WarrengateException.class, () -> new PublisherOptions().maxInFlight(0));
    assertThrows(WarrengateException.class, () -> new PublisherOptions().maxInFlightBytes(0));
    assertThrows(WarrengateException.class, () -> new PublisherOptions().batchMessages(-1));
    assertThrows(WarrengateException.class, () -> new ConsumeOptions().concurrency(0));
  }

  @Test
  void theBackOffGrowsWithJitterUpToItsLimitAndRespectsTheGateway() {
    var backoff = new Backoff();
    var delays = new ArrayList<Long>();
    for (var number = 0; number < 12; number++) {
      delays.add(backoff.delay(null).toMillis());
    }
    assertTrue(delays.get(0) >= 50 && delays.get(0) <= 100, delays.toString());
    assertTrue(delays.subList(9, 12).stream().allMatch(delay -> delay >= 2500 && delay <= 5000), delays.toString());
    backoff.reset();
    assertEquals(Duration.ofSeconds(3), backoff.delay(Duration.ofSeconds(3)));
    assertEquals(Duration.ofMinutes(1), backoff.delay(Duration.ofHours(3)));
  }

  @Test
  void theLifetimeOfATokenIsReadFromIt() {
    var claims = Base64.getUrlEncoder().withoutPadding().encodeToString("{\"iat\":100,\"exp\": 160}".getBytes(StandardCharsets.UTF_8));
    assertEquals(Duration.ofSeconds(60), Token.lifetimeOf("a." + claims + ".c"));
    assertNull(Token.lifetimeOf("opaque"));
    assertNull(Token.lifetimeOf("a.b.c"));
    assertNull(Token.lifetimeOf("a.!.c"));
    var token = Token.aged("text", 0, Duration.ofSeconds(100));
    assertTrue(token.isUsable(97_000_000_000L));
    assertFalse(token.isUsable(99_000_000_000L));
    assertFalse(token.isDue(59_000_000_000L));
    assertTrue(token.isDue(76_000_000_000L));
    assertTrue(Token.aged("text", 0, null).isUsable(Long.MAX_VALUE));
  }

  @Test
  void secretsAndBodiesAreInNoText() {
    assertFalse(Token.ageless("secret").toString().contains("secret"));
    assertFalse(Message.text("secret").toString().contains("secret"));
  }

  @Test
  void aReasonIsCutToWhatTheGatewayAccepts() {
    assertEquals("", Delivery.shorten(null));
    assertEquals("short", Delivery.shorten("short"));
    var cut = Delivery.shorten("€".repeat(1000));
    assertEquals(341, cut.length());
    assertEquals(1023, cut.getBytes(StandardCharsets.UTF_8).length);
    assertEquals(512, Delivery.shorten("\uD83D\uDE00".repeat(1000)).length());
  }

  @Test
  void theErrorInsideAnExceptionOfAFutureIsFound() {
    var error = Errors.closed("client");
    var future = CompletableFuture.failedFuture(error);
    var thrown = assertThrows(CompletionException.class, future::join);
    assertEquals(error, WarrengateException.from(thrown));
    var foreign = WarrengateException.from(new CompletionException(new IOException("x")));
    assertInstanceOf(IOException.class, foreign.getCause());
    assertEquals("", foreign.reason());
  }

  @Test
  void pagesAreFetchedWhenTheyAreNeeded() {
    var fetched = new ArrayList<String>();
    var pages = new Pages<Integer>(token -> {
      fetched.add(token);
      return token.isEmpty() ? new Pages.Page<>(List.of(1, 2), "next") : new Pages.Page<>(List.of(3), "");
    });
    var iterator = pages.iterator();
    assertEquals(1, iterator.next());
    assertEquals(List.of(""), fetched);
    var rest = new ArrayList<Integer>();
    iterator.forEachRemaining(rest::add);
    assertEquals(List.of(2, 3), rest);
    assertThrows(java.util.NoSuchElementException.class, iterator::next);
  }

  @Test
  void theVersionIsThatOfTheArtifact() throws IOException {
    var artifact = "<artifactId>warrengate-client</artifactId>\n  <version>" + WarrengateClient.VERSION + "</version>";
    assertTrue(Files.readString(Path.of("pom.xml")).contains(artifact));
  }
}

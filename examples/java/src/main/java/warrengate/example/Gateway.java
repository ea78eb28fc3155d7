package warrengate.example;

import com.google.protobuf.Duration;
import io.grpc.*;
import io.grpc.stub.BlockingClientCall;
import io.opentelemetry.api.GlobalOpenTelemetry;
import io.opentelemetry.context.Context;
import java.io.File;
import java.util.*;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.*;
import warrengate.v1.*;
import warrengate.v1.Value;

/** Warrengate for an application: one connection, a cached token, publishing and consuming that survive a restart. */
final class Gateway {
  private static final long AGAIN = 200; // milliseconds before a stream is opened again
  private static final long FRAME = 1000; // the maximum number of messages in a frame
  private static final Duration RETRY_AFTER = Duration.newBuilder().setSeconds(4).build(); // the broker keeps the message meanwhile

  private final ManagedChannel channel;
  private IssueTokenResponse cached = IssueTokenResponse.getDefaultInstance();
  private final MessagingGrpc.MessagingBlockingV2Stub messaging;
  final TopologyGrpc.TopologyBlockingV2Stub topology;

  Gateway() throws Exception {
    var ca = TlsChannelCredentials.newBuilder().trustManager(new File(System.getenv("WARRENGATE_CA"))).build();
    channel = Grpc.newChannelBuilder(System.getenv("WARRENGATE_ENDPOINT").replaceFirst("^https://", ""), ca)
        .keepAliveTime(15, TimeUnit.SECONDS).keepAliveTimeout(10, TimeUnit.SECONDS).build();
    var authorized = new CallCredentials() {
      @Override public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
        executor.execute(() -> {
          var metadata = new Metadata();
          metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token());
          applier.apply(metadata);
        });
      }
    };
    messaging = MessagingGrpc.newBlockingV2Stub(channel).withCallCredentials(authorized).withWaitForReady();
    topology = TopologyGrpc.newBlockingV2Stub(channel).withCallCredentials(authorized).withWaitForReady();
  }

  private synchronized String token() {
    // A stream that is told that its token expires needs a newer one, a minute ahead.
    if (cached.getExpires().getSeconds() - System.currentTimeMillis() / 1000 > 120) return cached.getAccessToken();
    var who = IssueTokenRequest.newBuilder()
        .setClientId(System.getenv("WARRENGATE_CLIENT_ID")).setClientSecret(System.getenv("WARRENGATE_CLIENT_SECRET"));
    cached = AuthGrpc.newBlockingStub(channel).withWaitForReady().issueToken(who.build());
    return cached.getAccessToken();
  }

  /** A message for this queue. Its id lets consumers recognise a message that was sent twice. */
  static Publication publication(long sequence, String queue, String body) {
    var message = Message.newBuilder().setBody(com.google.protobuf.ByteString.copyFromUtf8(body))
        .setMessageId(UUID.randomUUID().toString()).setContentType("text/plain");
    // Consumers continue the current trace, if there is one.
    GlobalOpenTelemetry.getPropagators().getTextMapPropagator().inject(Context.current(), message,
        (carrier, name, value) -> carrier.putHeaders(name, Value.newBuilder().setStringValue(value).build()));
    return Publication.newBuilder().setSequence(sequence).setRoutingKey(queue).setMessage(message).build();
  }

  /** Publishes all messages in order, over as many streams as needed, and reports each with its final outcome. */
  void publish(List<Publication> publications, BiConsumer<Publication, Outcome> report) throws Exception {
    var waiting = new TreeMap<Long, Publication>();
    publications.forEach(publication -> waiting.put(publication.getSequence(), publication));
    for (var pause = AGAIN; !waiting.isEmpty(); Thread.sleep(pause)) {
      var stream = messaging.publish();
      try {
        var frame = Publications.newBuilder().addAllPublications(waiting.values().stream().limit(FRAME).toList());
        stream.write(PublishRequest.newBuilder().setPublications(frame).build());
        stream.halfClose();
        for (var response = stream.read(); response != null; response = stream.read()) {
          for (var result : response.getResults().getResultsList()) {
            pause = Math.max(AGAIN, result.getRetryAfter().getSeconds() * 1000 + result.getRetryAfter().getNanos() / 1_000_000);
            // UNKNOWN may be stored, THROTTLED is not: both are sent again, with the same id.
            if (result.getOutcome() == Outcome.OUTCOME_UNKNOWN || result.getOutcome() == Outcome.OUTCOME_THROTTLED) continue;
            report.accept(waiting.remove(result.getSequence()), result.getOutcome());
          }
        }
      } catch (StatusException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) throw error;
      }
    }
  }

  /** Passes each delivery to {@code handle}, which returns how to reject it (UNSPECIFIED: acknowledge), while {@code more}. */
  void consume(String queue, Function<Delivery, NackAction> handle, BooleanSupplier more) throws Exception {
    for (; more.getAsBoolean(); Thread.sleep(AGAIN)) {
      var stream = messaging.subscribe();
      try {
        stream.write(SubscribeRequest.newBuilder().setStart(SubscribeStart.newBuilder().setQueue(queue)).build());
        for (var response = stream.read(); response != null; response = stream.read()) {
          switch (response.getEventCase()) {
            case DELIVERIES -> {
              var ack = Ack.newBuilder();
              for (var delivery : response.getDeliveries().getDeliveriesList()) {
                reject(stream, delivery, handle.apply(delivery));
                ack.setThrough(delivery.getDeliveryId());
              }
              // One acknowledgement for the frame; rejected deliveries are settled already.
              stream.write(SubscribeRequest.newBuilder().setAck(ack).build());
              if (!more.getAsBoolean()) stream.halfClose(); // the gateway settles, returns the rest and ends the stream
            }
            case AUTH_EXPIRING -> {
              var newer = Reauthenticate.newBuilder().setAccessToken(token());
              stream.write(SubscribeRequest.newBuilder().setReauthenticate(newer).build());
              System.out.println("token renewed");
            }
            case DRAINING -> stream.halfClose(); // the next stream reaches another gateway
            default -> { }
          }
        }
      } catch (StatusException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) throw error;
      }
    }
  }

  private static void reject(BlockingClientCall<SubscribeRequest, ?> stream, Delivery delivery, NackAction action)
      throws Exception {
    if (action == NackAction.NACK_ACTION_UNSPECIFIED) return;
    var nack = Nack.newBuilder().addDeliveryIds(delivery.getDeliveryId()).setAction(action).setReason("as the scenario says");
    if (action == NackAction.NACK_ACTION_RETRY) nack.setDelay(RETRY_AFTER);
    stream.write(SubscribeRequest.newBuilder().setNack(nack).build());
  }
}

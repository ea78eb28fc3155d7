package warrengate.example;

import com.google.protobuf.Duration;
import io.grpc.*;
import io.grpc.stub.BlockingClientCall;
import io.opentelemetry.api.GlobalOpenTelemetry;
import io.opentelemetry.context.Context;
import java.io.File;
import java.util.*;
import java.util.concurrent.Executor;
import java.util.function.*;
import warrengate.v1.*;
import warrengate.v1.Value;

/** What an application needs of Warrengate: one connection, tokens, publishing and consuming that outlive a gateway. */
final class Gateway {
  private static final long AGAIN = 200; // milliseconds before a stream is opened again
  private static final Duration RETRY_AFTER = Duration.newBuilder().setSeconds(4).build(); // the broker keeps the message meanwhile

  private final ManagedChannel channel;
  private final MessagingGrpc.MessagingBlockingV2Stub messaging;
  final TopologyGrpc.TopologyBlockingV2Stub topology;

  Gateway() throws Exception {
    var ca = TlsChannelCredentials.newBuilder().trustManager(new File(System.getenv("WARRENGATE_CA"))).build();
    channel = Grpc.newChannelBuilder(System.getenv("WARRENGATE_ENDPOINT").replaceFirst("^https://", ""), ca).build();
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

  private String token() {
    var who = IssueTokenRequest.newBuilder()
        .setClientId(System.getenv("WARRENGATE_CLIENT_ID")).setClientSecret(System.getenv("WARRENGATE_CLIENT_SECRET"));
    return AuthGrpc.newBlockingStub(channel).withWaitForReady().issueToken(who.build()).getAccessToken();
  }

  /** To the queue of that name. The id is the caller's, so that a message sent twice can be recognised. */
  static Publication publication(long sequence, String queue, String body) {
    var message = Message.newBuilder().setBody(com.google.protobuf.ByteString.copyFromUtf8(body))
        .setMessageId(UUID.randomUUID().toString()).setContentType("text/plain");
    // The caller's trace goes on in whoever consumes the message.
    GlobalOpenTelemetry.getPropagators().getTextMapPropagator().inject(Context.current(), message,
        (carrier, name, value) -> carrier.putHeaders(name, Value.newBuilder().setStringValue(value).build()));
    return Publication.newBuilder().setSequence(sequence).setRoutingKey(queue).setMessage(message).build();
  }

  /** Publishes all, over as many streams as it takes, and reports each with its final outcome. */
  void publish(List<Publication> publications, BiConsumer<Publication, Outcome> report) throws Exception {
    var waiting = new TreeMap<Long, Publication>();
    publications.forEach(publication -> waiting.put(publication.getSequence(), publication));
    for (; !waiting.isEmpty(); Thread.sleep(AGAIN)) {
      var stream = messaging.publish();
      try {
        var frame = Publications.newBuilder().addAllPublications(waiting.values());
        stream.write(PublishRequest.newBuilder().setPublications(frame).build());
        stream.halfClose();
        for (var response = stream.read(); response != null; response = stream.read()) {
          for (var result : response.getResults().getResultsList()) {
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

  /** Hands each delivery to {@code handle}, which says what becomes of it (UNSPECIFIED: done), while {@code more} is wanted. */
  void consume(String queue, Function<Delivery, NackAction> handle, BooleanSupplier more) throws Exception {
    for (; more.getAsBoolean(); Thread.sleep(AGAIN)) {
      var stream = messaging.subscribe();
      try {
        stream.write(SubscribeRequest.newBuilder().setStart(SubscribeStart.newBuilder().setQueue(queue)).build());
        for (var response = stream.read(); response != null; response = stream.read()) {
          switch (response.getEventCase()) {
            case DELIVERIES -> {
              for (var delivery : response.getDeliveries().getDeliveriesList()) settle(stream, delivery, handle.apply(delivery));
              if (!more.getAsBoolean()) stream.halfClose(); // the gateway settles, hands back the rest and ends the stream
            }
            case AUTH_EXPIRING -> {
              var newer = Reauthenticate.newBuilder().setAccessToken(token());
              stream.write(SubscribeRequest.newBuilder().setReauthenticate(newer).build());
              System.out.println("token renewed");
            }
            case DRAINING -> stream.halfClose(); // and the next stream reaches another gateway
            default -> { }
          }
        }
      } catch (StatusException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) throw error;
      }
    }
  }

  private static void settle(BlockingClientCall<SubscribeRequest, ?> stream, Delivery delivery, NackAction action)
      throws Exception {
    var id = delivery.getDeliveryId();
    var frame = SubscribeRequest.newBuilder();
    if (action == NackAction.NACK_ACTION_UNSPECIFIED) frame.setAck(Ack.newBuilder().addDeliveryIds(id));
    else {
      var nack = Nack.newBuilder().addDeliveryIds(id).setAction(action).setReason("as the scenario says");
      if (action == NackAction.NACK_ACTION_RETRY) nack.setDelay(RETRY_AFTER);
      frame.setNack(nack);
    }
    stream.write(frame.build());
  }
}

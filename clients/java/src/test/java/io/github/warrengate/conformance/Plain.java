package io.github.warrengate.conformance;

import com.google.gson.Gson;
import com.google.protobuf.ByteString;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.File;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import warrengate.v1.Ack;
import warrengate.v1.AuthGrpc;
import warrengate.v1.IssueTokenRequest;
import warrengate.v1.Message;
import warrengate.v1.MessagingGrpc;
import warrengate.v1.Outcome;
import warrengate.v1.PublishRequest;
import warrengate.v1.PublishResponse;
import warrengate.v1.Publication;
import warrengate.v1.Publications;
import warrengate.v1.SubscribeRequest;
import warrengate.v1.SubscribeResponse;
import warrengate.v1.SubscribeStart;

/**
 * Publishes and consumes with grpc-java and its default settings: one message a frame, one acknowledgement a frame.
 *
 * <p>Arguments: QUEUE COUNT. clients/conformance/plain/README.md describes the environment and the output.
 */
public final class Plain {
  private static final Object END = new Object();

  private Plain() {}

  /** Runs both halves and prints a line of JSON. */
  public static void main(String[] arguments) throws Exception {
    var queue = arguments[0];
    var count = Integer.parseInt(arguments[1]);
    var authority = TlsChannelCredentials.newBuilder().trustManager(new File(System.getenv("WARRENGATE_CA"))).build();
    var address = System.getenv("WARRENGATE_ENDPOINT").replace("https://", "");
    ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(address, authority);
    ManagedChannel channel = builder.build();
    var request = IssueTokenRequest.newBuilder()
        .setClientId(System.getenv("WARRENGATE_CLIENT_ID"))
        .setClientSecret(System.getenv("WARRENGATE_CLIENT_SECRET"))
        .build();
    var token = AuthGrpc.newBlockingStub(channel).issueToken(request).getAccessToken();
    var metadata = new Metadata();
    metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    var stub = MessagingGrpc.newStub(channel).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata));

    var version = new File(Grpc.class.getProtectionDomain().getCodeSource().getLocation().toURI())
        .getName().replaceAll("grpc-api|\\.jar", "").replace('-', ' ');
    var answer = new LinkedHashMap<String, Object>();
    answer.put("library", "grpc-java" + version);
    var began = System.nanoTime();
    answer.put("throttled", publish(stub, queue, count));
    var published = System.nanoTime();
    consume(stub, queue, count, answer);
    answer.put("publish_seconds", seconds(published - began));
    answer.put("consume_seconds", seconds(System.nanoTime() - published));
    System.out.println(new Gson().toJson(answer));
    channel.shutdownNow();
  }

  private static int publish(MessagingGrpc.MessagingStub stub, String queue, int count) throws Exception {
    var events = new Events<PublishResponse>();
    StreamObserver<PublishRequest> frames = stub.publish(events);
    long sequence = 0;
    var throttled = 0;
    for (var toSend = count; toSend > 0; ) {
      var unanswered = toSend;
      for (; toSend > 0; toSend--) {
        sequence++;
        var message = Message.newBuilder().setBody(ByteString.copyFromUtf8(Long.toString(sequence)));
        var publication = Publication.newBuilder().setSequence(sequence).setRoutingKey(queue).setMessage(message);
        // Whether the call is ready is ignored, as by a program that does not know of it.
        frames.onNext(PublishRequest.newBuilder().setPublications(Publications.newBuilder().addPublications(publication)).build());
      }
      long pause = 0;
      while (unanswered > 0) {
        for (var result : events.next().getResults().getResultsList()) {
          unanswered--;
          if (result.getOutcome() == Outcome.OUTCOME_THROTTLED) {
            toSend++;
            var delay = result.getRetryAfter();
            pause = Math.max(pause, delay.getSeconds() * 1000 + delay.getNanos() / 1_000_000 + 1);
          } else if (result.getOutcome() != Outcome.OUTCOME_CONFIRMED) {
            throw new IllegalStateException(result.toString());
          }
        }
      }
      throttled += toSend;
      Thread.sleep(pause);
    }
    frames.onCompleted();
    events.end();
    return throttled;
  }

  private static void consume(MessagingGrpc.MessagingStub stub, String queue, int count, Map<String, Object> answer) throws Exception {
    var events = new Events<SubscribeResponse>();
    StreamObserver<SubscribeRequest> frames = stub.subscribe(events);
    frames.onNext(SubscribeRequest.newBuilder().setStart(SubscribeStart.newBuilder().setQueue(queue)).build());
    var attempts = new TreeMap<Integer, Integer>();
    long last = 0;
    var inOrder = true;
    for (var delivered = 0; delivered < count; ) {
      var event = events.next();
      if (event.hasSettled()) {
        throw new IllegalStateException("an acknowledgement had no effect: " + event);
      }
      for (var delivery : event.getDeliveries().getDeliveriesList()) {
        delivered++;
        attempts.merge(delivery.getAttempt(), 1, Integer::sum);
        var body = Long.parseLong(delivery.getMessage().getBody().toStringUtf8());
        inOrder &= body > last;
        last = body;
        frames.onNext(SubscribeRequest.newBuilder().setAck(Ack.newBuilder().addDeliveryIds(delivery.getDeliveryId())).build());
      }
    }
    frames.onCompleted();
    events.end();
    answer.put("attempts", attempts);
    answer.put("in_order", inOrder);
  }

  private static double seconds(long nanoseconds) {
    return Math.round(nanoseconds / 1e8) / 10.0;
  }

  /** What a stream receives, for a thread that waits. */
  private static final class Events<T> implements StreamObserver<T> {
    private final BlockingQueue<Object> received = new LinkedBlockingQueue<>();

    @Override
    public void onNext(T event) {
      received.add(event);
    }

    @Override
    public void onError(Throwable error) {
      received.add(error);
    }

    @Override
    public void onCompleted() {
      received.add(END);
    }

    @SuppressWarnings("unchecked")
    T next() throws Exception {
      var event = received.take();
      if (event == END) {
        throw new IllegalStateException("the stream ended");
      }
      if (event instanceof Throwable error) {
        throw new IllegalStateException(error);
      }
      return (T) event;
    }

    /** Waits for the orderly end. */
    void end() throws Exception {
      var event = received.take();
      if (event != END) {
        throw new IllegalStateException("the stream did not end: " + event);
      }
    }
  }
}

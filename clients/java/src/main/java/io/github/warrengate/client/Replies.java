package io.github.warrengate.client;

import java.time.Duration;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import warrengate.v1.Queue;
import warrengate.v1.QueueType;

/** The reply queue of a client, and the requests that wait for it. */
final class Replies {
  private static final Duration EXPIRY = Duration.ofMinutes(5);
  private static final int CONCURRENCY = 32;

  private final WarrengateClient client;
  private final String queue = "reply." + UUID.randomUUID().toString().replace("-", "");
  private final Publisher publisher;
  private final Map<String, CompletableFuture<Message>> waiting = new ConcurrentHashMap<>();

  Replies(WarrengateClient client) {
    this.client = client;
    // Deleted by the broker when the client is gone.
    client.topology().declareQueue(
        Queue.newBuilder().setName(queue).setType(QueueType.QUEUE_TYPE_CLASSIC).setExpires(Times.proto(EXPIRY)).build());
    publisher = client.publisher();
    client.consume(queue, this::take, new ConsumeOptions().concurrency(CONCURRENCY));
  }

  private void take(Delivery delivery) {
    var waiter = waiting.get(delivery.message().correlationId());
    if (waiter != null) {
      client.execute(() -> waiter.complete(delivery.message()));
    }
  }

  CompletableFuture<Message> request(String destination, Message message, Duration limit) {
    var id = UUID.randomUUID().toString();
    var reply = new CompletableFuture<Message>();
    waiting.put(id, reply);
    var timer = client.schedule(limit.toNanos(), () -> reply.completeExceptionally(Errors.timeout("no reply came in time")));
    reply.whenComplete((received, failure) -> {
      waiting.remove(id);
      timer.cancel(false);
    });
    var ttl = Duration.ofMillis(Math.max(limit.toMillis(), 1));
    publisher.publish(destination, message.toBuilder().correlationId(id).replyTo(queue).ttl(ttl).build())
        .whenComplete((confirmation, failure) -> {
          if (failure != null) {
            reply.completeExceptionally(WarrengateException.from(failure));
          }
        });
    return reply;
  }
}

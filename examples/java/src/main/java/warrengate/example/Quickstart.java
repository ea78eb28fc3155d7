package warrengate.example;

import com.google.gson.Gson;
import io.github.warrengate.client.*;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;

/** Warrengate in Java: a queue, publishing, consuming, a retry and a dead letter. ../README.md says how to run it. */
final class Quickstart {
  private static final Duration RETRY_AFTER = Duration.ofSeconds(4); // the broker keeps the message meanwhile

  record Scenario(List<String> orders, String nowhere, String retry_once, String dead_letter) {}

  public static void main(String[] arguments) throws Exception {
    var scenario = new Gson().fromJson(Files.readString(Path.of("../scenario.json")), Scenario.class);
    var queue = "quickstart-" + UUID.randomUUID().toString().substring(0, 8);
    var options = ClientOptions.fromEnv().onEvent(event -> {
      if (event.kind() == Event.Kind.REAUTHENTICATED) System.out.println("token renewed");
    });
    try (var client = WarrengateClient.connect(options)) {
      client.topology().declareQueue(queue);

      var publisher = client.publisher();
      var sent = new LinkedHashMap<String, CompletableFuture<Confirmation>>();
      for (var order : scenario.orders()) sent.put(order, publisher.publish(queue, Message.text(order)));
      sent.put(scenario.nowhere(), publisher.publish(queue + ".nowhere", Message.text(scenario.nowhere())));
      sent.forEach((order, outcome) -> {
        try {
          outcome.join();
          System.out.printf("published %s: CONFIRMED%n", order);
        } catch (CompletionException error) {
          System.out.printf("published %s: %s%n", order, ((PublishException) error.getCause()).outcome());
        }
      });

      var left = new HashSet<>(scenario.orders()); // orders neither acknowledged nor dead-lettered
      var finished = new CountDownLatch(1);
      client.consume(queue, delivery -> { // returning acknowledges, unless the delivery was settled otherwise
        var order = delivery.message().text();
        var result = "done";
        if (order.equals(scenario.dead_letter())) {
          result = "give up";
          delivery.deadLetter("as the scenario says");
        } else if (order.equals(scenario.retry_once()) && delivery.attempt() == 1) {
          result = "try again";
          delivery.retry(RETRY_AFTER, "as the scenario says");
        }
        System.out.printf("delivered %s, attempt %d: %s%n", order, delivery.attempt(), result);
        if (!result.equals("try again")) left.remove(order);
        if (left.isEmpty()) finished.countDown();
      });
      finished.await();
      client.topology().deleteQueue(queue);
    }
  }
}

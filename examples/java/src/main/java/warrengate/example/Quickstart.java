package warrengate.example;

import com.google.gson.Gson;
import java.nio.file.*;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import warrengate.v1.*;

/** Warrengate in Java: the scenario, with what Gateway offers. README.md says how to run it. */
final class Quickstart {
  record Scenario(List<String> orders, String nowhere, String retry_once, String dead_letter) {}

  public static void main(String[] arguments) throws Exception {
    var scenario = new Gson().fromJson(Files.readString(Path.of("../scenario.json")), Scenario.class);
    var gateway = new Gateway();
    var queue = "quickstart-" + UUID.randomUUID().toString().substring(0, 8);
    gateway.topology.declareQueue(DeclareQueueRequest.newBuilder().setQueue(Queue.newBuilder().setName(queue)).build());

    var publications = new ArrayList<Publication>();
    for (var order : scenario.orders()) publications.add(Gateway.publication(publications.size(), queue, order));
    publications.add(Gateway.publication(publications.size(), queue + ".nowhere", scenario.nowhere()));
    gateway.publish(publications, (sent, outcome) -> System.out.printf("published %s: %s%n",
        sent.getMessage().getBody().toStringUtf8(), outcome.name().replace("OUTCOME_", "")));

    var left = new HashSet<>(scenario.orders());
    gateway.consume(queue, delivery -> {
      var order = delivery.getMessage().getBody().toStringUtf8();
      var action = order.equals(scenario.dead_letter()) ? NackAction.NACK_ACTION_DEAD_LETTER
          : order.equals(scenario.retry_once()) && delivery.getAttempt() == 1 ? NackAction.NACK_ACTION_RETRY
          : NackAction.NACK_ACTION_UNSPECIFIED;
      var verdict = Map.of(NackAction.NACK_ACTION_DEAD_LETTER, "give up", NackAction.NACK_ACTION_RETRY, "try again")
          .getOrDefault(action, "done");
      System.out.printf("delivered %s, attempt %d: %s%n", order, delivery.getAttempt(), verdict);
      if (action != NackAction.NACK_ACTION_RETRY) left.remove(order);
      return action;
    }, () -> !left.isEmpty());
    gateway.topology.deleteQueue(DeleteQueueRequest.newBuilder().setName(queue).build());
  }
}

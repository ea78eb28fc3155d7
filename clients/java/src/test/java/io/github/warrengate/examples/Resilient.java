package io.github.warrengate.examples;

import io.github.warrengate.client.ConsumeOptions;
import io.github.warrengate.client.Message;
import io.github.warrengate.client.PublishException;
import io.github.warrengate.client.WarrengateClient;

/** Publishes and consumes orders; the Java guide contains it. */
public final class Resilient {
  private Resilient() {}

  /**
   * Runs until it is ended.
   *
   * @param arguments none
   */
  public static void main(String[] arguments) {
    try (var client = WarrengateClient.fromEnv()) {
      client.topology().declareQueue("shipping");
      // Returning acknowledges; an exception retries.
      var consumer = client.consume("shipping", delivery -> System.out.println("shipped " + delivery.message().text()),
          new ConsumeOptions().concurrency(4));
      var publisher = client.publisher();
      for (var number = 0; number < 2000;) {
        try {
          publisher.publishAndWait("shipping", Message.builder().body("order " + number).id("order-" + number).build());
          number++;
        } catch (PublishException failure) {
          if (!failure.isRetryable()) { // after a minute of attempts
            throw failure;
          }
        }
      }
      consumer.ended().join();
    }
  }
}

package io.github.warrengate.client;

/**
 * Processes deliveries. Returning acknowledges the delivery and an exception retries it with the queue's back-off,
 * unless the handler has settled it. The thread is interrupted when the consumer no longer waits for the handler.
 */
@FunctionalInterface
public interface Handler {
  /**
   * Processes one delivery.
   *
   * @param delivery the delivery
   * @throws Exception to retry the message
   */
  void handle(Delivery delivery) throws Exception;
}

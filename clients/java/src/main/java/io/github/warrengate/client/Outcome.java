package io.github.warrengate.client;

/** What became of a published message that was not confirmed. */
public enum Outcome {
  /** No queue is bound for the exchange and routing key. The message is not stored. */
  UNROUTABLE,
  /** The broker or the gateway refused the message. It is not stored. */
  REJECTED,
  /** The client's grants do not cover the exchange and routing key. The message is not stored. */
  DENIED,
  /** The message exceeds a limit of the plan. It is not stored; send it again after {@code retryAfter}. */
  THROTTLED,
  /** The message may or may not be stored. Send it again with the same message id. */
  UNKNOWN,
  /** The message was never handed to a gateway. It is not stored. */
  NOT_SENT
}

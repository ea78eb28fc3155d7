package io.github.warrengate.client;

import java.time.Duration;
import java.util.OptionalLong;
import warrengate.v1.Nack;
import warrengate.v1.NackAction;

/** A message that was delivered to a consumer. The first settlement counts; later ones have no effect. */
public final class Delivery {
  private static final int MAX_REASON_BYTES = 1024;

  final warrengate.v1.Delivery value;
  final long receivedAt;
  /** Guarded by the lock of the consumer. */
  boolean started;
  boolean settled;

  private final Consumer.Stream stream;
  private final Message message;

  Delivery(Consumer.Stream stream, warrengate.v1.Delivery value, long receivedAt) {
    this.stream = stream;
    this.value = value;
    this.receivedAt = receivedAt;
    message = new Message(value.getMessage());
  }

  /**
   * The message.
   *
   * @return the message
   */
  public Message message() {
    return message;
  }

  /**
   * The exchange to which the message was published.
   *
   * @return its name; empty for the default exchange
   */
  public String exchange() {
    return value.getExchange();
  }

  /**
   * The routing key with which the message was published.
   *
   * @return the routing key
   */
  public String routingKey() {
    return value.getRoutingKey();
  }

  /**
   * Whether the message may have been delivered before.
   *
   * @return true if it may
   */
  public boolean isRedelivered() {
    return value.getRedelivered();
  }

  /**
   * The number of this delivery attempt.
   *
   * @return 1 for the first one
   */
  public int attempt() {
    return value.getAttempt();
  }

  /**
   * The message's offset in a stream queue.
   *
   * @return the offset; empty for other queues
   */
  public OptionalLong streamOffset() {
    return value.hasStreamOffset() ? OptionalLong.of(value.getStreamOffset()) : OptionalLong.empty();
  }

  /** Acknowledges the message: it is done. */
  public void ack() {
    stream.settle(this, null);
  }

  /** Retries the message after the queue's back-off. */
  public void retry() {
    retry("");
  }

  /**
   * Retries the message after the queue's back-off.
   *
   * @param reason the reason, for the trace and the dead letter
   */
  public void retry(String reason) {
    stream.settle(this, nack(NackAction.NACK_ACTION_RETRY, reason));
  }

  /**
   * Retries the message after a delay.
   *
   * @param delay up to 24 h
   * @param reason the reason, for the trace and the dead letter
   */
  public void retry(Duration delay, String reason) {
    stream.settle(this, nack(NackAction.NACK_ACTION_RETRY, reason).setDelay(Times.proto(delay)));
  }

  /**
   * Moves the message to the tenant's dead letters.
   *
   * @param reason the reason, for the trace and the dead letter
   */
  public void deadLetter(String reason) {
    stream.settle(this, nack(NackAction.NACK_ACTION_DEAD_LETTER, reason));
  }

  /** Deletes the message. */
  public void drop() {
    stream.settle(this, nack(NackAction.NACK_ACTION_DROP, ""));
  }

  /**
   * Whether the delivery was settled.
   *
   * @return true after the first settlement
   */
  public boolean isSettled() {
    return stream.isSettled(this);
  }

  /**
   * Whether a settlement can still have an effect; otherwise the message is delivered again.
   *
   * @return true while the stream that delivered the message holds it
   */
  public boolean isCurrent() {
    return stream.holds(this);
  }

  private static Nack.Builder nack(NackAction action, String reason) {
    return Nack.newBuilder().setAction(action).setReason(shorten(reason));
  }

  /** Cuts a reason to the size that the gateway accepts. */
  static String shorten(String reason) {
    if (reason == null) {
      return "";
    }
    var bytes = 0;
    for (var at = 0; at < reason.length(); at += Character.charCount(reason.codePointAt(at))) {
      var point = reason.codePointAt(at);
      bytes += point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
      if (bytes > MAX_REASON_BYTES) {
        return reason.substring(0, at);
      }
    }
    return reason;
  }

  @Override
  public String toString() {
    return "Delivery[" + message + ", attempt=" + attempt() + "]";
  }
}

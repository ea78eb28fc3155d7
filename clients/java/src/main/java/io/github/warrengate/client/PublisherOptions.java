package io.github.warrengate.client;

import java.time.Duration;

/** The settings of a publisher. */
public final class PublisherOptions {
  String exchange = "";
  int maxInFlight = 1000;
  long maxInFlightBytes = 32L << 20;
  int batchMessages = 64;
  Duration timeout = Duration.ofMinutes(1);
  boolean retryThrottled = true;
  boolean allowUnroutable;

  /** The default settings. */
  public PublisherOptions() {}

  /**
   * Sets the exchange.
   *
   * @param name its name; the default exchange, with the empty name, routes to the queue that the routing key names
   * @return this
   */
  public PublisherOptions exchange(String name) {
    exchange = name;
    return this;
  }

  /**
   * Limits the messages without an outcome (1,000). Publishing waits at the limit.
   *
   * @param messages at least 1
   * @return this
   */
  public PublisherOptions maxInFlight(int messages) {
    maxInFlight = atLeastOne("maxInFlight", messages);
    return this;
  }

  /**
   * Limits the encoded size of the messages without an outcome (32 MiB). A larger message is sent alone.
   *
   * @param bytes at least 1
   * @return this
   */
  public PublisherOptions maxInFlightBytes(long bytes) {
    maxInFlightBytes = atLeastOne("maxInFlightBytes", bytes);
    return this;
  }

  /**
   * Limits the messages of one frame (64).
   *
   * @param messages 1 to 1,000
   * @return this
   */
  public PublisherOptions batchMessages(int messages) {
    batchMessages = Math.min(atLeastOne("batchMessages", messages), 1000);
    return this;
  }

  /**
   * Sets the deadline of a message (60 s). Until then it is sent again, with the same id, when its outcome is unknown
   * or it was throttled.
   *
   * @param duration the time from publishing
   * @return this
   */
  public PublisherOptions timeout(Duration duration) {
    timeout = duration;
    return this;
  }

  /**
   * Sets whether throttled messages are sent again after the time that the gateway named (true), or fail.
   *
   * @param retry whether they are sent again
   * @return this
   */
  public PublisherOptions retryThrottled(boolean retry) {
    retryThrottled = retry;
    return this;
  }

  /**
   * Sets whether a message that matches no queue is confirmed and dropped, instead of failing as unroutable (false).
   *
   * @param allow whether it is confirmed
   * @return this
   */
  public PublisherOptions allowUnroutable(boolean allow) {
    allowUnroutable = allow;
    return this;
  }

  private static int atLeastOne(String name, int value) {
    return (int) atLeastOne(name, (long) value);
  }

  private static long atLeastOne(String name, long value) {
    if (value < 1) {
      throw Errors.configuration(name + " must be at least 1, and is " + value);
    }
    return value;
  }
}

package io.github.warrengate.client;

import java.time.Duration;

/** The settings of a consumer. */
public final class ConsumeOptions {
  int concurrency = 1;
  int window = 256;
  long maxBytes = 16L << 20;
  Duration lease = Duration.ofMinutes(1);
  Duration maxLease = Duration.ofHours(1);
  Position position;
  boolean exclusive;
  int priority;

  /** The default settings. */
  public ConsumeOptions() {}

  /**
   * Sets how many handlers run at the same time (1).
   *
   * @param handlers at least 1
   * @return this
   */
  public ConsumeOptions concurrency(int handlers) {
    if (handlers < 1) {
      throw Errors.configuration("concurrency must be at least 1, and is " + handlers);
    }
    concurrency = handlers;
    return this;
  }

  /**
   * Limits the unsettled messages (256, or the concurrency if that is more).
   *
   * @param messages 1 to 10,000
   * @return this
   */
  public ConsumeOptions window(int messages) {
    window = messages;
    return this;
  }

  /**
   * Limits the size of the unsettled messages (16 MiB).
   *
   * @param bytes up to 256 MiB
   * @return this
   */
  public ConsumeOptions maxBytes(long bytes) {
    maxBytes = bytes;
    return this;
  }

  /**
   * Sets the lease of a delivery (60 s): if the application stops, its messages are delivered again after this time.
   * Leases are extended automatically.
   *
   * @param duration 10 s to 1 h
   * @return this
   */
  public ConsumeOptions lease(Duration duration) {
    lease = duration;
    return this;
  }

  /**
   * Sets how long the lease of a delivery is extended (1 h).
   *
   * @param duration the time from the delivery
   * @return this
   */
  public ConsumeOptions maxLease(Duration duration) {
    maxLease = duration;
    return this;
  }

  /**
   * Sets where to begin in a stream queue. A reopened stream continues where it was.
   *
   * @param start the position
   * @return this
   */
  public ConsumeOptions position(Position start) {
    position = start;
    return this;
  }

  /**
   * Sets whether the queue may have other consumers (classic queues only).
   *
   * @param only whether it must not
   * @return this
   */
  public ConsumeOptions exclusive(boolean only) {
    exclusive = only;
    return this;
  }

  /**
   * Sets the priority (0). Consumers of higher priority are served first.
   *
   * @param value -128 to 127
   * @return this
   */
  public ConsumeOptions priority(int value) {
    priority = value;
    return this;
  }
}

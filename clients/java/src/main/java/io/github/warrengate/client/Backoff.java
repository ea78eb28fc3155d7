package io.github.warrengate.client;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/** Delays between attempts: exponential from 0.1 s to 5 s, with jitter. */
final class Backoff {
  private static final long FIRST = 100;
  private static final long MAX = 5_000;
  private static final Duration MOST = Duration.ofMinutes(1);

  private long next = FIRST;

  void reset() {
    next = FIRST;
  }

  /** The next delay, which is not shorter than the time that the gateway named. */
  Duration delay(Duration atLeast) {
    var delay = Duration.ofMillis((long) (next * (0.5 + ThreadLocalRandom.current().nextDouble() / 2)));
    next = Math.min(next * 2, MAX);
    if (atLeast == null || atLeast.compareTo(delay) <= 0) {
      return delay;
    }
    return atLeast.compareTo(MOST) > 0 ? MOST : atLeast;
  }
}

package io.github.warrengate.client;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.concurrent.ThreadLocalRandom;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A token and its lifetime by the local clock. */
final class Token {
  private static final Pattern EXPIRY = Pattern.compile("\"exp\"\\s*:\\s*(\\d+)");
  private static final Pattern ISSUED = Pattern.compile("\"iat\"\\s*:\\s*(\\d+)");

  final String text;
  private final boolean ages;
  private final long renewAt;
  private final long endsAt;

  private Token(String text, boolean ages, long renewAt, long endsAt) {
    this.text = text;
    this.ages = ages;
    this.renewAt = renewAt;
    this.endsAt = endsAt;
  }

  /** A token without a known end. */
  static Token ageless(String text) {
    return new Token(text, false, 0, 0);
  }

  /** A token that was requested at this moment of the monotonic clock. */
  static Token aged(String text, long began, Duration lifetime) {
    if (lifetime == null) {
      return ageless(text);
    }
    // Clients that started together do not renew together.
    var share = 0.6 + ThreadLocalRandom.current().nextDouble() * 0.15;
    var nanos = lifetime.toNanos();
    return new Token(text, true, began + (long) (nanos * share), began + (long) (nanos * 0.98));
  }

  boolean isUsable(long now) {
    return !ages || now - endsAt < 0;
  }

  boolean isDue(long now) {
    return ages && now - renewAt > 0;
  }

  /** Reads exp - iat of a JWT, which the gateway verifies; null when it cannot be read. */
  static Duration lifetimeOf(String text) {
    var parts = text.split("\\.", -1);
    if (parts.length != 3) {
      return null;
    }
    try {
      var claims = new String(Base64.getUrlDecoder().decode(parts[1]), StandardCharsets.UTF_8);
      Matcher expiry = EXPIRY.matcher(claims);
      Matcher issued = ISSUED.matcher(claims);
      if (!expiry.find() || !issued.find()) {
        return null;
      }
      var seconds = Long.parseLong(expiry.group(1)) - Long.parseLong(issued.group(1));
      return seconds > 0 ? Duration.ofSeconds(seconds) : null;
    } catch (IllegalArgumentException malformed) {
      return null;
    }
  }

  @Override
  public String toString() {
    return "Token[hidden]";
  }
}

package io.github.warrengate.client;

import io.grpc.Status;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;

/** Every error of this library. Its text never contains a secret. */
public class WarrengateException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  private final String reason;
  private final Status.Code code;
  private final boolean retryable;
  private final Duration retryAfter;
  private final String field;
  private final String traceId;

  WarrengateException(Details details) {
    super(details.reason.isEmpty() ? details.message : details.message + " [" + details.reason + "]", details.cause);
    reason = details.reason;
    code = details.code;
    retryable = details.retryable;
    retryAfter = details.retryAfter;
    field = details.field;
    traceId = details.traceId;
  }

  /**
   * The error of this library inside an exception that {@code get} or {@code join} of a future threw.
   *
   * @param exception any exception
   * @return the error; one without a reason if the exception is of another library
   */
  public static WarrengateException from(Throwable exception) {
    var inner = exception;
    while ((inner instanceof CompletionException || inner instanceof ExecutionException) && inner.getCause() != null) {
      inner = inner.getCause();
    }
    if (inner instanceof WarrengateException own) {
      return own;
    }
    return new Details("", Status.Code.UNKNOWN, String.valueOf(inner.getMessage())).cause(inner).exception();
  }

  /**
   * The stable reason in upper snake case: the gateway's, or one of the library's own such as {@code CONNECTION_LOST}.
   *
   * @return the reason; empty when the gateway gave none
   */
  public String reason() {
    return reason;
  }

  /**
   * The gRPC status code, or the closest one.
   *
   * @return the code
   */
  public Status.Code code() {
    return code;
  }

  /**
   * Whether sending the same thing again is safe and may succeed.
   *
   * @return true if a retry is safe
   */
  public boolean isRetryable() {
    return retryable;
  }

  /**
   * The time after which another try may succeed.
   *
   * @return the time, when the gateway named one
   */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  /**
   * The request field at fault.
   *
   * @return its name; empty when the gateway named none
   */
  public String field() {
    return field;
  }

  /**
   * The trace that recorded the failure.
   *
   * @return its id; empty when there is none
   */
  public String traceId() {
    return traceId;
  }

  Details details() {
    var suffix = reason.isEmpty() ? 0 : reason.length() + 3;
    var message = getMessage();
    return new Details(reason, code, message.substring(0, message.length() - suffix))
        .retryable(retryable).retryAfter(retryAfter).field(field).traceId(traceId).cause(this);
  }

  /** What an error is made of. */
  static final class Details {
    final String reason;
    final Status.Code code;
    final String message;
    boolean retryable;
    Duration retryAfter;
    String field = "";
    String traceId = "";
    Throwable cause;

    Details(String reason, Status.Code code, String message) {
      this.reason = reason;
      this.code = code;
      this.message = message;
    }

    Details retryable(boolean value) {
      retryable = value;
      return this;
    }

    Details retryAfter(Duration value) {
      retryAfter = value == null || value.isZero() ? null : value;
      return this;
    }

    Details field(String value) {
      field = value;
      return this;
    }

    Details traceId(String value) {
      traceId = value;
      return this;
    }

    Details cause(Throwable value) {
      cause = value;
      return this;
    }

    WarrengateException exception() {
      return new WarrengateException(this);
    }

    PublishException exception(Outcome outcome, String messageId) {
      return new PublishException(this, outcome, messageId);
    }
  }
}

package io.github.warrengate.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.warrengate.client.WarrengateException.Details;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.net.SocketException;
import java.net.UnknownHostException;
import java.security.cert.CertPathBuilderException;
import java.security.cert.CertificateException;
import java.time.Duration;
import java.util.Set;
import javax.net.ssl.SSLException;
import warrengate.v1.PublishResult;

/** The errors of the library, made of what the gateway and gRPC report. */
final class Errors {
  static final String DRAINING = "DRAINING";
  private static final String DOMAIN = "warrengate";
  private static final Set<String> RETRYABLE_REJECTIONS = Set.of("BROKER_UNREACHABLE", "BROKER_REJECTED", DRAINING);

  private Errors() {}

  static WarrengateException configuration(String message) {
    return new Details("CONFIGURATION", Status.Code.INVALID_ARGUMENT, message).exception();
  }

  static WarrengateException closed(String what) {
    return new Details("CLOSED", Status.Code.FAILED_PRECONDITION, "the " + what + " is closed").exception();
  }

  static WarrengateException interrupted() {
    return new Details("INTERRUPTED", Status.Code.CANCELLED, "the thread was interrupted").retryable(true).exception();
  }

  static WarrengateException lost(String detail) {
    return new Details("CONNECTION_LOST", Status.Code.UNAVAILABLE, "the connection to the gateway was lost: " + detail)
        .retryable(true).exception();
  }

  static WarrengateException timeout(String detail) {
    return new Details("REQUEST_TIMEOUT", Status.Code.DEADLINE_EXCEEDED, detail).retryable(true).exception();
  }

  static WarrengateException unreachable(String endpoint, String detail) {
    var message = "the gateway at " + endpoint + " cannot be reached: " + detail;
    return new Details("GATEWAY_UNREACHABLE", Status.Code.UNAVAILABLE, message).retryable(true).exception();
  }

  static WarrengateException fromThrowable(Throwable exception, String endpoint) {
    if (exception instanceof StatusRuntimeException failure) {
      return fromStatus(failure.getStatus(), failure.getTrailers(), endpoint);
    }
    if (exception instanceof StatusException failure) {
      return fromStatus(failure.getStatus(), failure.getTrailers(), endpoint);
    }
    return WarrengateException.from(exception);
  }

  /** Decodes a status: the gateway's own has details, and one of the connection has none. */
  static WarrengateException fromStatus(Status status, Metadata trailers, String endpoint) {
    ErrorInfo info = null;
    Duration retryAfter = null;
    var field = "";
    var decoded = trailers == null ? null : StatusProto.fromStatusAndTrailers(status, trailers);
    if (decoded != null) {
      for (var detail : decoded.getDetailsList()) {
        var error = unpack(detail, ErrorInfo.class);
        if (error != null && error.getDomain().equals(DOMAIN)) {
          info = error;
        }
        var retry = unpack(detail, RetryInfo.class);
        if (retry != null) {
          retryAfter = Times.duration(retry.getRetryDelay());
        }
        var bad = unpack(detail, BadRequest.class);
        if (bad != null && bad.getFieldViolationsCount() > 0) {
          field = bad.getFieldViolations(0).getField();
        }
      }
    }
    var message = status.getDescription() == null ? status.getCode().name() : status.getDescription();
    var code = status.getCode();
    if (info != null) {
      var metadata = info.getMetadataMap();
      var retryable = code == Status.Code.UNAVAILABLE || code == Status.Code.ABORTED || retryAfter != null
          || "true".equals(metadata.get("retry_may_help"));
      return new Details(info.getReason(), code, message).retryable(retryable).retryAfter(retryAfter).field(field)
          .traceId(metadata.getOrDefault("trace_id", "")).exception();
    }
    return switch (code) {
      case UNAVAILABLE, INTERNAL, CANCELLED, UNKNOWN, RESOURCE_EXHAUSTED -> connection(status, message, endpoint);
      case DEADLINE_EXCEEDED -> timeout("no answer came in time: " + message);
      default -> new Details("", code, message).retryAfter(retryAfter).field(field).exception();
    };
  }

  private static WarrengateException connection(Status status, String message, String endpoint) {
    for (var cause = status.getCause(); cause != null; cause = cause.getCause()) {
      if (cause instanceof InterruptedException) {
        return interrupted();
      }
      if (cause instanceof CertificateException || cause instanceof CertPathBuilderException) {
        return new Details("CERTIFICATE_NOT_TRUSTED", Status.Code.UNAVAILABLE,
            "no trusted authority signed the certificate of the gateway at " + endpoint + ": configure the CA that did").exception();
      }
    }
    for (var cause = status.getCause(); cause != null; cause = cause.getCause()) {
      var connecting = cause instanceof SocketException && String.valueOf(cause.getMessage()).contains("refused");
      if (connecting || cause instanceof UnknownHostException || cause instanceof SSLException) {
        return unreachable(endpoint, cause.getMessage());
      }
    }
    return lost(status.getCause() == null ? message : message + ": " + status.getCause().getMessage());
  }

  private static <T extends com.google.protobuf.Message> T unpack(Any detail, Class<T> type) {
    try {
      return detail.is(type) ? detail.unpack(type) : null;
    } catch (InvalidProtocolBufferException malformed) {
      return null;
    }
  }

  /** The error of an outcome other than CONFIRMED. */
  static PublishException fromResult(PublishResult result, String messageId) {
    var separator = result.getReason().indexOf(": ");
    var reason = separator < 0 ? result.getReason() : result.getReason().substring(0, separator);
    var message = separator < 0 ? reason : result.getReason().substring(separator + 2);
    var retryable = RETRYABLE_REJECTIONS.contains(reason);
    var code = Status.Code.UNAVAILABLE;
    Outcome outcome;
    switch (result.getOutcome()) {
      case OUTCOME_UNROUTABLE -> {
        outcome = Outcome.UNROUTABLE;
        code = Status.Code.NOT_FOUND;
      }
      case OUTCOME_REJECTED -> {
        outcome = Outcome.REJECTED;
        code = Status.Code.FAILED_PRECONDITION;
      }
      case OUTCOME_DENIED -> {
        outcome = Outcome.DENIED;
        code = Status.Code.PERMISSION_DENIED;
      }
      case OUTCOME_THROTTLED -> {
        outcome = Outcome.THROTTLED;
        code = Status.Code.RESOURCE_EXHAUSTED;
        retryable = true;
      }
      default -> {
        outcome = Outcome.UNKNOWN;
        retryable = true;
      }
    }
    return new Details(reason, code, message).retryable(retryable).traceId(result.getTraceId())
        .retryAfter(result.hasRetryAfter() ? Times.duration(result.getRetryAfter()) : null).exception(outcome, messageId);
  }

  static PublishException unknown(String messageId, String cause, String reason, boolean retryable) {
    var message = "the message may or may not be stored (" + cause + "): send it again with the same message id";
    return new Details(reason, Status.Code.UNAVAILABLE, message).retryable(retryable).exception(Outcome.UNKNOWN, messageId);
  }

  static PublishException notSent(String messageId, String cause) {
    var message = "the message was not sent in time (" + cause + "); it is not stored";
    return new Details("NOT_SENT", Status.Code.DEADLINE_EXCEEDED, message).retryable(true).exception(Outcome.NOT_SENT, messageId);
  }
}

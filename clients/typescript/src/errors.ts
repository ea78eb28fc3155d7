/**
 * Errors of the library. Each has a stable `reason` and reports whether and when another attempt may help. No message
 * contains a secret.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import { BadRequestSchema, type ErrorInfo, ErrorInfoSchema, RetryInfoSchema } from "./generated/warrengate/client/v1/status_pb.js";
import { Outcome, type PublishResult } from "./generated/warrengate/v1/messaging_pb.js";

/** The properties of an error in addition to its message. */
export interface ErrorDetails {
  /** The stable reason in upper snake case, as docs/reference/errors.md lists them. */
  reason?: string;
  /** The name of the gRPC status code. */
  code?: string;
  /** Whether sending the same thing again is safe and may succeed. */
  retryable?: boolean;
  /** Milliseconds after which another attempt may succeed, if the gateway sent a time. */
  retryAfterMs?: number | undefined;
  /** The request field that caused the error, if the gateway named one. */
  field?: string | undefined;
  /** The id of the trace that recorded the failure. */
  traceId?: string | undefined;
  /** The underlying error. */
  cause?: unknown;
}

/** The base of all errors of this library. */
export class WarrengateError extends Error {
  /** The stable reason in upper snake case, as docs/reference/errors.md lists them. */
  readonly reason: string;
  /** The name of the gRPC status code. */
  readonly code: string;
  /** Whether sending the same thing again is safe and may succeed. */
  readonly retryable: boolean;
  /** Milliseconds after which another attempt may succeed, if the gateway sent a time. */
  readonly retryAfterMs: number | undefined;
  /** The request field that caused the error, if the gateway named one. */
  readonly field: string | undefined;
  /** The id of the trace that recorded the failure. */
  readonly traceId: string | undefined;

  constructor(message: string, details: ErrorDetails = {}) {
    super(details.reason ? `${message} [${details.reason}]` : message, { cause: details.cause });
    this.name = new.target.name;
    this.reason = details.reason ?? "";
    this.code = details.code ?? "UNKNOWN";
    this.retryable = details.retryable ?? false;
    this.retryAfterMs = details.retryAfterMs;
    this.field = details.field;
    this.traceId = details.traceId;
  }
}

/** An option or environment variable is missing or malformed. */
export class ConfigurationError extends WarrengateError {
  constructor(message: string) {
    super(message, { reason: "CONFIGURATION", code: "INVALID_ARGUMENT" });
  }
}

/** The client, publisher or consumer was used after it was closed. */
export class ClosedError extends WarrengateError {
  constructor(what = "client") {
    super(`the ${what} is closed`, { reason: "CLOSED", code: "FAILED_PRECONDITION" });
  }
}

/** The gateway does not accept the credentials or the token. */
export class AuthenticationError extends WarrengateError {}
/** The client's grants do not cover the request, or its tenant is suspended. */
export class PermissionDeniedError extends WarrengateError {}
/** The queue, exchange, tenant or client does not exist. */
export class NotFoundError extends WarrengateError {}
/** The request is invalid, and remains so when it is sent again. */
export class InvalidArgumentError extends WarrengateError {}
/** The request conflicts with the state of its object, or the object exists already. */
export class PreconditionError extends WarrengateError {}
/** A limit of the plan or of the gateway was reached. */
export class ExhaustedError extends WarrengateError {}
/** The gateway or the broker cannot be reached, or the connection was lost. */
export class UnavailableError extends WarrengateError {}
/** No answer within the time limit; the call may have had an effect. */
export class RequestTimeoutError extends WarrengateError {}

/** A message was not confirmed. The subclasses describe the outcome. */
export class PublishError extends WarrengateError {
  /** The name of the outcome. */
  readonly outcome: string = "UNKNOWN";
  /** The id of the message; use the same id when the message is sent again. */
  readonly messageId: string;

  constructor(message: string, messageId: string, details: ErrorDetails) {
    super(message, details);
    this.messageId = messageId;
  }
}

/** No queue is bound for the exchange and routing key. The message is not stored. */
export class UnroutableError extends PublishError {
  override readonly outcome = "UNROUTABLE";
}
/** The broker or the gateway refused the message. It is not stored. */
export class RejectedError extends PublishError {
  override readonly outcome = "REJECTED";
}
/** The client's grants do not cover the exchange and routing key. The message is not stored. */
export class DeniedError extends PublishError {
  override readonly outcome = "DENIED";
}
/** The message exceeds a limit of the plan. It is not stored; send it again after `retryAfterMs`. */
export class ThrottledError extends PublishError {
  override readonly outcome = "THROTTLED";
}
/** The message may or may not be stored. Send it again with the same message id. */
export class UnknownOutcomeError extends PublishError {
  override readonly outcome = "UNKNOWN";
}
/** The message was never sent to a gateway. It is not stored. */
export class NotSentError extends PublishError {
  override readonly outcome = "NOT_SENT";
}

const CODES = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
  "UNAUTHENTICATED",
];

const BY_CODE: Record<string, typeof WarrengateError> = {
  UNAUTHENTICATED: AuthenticationError,
  PERMISSION_DENIED: PermissionDeniedError,
  NOT_FOUND: NotFoundError,
  INVALID_ARGUMENT: InvalidArgumentError,
  OUT_OF_RANGE: InvalidArgumentError,
  FAILED_PRECONDITION: PreconditionError,
  ALREADY_EXISTS: PreconditionError,
  RESOURCE_EXHAUSTED: ExhaustedError,
  UNAVAILABLE: UnavailableError,
  DEADLINE_EXCEEDED: RequestTimeoutError,
};

/** Creates the error of a gRPC status: the gateway's own, or a connection error. */
export function fromStatus(status: number, message: string, details: { typeUrl: string; value: Uint8Array }[], endpoint: string): WarrengateError {
  const code = CODES[status] ?? "UNKNOWN";
  let info: ErrorInfo | undefined;
  let retryAfterMs: number | undefined;
  let field: string | undefined;
  for (const { typeUrl, value } of details) {
    if (typeUrl.endsWith("google.rpc.ErrorInfo")) {
      const candidate = fromBinary(ErrorInfoSchema, value);
      if (candidate.domain === "warrengate") info = candidate;
    } else if (typeUrl.endsWith("google.rpc.RetryInfo")) {
      retryAfterMs = milliseconds(fromBinary(RetryInfoSchema, value).retryDelay);
    } else if (typeUrl.endsWith("google.rpc.BadRequest")) {
      field = fromBinary(BadRequestSchema, value).fieldViolations[0]?.field;
    }
  }
  const Kind = BY_CODE[code] ?? WarrengateError;
  if (info) {
    const mayHelp = info.metadata["retry_may_help"] === "true" || retryAfterMs !== undefined;
    const retryable = mayHelp || code === "UNAVAILABLE" || code === "ABORTED";
    return new Kind(message, { reason: info.reason, code, retryable, retryAfterMs, field, traceId: info.metadata["trace_id"] });
  }
  if (["UNAVAILABLE", "INTERNAL", "CANCELLED", "UNKNOWN", "RESOURCE_EXHAUSTED"].includes(code)) return ofConnection(message, endpoint);
  if (code === "DEADLINE_EXCEEDED") {
    return new RequestTimeoutError(`no answer within the time limit: ${message}`, { reason: "REQUEST_TIMEOUT", code, retryable: true });
  }
  return new Kind(message || code, { code });
}

function ofConnection(message: string, endpoint: string): UnavailableError {
  if (/certificate|CERT_/i.test(message)) {
    const text = `the certificate of the gateway at ${endpoint} has no trusted authority: set its CA certificate`;
    return new UnavailableError(text, { reason: "CERTIFICATE_NOT_TRUSTED", code: "UNAVAILABLE" });
  }
  if (/No connection established|ECONNREFUSED|Failed to connect|Failed to fetch|fetch failed/i.test(message)) return unreachable(endpoint, message);
  const text = `the connection to the gateway at ${endpoint} was lost: ${message}`;
  return new UnavailableError(text, { reason: "CONNECTION_LOST", code: "UNAVAILABLE", retryable: true });
}

/** Creates the error of a gateway that does not answer. */
export function unreachable(endpoint: string, why: string): UnavailableError {
  const text = `the gateway at ${endpoint} cannot be reached: ${why}`;
  return new UnavailableError(text, { reason: "GATEWAY_UNREACHABLE", code: "UNAVAILABLE", retryable: true });
}

/** Converts a duration. */
export function milliseconds(duration: Duration | undefined): number | undefined {
  return duration && durationMs(duration);
}

const BY_OUTCOME: Partial<Record<Outcome, [typeof RejectedError | typeof UnroutableError | typeof DeniedError | typeof ThrottledError, string, boolean]>> = {
  [Outcome.UNROUTABLE]: [UnroutableError, "NOT_FOUND", false],
  [Outcome.REJECTED]: [RejectedError, "FAILED_PRECONDITION", false],
  [Outcome.DENIED]: [DeniedError, "PERMISSION_DENIED", false],
  [Outcome.THROTTLED]: [ThrottledError, "RESOURCE_EXHAUSTED", true],
};
const RETRYABLE_REJECTIONS = ["BROKER_UNREACHABLE", "BROKER_REJECTED", "DRAINING"];

/** Creates the error of an outcome other than CONFIRMED. */
export function fromResult(result: PublishResult, messageId: string): PublishError {
  const colon = result.reason.indexOf(": ");
  const reason = colon < 0 ? result.reason : result.reason.slice(0, colon);
  const message = colon < 0 ? reason : result.reason.slice(colon + 2);
  const [Kind, code, always] = BY_OUTCOME[result.outcome] ?? [UnknownOutcomeError, "UNAVAILABLE", true];
  const retryable = always || RETRYABLE_REJECTIONS.includes(reason);
  const retryAfterMs = milliseconds(result.retryAfter);
  return new Kind(message, messageId, { reason, code, retryable, retryAfterMs, traceId: result.traceId || undefined });
}

/** Creates the error of a message that may or may not be stored. */
export function unknownOutcome(messageId: string, why: string, reason = "UNKNOWN", retryable = true): UnknownOutcomeError {
  const text = `the message may or may not be stored (${why}): send it again with the same message id`;
  return new UnknownOutcomeError(text, messageId, { reason, code: "UNAVAILABLE", retryable });
}

/** Creates the error of a message that was never sent to a gateway. */
export function notSent(messageId: string, why: string): NotSentError {
  const text = `the message was not sent in time (${why}); it is not stored`;
  return new NotSentError(text, messageId, { reason: "NOT_SENT", code: "DEADLINE_EXCEEDED", retryable: true });
}

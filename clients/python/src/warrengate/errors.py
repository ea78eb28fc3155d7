"""Errors of the library.

Each has a stable ``reason`` and reports whether and when another attempt may help. No message contains a secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import grpc
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from .v1.messaging_pb2 import PublishResult

_DOMAIN = "warrengate"


class WarrengateError(Exception):
    """The base of all errors of this library."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "UNKNOWN",
        retryable: bool = False,
        retry_after: float | None = None,
        field: str | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(f"{message} [{reason}]" if reason else message)
        self.message = message
        #: The stable reason in upper snake case, as docs/reference/errors.md lists them.
        self.reason = reason
        #: The name of the gRPC status code.
        self.code = code
        #: Whether sending the same thing again is safe and may succeed.
        self.retryable = retryable
        #: Seconds after which another attempt may succeed, if the gateway sent a time.
        self.retry_after = retry_after
        #: The request field that caused the error, if the gateway named one.
        self.field = field
        #: The id of the trace that recorded the failure.
        self.trace_id = trace_id


class ConfigurationError(WarrengateError):
    """An option or environment variable is missing or malformed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="CONFIGURATION", code="INVALID_ARGUMENT")


class ClosedError(WarrengateError):
    """The client, publisher or consumer was used after it was closed."""

    def __init__(self, what: str = "client") -> None:
        super().__init__(f"the {what} is closed", reason="CLOSED", code="FAILED_PRECONDITION")


class AuthenticationError(WarrengateError):
    """The gateway does not accept the credentials or the token."""


class PermissionDeniedError(WarrengateError):
    """The client's grants do not cover the request, or its tenant is suspended."""


class NotFoundError(WarrengateError):
    """The queue, exchange, tenant or client does not exist."""


class InvalidArgumentError(WarrengateError):
    """The request is invalid, and remains so when it is sent again."""


class PreconditionError(WarrengateError):
    """The request conflicts with the state of its object, or the object exists already."""


class ExhaustedError(WarrengateError):
    """A limit of the plan or of the gateway was reached."""


class UnavailableError(WarrengateError):
    """The gateway or the broker cannot be reached, or the connection was lost."""


class RequestTimeoutError(WarrengateError):
    """No answer within the time limit; the call may have had an effect."""


class PublishError(WarrengateError):
    """A message was not confirmed. The subclasses describe the outcome."""

    #: The name of the outcome.
    outcome = "UNKNOWN"
    #: The id of the message; use the same id when the message is sent again.
    message_id = ""


class UnroutableError(PublishError):
    """No queue is bound for the exchange and routing key. The message is not stored."""

    outcome = "UNROUTABLE"


class RejectedError(PublishError):
    """The broker or the gateway refused the message. It is not stored."""

    outcome = "REJECTED"


class DeniedError(PublishError):
    """The client's grants do not cover the exchange and routing key. The message is not stored."""

    outcome = "DENIED"


class ThrottledError(PublishError):
    """The message exceeds a limit of the plan. It is not stored; send it again after ``retry_after``."""

    outcome = "THROTTLED"


class UnknownOutcomeError(PublishError):
    """The message may or may not be stored. Send it again with the same message id."""

    outcome = "UNKNOWN"


class NotSentError(PublishError):
    """The message was never sent to a gateway. It is not stored."""

    outcome = "NOT_SENT"


_BY_CODE: dict[str, type[WarrengateError]] = {
    "UNAUTHENTICATED": AuthenticationError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "NOT_FOUND": NotFoundError,
    "INVALID_ARGUMENT": InvalidArgumentError,
    "OUT_OF_RANGE": InvalidArgumentError,
    "FAILED_PRECONDITION": PreconditionError,
    "ALREADY_EXISTS": PreconditionError,
    "RESOURCE_EXHAUSTED": ExhaustedError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": RequestTimeoutError,
}

# (subclass, code, whether sending again may help, default reason) of each outcome except CONFIRMED.
_BY_OUTCOME: dict[int, tuple[type[PublishError], str, bool]] = {
    2: (UnroutableError, "NOT_FOUND", False),
    3: (RejectedError, "FAILED_PRECONDITION", False),
    4: (DeniedError, "PERMISSION_DENIED", False),
    5: (ThrottledError, "RESOURCE_EXHAUSTED", True),
    6: (UnknownOutcomeError, "UNAVAILABLE", True),
}
_RETRYABLE_REJECTIONS = {"BROKER_UNREACHABLE", "BROKER_REJECTED", "DRAINING"}


def from_rpc(error: grpc.RpcError, endpoint: str) -> WarrengateError:
    """Decode a gRPC error: the gateway's own, or a connection error."""
    code = error.code().name
    message = error.details() or ""
    info: error_details_pb2.ErrorInfo | None = None
    retry_after = field = None
    metadata: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    for key, value in metadata:
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                candidate = error_details_pb2.ErrorInfo.FromString(detail.value)
                info = candidate if candidate.domain == _DOMAIN else info
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                retry_after = delay.seconds + delay.nanos / 1e9
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                violations = error_details_pb2.BadRequest.FromString(detail.value).field_violations
                field = violations[0].field if violations else None
    if info is not None:
        return _BY_CODE.get(code, WarrengateError)(
            message,
            reason=info.reason,
            code=code,
            retryable=code in ("UNAVAILABLE", "ABORTED") or retry_after is not None or _may_help(info),
            retry_after=retry_after,
            field=field,
            trace_id=info.metadata.get("trace_id"),
        )
    if code in ("UNAVAILABLE", "INTERNAL", "CANCELLED", "UNKNOWN", "RESOURCE_EXHAUSTED"):
        return _from_connection(message, endpoint)
    if code == "DEADLINE_EXCEEDED":
        return RequestTimeoutError(
            f"no answer within the time limit: {message}", reason="REQUEST_TIMEOUT", code=code, retryable=True
        )
    return _BY_CODE.get(code, WarrengateError)(message or code, code=code)


def _may_help(info: error_details_pb2.ErrorInfo) -> bool:
    return bool(info.metadata.get("retry_may_help") == "true")


def _from_connection(message: str, endpoint: str) -> UnavailableError:
    if "CERTIFICATE_VERIFY_FAILED" in message or "certificate verify failed" in message.lower():
        return UnavailableError(
            f"the certificate of the gateway at {endpoint} has no trusted authority: set its CA certificate",
            reason="CERTIFICATE_NOT_TRUSTED",
            code="UNAVAILABLE",
        )
    if "failed to connect" in message or "onnection refused" in message or "Deadline Exceeded" in message:
        text, reason = f"the gateway at {endpoint} cannot be reached: {message}", "GATEWAY_UNREACHABLE"
    else:
        text, reason = f"the connection to the gateway at {endpoint} was lost: {message}", "CONNECTION_LOST"
    return UnavailableError(text, reason=reason, code="UNAVAILABLE", retryable=True)


def from_result(result: PublishResult) -> PublishError:
    """Create the error of an outcome other than CONFIRMED."""
    kind, code, retryable = _BY_OUTCOME.get(result.outcome, _BY_OUTCOME[6])
    reason, _, message = result.reason.partition(": ")
    after = result.retry_after.ToTimedelta().total_seconds() if result.HasField("retry_after") else None
    error = kind(
        message or reason,
        reason=reason,
        code=code,
        retryable=retryable or reason in _RETRYABLE_REJECTIONS,
        retry_after=after,
        trace_id=result.trace_id or None,
    )
    error.message_id = result.message_id
    return error


def unknown_outcome(message_id: str, cause: str, reason: str = "UNKNOWN") -> UnknownOutcomeError:
    """Create the error of a message that may or may not be stored."""
    error = UnknownOutcomeError(
        f"the message may or may not be stored ({cause}): send it again with the same message id",
        reason=reason,
        code="UNAVAILABLE",
        retryable=True,
    )
    error.message_id = message_id
    return error


def not_sent(message_id: str, cause: str) -> NotSentError:
    """Create the error of a message that was never sent to a gateway."""
    error = NotSentError(
        f"the message was not sent in time ({cause}); it is not stored",
        reason="NOT_SENT",
        code="DEADLINE_EXCEEDED",
        retryable=True,
    )
    error.message_id = message_id
    return error

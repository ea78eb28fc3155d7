"""Tests that need no gateway: conversions, configuration and errors."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

import warrengate
from warrengate import errors, message
from warrengate._connection import Backoff
from warrengate.client import environment
from warrengate.v1 import messaging_pb2


def test_every_property_and_header_type_is_converted() -> None:
    original = warrengate.Message(
        body=b"x",
        message_id="i",
        correlation_id="c",
        reply_to="r",
        content_type="text/plain",
        content_encoding="gzip",
        type="t",
        app_id="a",
        priority=4,
        ttl=timedelta(seconds=1.5),
        transient=True,
        publish_time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        headers={
            "text": "x",
            "number": -(2**62),
            "real": 0.5,
            "yes": True,
            "nothing": None,
            "raw": b"\x00\xff",
            "moment": datetime(2026, 1, 2, tzinfo=UTC),
            "list": [1, "two", [False]],
            "table": {"inner": {"deep": 1}},
            "empty": {},
        },
    )
    assert message.from_pb(message.to_pb(original)) == original


def test_a_header_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        message.to_pb(warrengate.Message(headers={"x": {1}}))  # type: ignore[dict-item]


class _Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str, *items: object) -> None:
        self._code, self._details = code, details
        status = status_pb2.Status()
        for item in items:
            packed = any_pb2.Any()
            packed.Pack(item)
            status.details.append(packed)
        self._metadata = (("grpc-status-details-bin", status.SerializeToString()),) if items else ()

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> object:
        return self._metadata


def test_an_error_of_the_gateway_keeps_reason_field_trace_and_time() -> None:
    info = error_details_pb2.ErrorInfo(reason="TOO_MANY_STREAMS", domain="warrengate", metadata={"trace_id": "t"})
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="queue")
    error = errors.from_rpc(_Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", info, retry, bad), "https://x")
    assert isinstance(error, warrengate.ExhaustedError)
    assert (error.reason, error.code, error.retryable) == ("TOO_MANY_STREAMS", "RESOURCE_EXHAUSTED", True)
    assert (error.retry_after, error.field, error.trace_id) == (1.5, "queue", "t")
    assert str(error) == "too many [TOO_MANY_STREAMS]"


@pytest.mark.parametrize(
    ("code", "details", "reason", "retryable"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", "GATEWAY_UNREACHABLE", True),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "CONNECTION_LOST", True),
        (grpc.StatusCode.INTERNAL, "RST_STREAM", "CONNECTION_LOST", True),
        (grpc.StatusCode.UNAVAILABLE, "Ssl: CERTIFICATE_VERIFY_FAILED", "CERTIFICATE_NOT_TRUSTED", False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "REQUEST_TIMEOUT", True),
        (grpc.StatusCode.UNIMPLEMENTED, "unknown method", "", False),
    ],
)
def test_a_connection_error_is_distinguished_from_a_refusal(
    code: grpc.StatusCode, details: str, reason: str, retryable: bool
) -> None:
    error = errors.from_rpc(_Failure(code, details), "https://x")
    assert (error.reason, error.retryable) == (reason, retryable)


def test_outcomes_become_typed_errors() -> None:
    result = messaging_pb2.PublishResult(outcome=messaging_pb2.OUTCOME_THROTTLED, reason="MESSAGE_RATE: too fast")
    result.retry_after.FromMilliseconds(250)
    throttled = errors.from_result(result)
    assert isinstance(throttled, warrengate.ThrottledError)
    assert (throttled.reason, throttled.retry_after, throttled.retryable) == ("MESSAGE_RATE", 0.25, True)
    unroutable = errors.from_result(
        messaging_pb2.PublishResult(outcome=messaging_pb2.OUTCOME_UNROUTABLE, reason="NO_ROUTE: none")
    )
    assert isinstance(unroutable, warrengate.UnroutableError)
    assert not unroutable.retryable


@pytest.mark.parametrize(
    "endpoint", ["", "gateway:8443", "ftp://x:1", "https://x:port", "https://x:1/path", "http://example.org:8443"]
)
def test_a_malformed_endpoint_is_a_configuration_error(endpoint: str) -> None:
    async def make() -> None:
        warrengate.Client(endpoint, client_id="a", client_secret="b")

    with pytest.raises(warrengate.ConfigurationError) as caught:
        asyncio.run(make())
    assert caught.value.reason == "CONFIGURATION"


@pytest.mark.parametrize("contents", [None, b"no certificate"])
def test_an_unusable_ca_file_is_a_configuration_error(tmp_path: Path, contents: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if contents is not None:
        path.write_bytes(contents)

    async def make() -> None:
        warrengate.Client("https://localhost:1", ca=path, client_id="a", client_secret="b")

    with pytest.raises(warrengate.ConfigurationError, match=r"ca\.pem"):
        asyncio.run(make())


def test_a_missing_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WARRENGATE_ENDPOINT", raising=False)
    with pytest.raises(warrengate.ConfigurationError, match="WARRENGATE_ENDPOINT"):
        environment()


def test_backoff_grows_with_jitter_up_to_its_limit_and_respects_the_gateway() -> None:
    backoff = Backoff()
    delays = [backoff.delay() for _ in range(12)]
    assert 0.05 <= delays[0] <= 0.1
    assert all(2.5 <= delay <= 5 for delay in delays[-3:])
    backoff.reset()
    assert backoff.delay(at_least=3) == 3


def test_no_representation_contains_the_token() -> None:
    from warrengate._tokens import Token

    assert "secret" not in repr(Token("secret", 0, 0))

"""The connection to the gateway: one channel at a time, replaced when its gateway drains.

A replaced channel closes when its last stream has ended, and no new call uses it.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from grpc import aio

from .errors import ClosedError, ConfigurationError

#: How long streams of a replaced channel may take to end.
_GRACE = 300.0
_OPTIONS: list[tuple[str, int]] = [
    # A silent connection is detected within the sum of both times.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # The gateway limits the size of its responses; the default limit of 4 MiB is smaller than the largest of them.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A new channel must open a new connection, because the existing one leads to the draining gateway.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]


class Connection:
    """The current channel, and those that are being closed."""

    def __init__(self, endpoint: str, ca: str | Path | bytes | None) -> None:
        self.endpoint = endpoint
        self._make = _channel_factory(endpoint, ca)
        self._channel: aio.Channel | None = self._make()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def channel(self) -> aio.Channel:
        """The channel for new calls."""
        if self._channel is None:
            raise ClosedError
        return self._channel

    def replace(self, old: aio.Channel) -> None:
        """Use a new connection for new calls, unless this one was already replaced."""
        if self._channel is old:
            self._channel = self._make()
            self._close_later(old, _GRACE)

    def _close_later(self, channel: aio.Channel, grace: float) -> None:
        task = asyncio.create_task(channel.close(grace))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close everything at once."""
        channel, self._channel = self._channel, None
        for task in self._closing:
            task.cancel()
        if channel is not None:
            await channel.close(None)


def _channel_factory(endpoint: str, ca: str | Path | bytes | None) -> Callable[[], aio.Channel]:
    try:
        url = urlsplit(endpoint)
        port = url.port
    except ValueError:
        raise ConfigurationError(f"{endpoint!r} is not a gateway address") from None
    if url.scheme not in ("https", "http") or not url.hostname or url.path not in ("", "/"):
        raise ConfigurationError(f"{endpoint!r} is not a gateway address: use the form https://127.0.0.1:8443")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    target = f"{host}:{port or 8443}"
    if url.scheme == "http":
        if url.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigurationError("http:// is for loopback addresses only: secrets and tokens need TLS")
        return lambda: aio.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(_roots(ca))
    return lambda: aio.secure_channel(target, credentials, options=_OPTIONS)


def _roots(ca: str | Path | bytes | None) -> bytes | None:
    if isinstance(ca, bytes):
        return ca
    path = ca if ca is not None else ssl.get_default_verify_paths().cafile
    if path is None:
        return None
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the CA file {path} cannot be read: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigurationError(f"the CA file {path} contains no certificate in PEM form")
    return pem


class Backoff:
    """Delays between attempts: exponential from 0.1 s to 5 s, with jitter."""

    def __init__(self) -> None:
        self._next = 0.1

    def reset(self) -> None:
        """Start again with the shortest delay."""
        self._next = 0.1

    def delay(self, at_least: float | None = None) -> float:
        """Return the next delay, at least as long as the gateway requested."""
        delay = self._next * random.uniform(0.5, 1.0)  # noqa: S311
        self._next = min(self._next * 2, 5.0)
        return max(delay, min(at_least or 0.0, 60.0))

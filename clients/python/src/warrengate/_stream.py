"""The common part of publish and subscribe streams.

Opening, token renewal, leaving a draining gateway, and the decision what follows the end of a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from grpc import aio
from grpc.aio import EOF

from ._connection import Backoff
from .errors import UnavailableError, WarrengateError, from_rpc
from .events import EventKind

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from ._tokens import Token
    from .client import Client

log = logging.getLogger("warrengate")

Request = TypeVar("Request")
Response = TypeVar("Response")

_MASK = "Internal error from Core"

#: How long a gateway may take to end a stream that was closed.
CLOSE_TIMEOUT = 10.0


class Session(ABC, Generic[Request, Response]):
    """One stream from its opening to its end.

    Reading never waits for writing, so the two directions cannot block each other.
    """

    def __init__(self, client: Client, source: str) -> None:
        self.client = client
        self.source = source
        self.token: Token | None = None
        self.channel: aio.Channel | None = None
        self.draining = False
        self.closing = False
        #: Set whenever there may be something to write.
        self.wake = asyncio.Event()
        self._new_token: Token | None = None
        self._limit = asyncio.timeout(None)
        self._renewing: asyncio.Task[None] | None = None

    @abstractmethod
    def open(self, channel: aio.Channel, metadata: tuple[tuple[str, str], ...]) -> Any:
        """Start the call."""

    @abstractmethod
    def next_frame(self) -> Request | None:
        """Return the frame to write now."""

    @abstractmethod
    def is_done(self) -> bool:
        """Whether nothing more will be written once `closing` or `draining` is set."""

    @abstractmethod
    def reauthentication(self, token: str) -> Request:
        """Return the frame that continues the stream with another token."""

    @abstractmethod
    def receive(self, response: Response) -> None:
        """Process a frame."""

    async def opened(self, call: Any) -> None:
        """Wait until frames may be written."""

    def pause(self) -> float | None:
        """Return how long to wait before calling `next_frame` again without a wake-up."""
        return None

    async def gather(self) -> None:
        """Wait for more messages before a frame is created."""
        await asyncio.sleep(0)

    async def run(self) -> None:
        """Open the stream and serve it until it ends; raises the reason unless it was closed in order."""
        self.token = await self.client.tokens.get()
        self.channel = self.client.connection.channel
        call = self.open(self.channel, (("authorization", f"Bearer {self.token.text}"),))
        writer = asyncio.create_task(self._write(call))
        try:
            async with self._limit:
                while (response := await call.read()) is not EOF:
                    self.receive(response)
        except aio.AioRpcError as error:
            raise from_rpc(await _unmasked(call, error), self.client.endpoint) from None
        except TimeoutError:
            # The stream was to be closed, and did not end in time.
            return
        except aio.UsageError as error:
            raise UnavailableError(
                f"the connection to the gateway was lost: {error}",
                reason="CONNECTION_LOST",
                code="UNAVAILABLE",
                retryable=True,
            ) from None
        finally:
            call.cancel()
            writer.cancel()
            if self._renewing is not None:
                self._renewing.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        if not (self.closing or self.draining):
            raise UnavailableError(
                "the gateway ended the stream", reason="CONNECTION_LOST", code="UNAVAILABLE", retryable=True
            )

    async def _write(self, call: Any) -> None:
        try:
            await self.opened(call)
            while True:
                self.wake.clear()
                if self._new_token is not None:
                    self.token, self._new_token = self._new_token, None
                    await call.write(self.reauthentication(self.token.text))
                    self.client.emit(EventKind.REAUTHENTICATED, self.source)
                elif (frame := self.next_frame()) is not None:
                    await call.write(frame)
                elif (self.closing or self.draining) and self.is_done():
                    if not self.draining:
                        self.limit_to(CLOSE_TIMEOUT)
                    await call.done_writing()
                    return
                else:
                    await self._wait()
        except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError):
            # The reading side reports the reason.
            return

    async def _wait(self) -> None:
        pause = self.pause()
        if pause is None:
            await self.wake.wait()
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), pause)
        await self.gather()

    def close(self) -> None:
        """End the stream when everything is written."""
        self.closing = True
        self.wake.set()

    def limit_to(self, seconds: float) -> None:
        """End the stream after this time at the latest."""
        when = asyncio.get_running_loop().time() + seconds
        present = self._limit.when()
        # Only an entered timeout can be rescheduled; before that, no stream is open that could be ended.
        if self.channel is not None and (present is None or when < present):
            self._limit.reschedule(when)

    def on_draining(self, deadline: Timestamp) -> None:
        """Prepare to leave the gateway."""
        self.draining = True
        self.client.emit(EventKind.DRAINING, self.source)
        # A tolerance for clock differences.
        self.limit_to(min(max(deadline.seconds - time.time(), 0.0), 300.0) + 2.0)
        self.wake.set()

    def on_expiring(self) -> None:
        """Renew the token of the stream."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        if self.token is None or not self.client.tokens.is_renewable:
            return
        backoff = Backoff()
        while True:
            try:
                self._new_token = await self.client.tokens.newer_than(self.token)
            except WarrengateError as error:
                log.warning("the token of the %s stream could not be renewed: %s", self.source, error)
                if not error.retryable:
                    return
                await asyncio.sleep(backoff.delay(error.retry_after))
            else:
                self.wake.set()
                return


async def _unmasked(call: Any, error: aio.AioRpcError) -> aio.AioRpcError:
    """Return the status that the gateway sent.

    If the stream ends during a write, grpcio temporarily reports its own status instead.
    """
    for _ in range(40):
        if await call.details() != _MASK:
            break
        await asyncio.sleep(0.05)
    else:
        return error
    initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
    return aio.AioRpcError(await call.code(), initial, trailing, await call.details())


class Recovery:
    """Decides, after a stream ended, whether and when the next one is opened."""

    def __init__(self, client: Client, source: str) -> None:
        self._client = client
        self._source = source
        self._backoff = Backoff()
        self._tried_another_token = False

    def works(self) -> None:
        """Record that the current stream does useful work."""
        self._backoff.reset()
        self._tried_another_token = False

    async def after(self, session: Session[Any, Any], error: WarrengateError | None) -> None:
        """Wait until the next stream may be opened; raises the error if another stream would not help."""
        if error is None or error.reason == "DRAINING":
            if session.channel is not None:
                self._client.connection.replace(session.channel)
            await asyncio.sleep(self._backoff.delay(error.retry_after if error else None))
            return
        if error.code == "UNAUTHENTICATED" and session.token is not None and self._client.tokens.is_renewable:
            error = await self._another_token(session.token, error)
            if error is None:
                return
        if not error.retryable:
            raise error
        log.info("the %s stream ended and is opened again: %s", self._source, error)
        self._client.emit(EventKind.DISCONNECTED, self._source, str(error))
        await asyncio.sleep(self._backoff.delay(error.retry_after))

    async def _another_token(self, token: Token, error: WarrengateError) -> WarrengateError | None:
        if self._tried_another_token:
            return error
        try:
            await self._client.tokens.newer_than(token)
        except WarrengateError as failure:
            # A refusal is less informative than the end of the stream, unless that was caused by the old token.
            return failure if failure.retryable or error.reason.startswith("TOKEN_") else error
        self._tried_another_token = True
        return None

"""Publishing on a stream, with one outcome for each message.

Invariant: a message is in the table of entries until its future is done, and its future is done exactly once.
"""

from __future__ import annotations

import asyncio
import heapq
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grpc import aio

from . import _tracing
from ._stream import CLOSE_TIMEOUT, Recovery, Session
from .errors import ClosedError, PublishError, WarrengateError, from_result, not_sent, unknown_outcome
from .events import EventKind
from .message import Message, to_pb
from .v1 import messaging_pb2 as pb
from .v1.messaging_pb2_grpc import MessagingStub

if TYPE_CHECKING:
    from .client import Client

#: Well below the size limit of a frame, so that only a message that is too large by itself is refused for its size.
_FRAME_BYTES = 256 * 1024
#: Before a message whose outcome the gateway did not learn is sent again.
_RESEND_PAUSE = 0.2
#: Refusals that a later attempt, perhaps at another gateway, need not meet.
_TRANSIENT = ("DRAINING", "BROKER_UNREACHABLE")


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The broker has the message."""

    #: The id of the message, the caller's or the one made by the publisher.
    message_id: str
    #: The trace in which the message is recorded; empty when its trace is not kept.
    trace_id: str


@dataclass(slots=True)
class _Entry:
    publication: pb.Publication
    size: int
    deadline: float
    future: asyncio.Future[Confirmation]
    end_span: Callable[[BaseException | None], None] | None
    #: Whether the present stream has it.
    written: bool = False
    #: Whether an attempt ended without an answer, so that the message may be stored.
    lost: bool = False
    refusal: PublishError | None = None

    @property
    def message_id(self) -> str:
        return self.publication.message.message_id


class Publisher:
    """Publishes to one exchange. Safe to share between tasks; made by :meth:`Client.publisher`."""

    def __init__(
        self,
        client: Client,
        exchange: str,
        max_in_flight: int,
        max_in_flight_bytes: int,
        batch_messages: int,
        timeout: float,
        retry_throttled: bool,
    ) -> None:
        self._client = client
        self.exchange = exchange
        self._max_in_flight = max_in_flight
        self._max_bytes = max_in_flight_bytes
        self._batch_messages = batch_messages
        self._timeout = timeout
        self._retry_throttled = retry_throttled
        self._entries: dict[int, _Entry] = {}
        self._bytes = 0
        self._sequence = 0
        #: Sequences that the present stream has not been given yet, lowest first.
        self._unwritten: list[int] = []
        #: Nothing is written before this moment.
        self._not_before = 0.0
        self._room: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._work = asyncio.Event()
        self._session: _PublishSession | None = None
        self._recovery = Recovery(client, "publisher")
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: Why the last stream ended.
        self._failure: WarrengateError | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        """How many messages have no outcome yet."""
        return len(self._entries)

    async def publish(
        self, message: Message | bytes | str, routing_key: str = "", *, allow_unroutable: bool = False
    ) -> Confirmation:
        """Publish a message and wait for its outcome.

        Returns when the broker has confirmed the message. Raises :class:`UnroutableError`, :class:`RejectedError`,
        :class:`DeniedError`, :class:`ThrottledError`, :class:`UnknownOutcomeError` or :class:`NotSentError` otherwise.
        """
        return await (await self.send(message, routing_key, allow_unroutable=allow_unroutable))

    async def send(
        self, message: Message | bytes | str, routing_key: str = "", *, allow_unroutable: bool = False
    ) -> asyncio.Future[Confirmation]:
        """Hand a message over and return a future with its outcome; waits only while the publisher is full.

        Messages that are sent one after another reach the broker in this order while nothing fails.
        """
        if isinstance(message, str | bytes):
            message = Message(body=message.encode() if isinstance(message, str) else message)
        else:
            message = replace(message, headers=dict(message.headers))
        message.message_id = message.message_id or str(uuid.uuid4())
        end_span = _tracing.start_producer(self.exchange, routing_key, message)
        publication = pb.Publication(
            exchange=self.exchange,
            routing_key=routing_key,
            message=to_pb(message),
            allow_unroutable=allow_unroutable,
        )
        size = publication.ByteSize()
        await self._make_room(size)
        return self._accept(publication, size, end_span)

    async def _make_room(self, size: int) -> None:
        waited = False
        while not self._closed and (self._is_full(size) or (self._room and not waited)):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            # Who has waited keeps the first place.
            (self._room.appendleft if waited else self._room.append)(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._room:
                    self._room.remove(waiter)
                else:
                    self._wake_one()
                raise
            waited = True
        if self._closed:
            raise ClosedError("publisher")

    def _is_full(self, size: int) -> bool:
        count = len(self._entries)
        return count >= self._max_in_flight or (count > 0 and self._bytes + size > self._max_bytes)

    def _accept(
        self, publication: pb.Publication, size: int, end_span: Callable[[BaseException | None], None] | None
    ) -> asyncio.Future[Confirmation]:
        loop = asyncio.get_running_loop()
        self._sequence += 1
        publication.sequence = self._sequence
        entry = _Entry(publication, size, loop.time() + self._timeout, loop.create_future(), end_span)
        self._entries[self._sequence] = entry
        self._bytes += size
        heapq.heappush(self._unwritten, self._sequence)
        self._idle.clear()
        self._wake_one()
        if self._timer is None:
            self._timer = loop.call_at(entry.deadline, self._expire)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        self._wake_session()
        return entry.future

    def _wake_session(self) -> None:
        self._work.set()
        if self._session is not None:
            self._session.wake.set()

    def _wake_one(self) -> None:
        while self._room and not self._is_full(0):
            waiter = self._room.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    # Outcomes.

    def _end(self, sequence: int, outcome: Confirmation | WarrengateError) -> None:
        entry = self._entries.pop(sequence, None)
        if entry is None:
            return
        self._bytes -= entry.size
        error = outcome if isinstance(outcome, WarrengateError) else None
        if entry.end_span is not None:
            entry.end_span(error)
        if not entry.future.done():
            if isinstance(outcome, WarrengateError):
                entry.future.set_exception(outcome)
                # Whoever dropped the future does not want to know.
                entry.future.exception()
            else:
                entry.future.set_result(outcome)
        if not self._entries:
            self._idle.set()
        self._wake_one()

    def take_result(self, result: pb.PublishResult) -> None:
        """Process one outcome."""
        entry = self._entries.get(result.sequence)
        if entry is None:
            return
        if result.outcome == pb.OUTCOME_CONFIRMED:
            self._end(result.sequence, Confirmation(result.message_id, result.trace_id))
            return
        error = from_result(result)
        error.message_id = entry.message_id
        now = asyncio.get_running_loop().time()
        again = error.reason in _TRANSIENT
        if result.outcome == pb.OUTCOME_UNKNOWN:
            entry.lost = again = True
            self._not_before = max(self._not_before, now + _RESEND_PAUSE)
        elif result.outcome == pb.OUTCOME_THROTTLED and self._retry_throttled:
            again = True
            self._not_before = max(self._not_before, now + (error.retry_after or _RESEND_PAUSE))
        if again:
            entry.refusal = error
            entry.written = False
            heapq.heappush(self._unwritten, result.sequence)
            self._wake_session()
        elif entry.lost:
            # An earlier attempt had no answer, so this refusal does not say that the message is not stored.
            self._end(result.sequence, unknown_outcome(entry.message_id, str(error), error.reason))
        else:
            self._end(result.sequence, error)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        for sequence, entry in list(self._entries.items()):
            if entry.deadline > now:
                # All have the same timeout, so they are in the order of their deadlines.
                self._timer = loop.call_at(entry.deadline, self._expire)
                return
            self._end(sequence, self._overdue(entry))

    def _overdue(self, entry: _Entry) -> PublishError:
        if entry.lost or entry.written:
            return unknown_outcome(entry.message_id, "no answer came in time")
        return entry.refusal or not_sent(entry.message_id, str(self._failure or "no gateway took it"))

    # The stream.

    async def _run(self) -> None:
        """Keep a stream open while there is anything to publish; returns when the stream is refused for good."""
        while not (self._closed and not self._entries):
            if not self._entries:
                self._work.clear()
                await self._work.wait()
                continue
            session = self._session = _PublishSession(self, self._client)
            error: WarrengateError | None = None
            try:
                await session.run()
            except WarrengateError as failure:
                error = self._failure = failure
            self._session = None
            self._rewind()
            if self._closed and not self._entries:
                return
            try:
                await self._recovery.after(session, error)
            except WarrengateError as refusal:
                self._fail(refusal)
                return

    def _rewind(self) -> None:
        """Everything without an outcome is written again, in the order of sending."""
        for entry in self._entries.values():
            if entry.written:
                entry.written, entry.lost = False, True
        self._unwritten = list(self._entries)

    def _fail(self, refusal: WarrengateError) -> None:
        for sequence, entry in list(self._entries.items()):
            outcome: WarrengateError = refusal
            if entry.lost:
                outcome = unknown_outcome(entry.message_id, str(refusal), refusal.reason)
                outcome.retryable = refusal.retryable
            self._end(sequence, outcome)

    def next_frame(self) -> pb.PublishRequest | None:
        """Give the next frame of messages; what it holds counts as written."""
        if self.pause_left():
            return None
        publications: list[pb.Publication] = []
        size = 0
        while self._unwritten and len(publications) < self._batch_messages:
            entry = self._entries.get(self._unwritten[0])
            if entry is None or entry.written:
                heapq.heappop(self._unwritten)
                continue
            size += entry.size
            if publications and size > _FRAME_BYTES:
                break
            heapq.heappop(self._unwritten)
            entry.written = True
            publications.append(entry.publication)
        if not publications:
            return None
        return pb.PublishRequest(publications=pb.Publications(publications=publications))

    def pause_left(self) -> float:
        """Say how long nothing may be written."""
        return max(0.0, self._not_before - asyncio.get_running_loop().time())

    def on_connected(self) -> None:
        """Note that the stream is open."""
        self._client.emit(EventKind.CONNECTED, "publisher")

    def on_answer(self) -> None:
        """Note that the stream works."""
        self._recovery.works()

    @property
    def is_closing(self) -> bool:
        """Whether the publisher takes no more messages."""
        return self._closed

    async def flush(self) -> None:
        """Wait until every message has its outcome."""
        await self._idle.wait()

    async def close(self, timeout: float | None = None) -> None:
        """Take no more messages, and wait until every message has its outcome, for this long at most."""
        if not self._closed:
            self._closed = True
            while self._room:
                waiter = self._room.popleft()
                if not waiter.done():
                    waiter.set_result(None)
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            for sequence, entry in list(self._entries.items()):
                self._end(sequence, self._overdue(entry))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._work.set()
        if self._session is not None:
            self._session.close()
            if self._task is not None:
                await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT)
        if self._task is not None:
            self._task.cancel()
        self._client.forget(self)

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _PublishSession(Session[pb.PublishRequest, pb.PublishResponse]):
    def __init__(self, publisher: Publisher, client: Client) -> None:
        super().__init__(client, "publisher")
        self._publisher = publisher

    def open(self, channel: aio.Channel, metadata: tuple[tuple[str, str], ...]) -> Any:
        return MessagingStub(channel).Publish(metadata=metadata)

    async def opened(self, call: Any) -> None:
        # What is written to a stream that the gateway has not accepted would have to count as perhaps stored.
        metadata = await call.initial_metadata()
        if not metadata:
            # A call that is refused has none, and its status is there soon.
            await asyncio.wait({asyncio.ensure_future(call.code())}, timeout=0.5)
        if call.done():
            raise asyncio.InvalidStateError
        self._publisher.on_connected()

    def next_frame(self) -> pb.PublishRequest | None:
        return None if self.draining else self._publisher.next_frame()

    def pause(self) -> float | None:
        return self._publisher.pause_left() or None

    def is_done(self) -> bool:
        # Messages that wait for their time go to the next gateway.
        return self.draining or self._publisher.in_flight == 0

    def reauthentication(self, token: str) -> pb.PublishRequest:
        return pb.PublishRequest(reauthenticate=pb.Reauthenticate(access_token=token))

    def receive(self, response: pb.PublishResponse) -> None:
        match response.WhichOneof("event"):
            case "results":
                self._publisher.on_answer()
                for result in response.results.results:
                    self._publisher.take_result(result)
            case "auth_expiring":
                self.on_expiring()
            case "draining":
                self.on_draining(response.draining.deadline)

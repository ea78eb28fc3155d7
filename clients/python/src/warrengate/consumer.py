"""Consuming a queue: a callback with a concurrency limit, or an iterator.

A settlement is written only to the stream that delivered the message, so a late one cannot apply to another message.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from grpc import aio

from . import _tracing
from ._stream import CLOSE_TIMEOUT, Recovery, Session
from .errors import ClosedError, WarrengateError
from .events import EventKind
from .message import Message, from_pb
from .v1 import messaging_pb2 as pb
from .v1.messaging_pb2_grpc import MessagingStub

if TYPE_CHECKING:
    from .client import Client

log = logging.getLogger("warrengate")

#: Processes a delivery. Returning acknowledges it, an exception retries it later, unless it was settled explicitly. A
#: plain function runs in a thread.
Handler: TypeAlias = Callable[["Delivery"], Awaitable[object] | object]
#: Where to start in a stream queue: an offset, a time, or a word.
Position: TypeAlias = int | datetime | Literal["first", "last", "next"]

#: How long acknowledgements are collected before they are written.
_GATHER = 0.005
_MAX_IDS = 10_000


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """How a queue is consumed."""

    queue: str
    window: int
    max_bytes: int
    lease: float
    max_lease: float
    position: Position | None
    exclusive: bool
    priority: int

    def start(self, resume_from: int | None) -> pb.SubscribeRequest:
        """Return the first frame; a stream queue resumes at its position."""
        start = pb.SubscribeStart(
            queue=self.queue,
            max_outstanding_messages=self.window,
            max_outstanding_bytes=self.max_bytes,
            exclusive=self.exclusive,
            priority=self.priority,
        )
        start.ack_deadline.FromTimedelta(timedelta(seconds=self.lease))
        position = self.position if resume_from is None else resume_from
        if isinstance(position, datetime):
            start.position.timestamp.FromDatetime(position.replace(microsecond=0))
        elif isinstance(position, int):
            start.position.offset = position
        elif position is not None:
            getattr(start.position, position).SetInParent()
        return pb.SubscribeRequest(start=start)


class Delivery:
    """A message delivered to this consumer, to be settled by exactly one of the methods."""

    __slots__ = (
        "_session",
        "attempt",
        "delivery_id",
        "exchange",
        "message",
        "received_at",
        "redelivered",
        "routing_key",
        "settled",
        "started",
        "stream_offset",
    )

    def __init__(self, session: _SubscribeSession, delivery: pb.Delivery, received_at: float) -> None:
        self._session = session
        #: The number of the delivery on its stream.
        self.delivery_id = delivery.delivery_id
        #: The message.
        self.message: Message = from_pb(delivery.message)
        #: The exchange it was published to; empty for the default exchange.
        self.exchange = delivery.exchange
        #: The routing key it was published with.
        self.routing_key = delivery.routing_key
        #: Whether it may have been delivered before.
        self.redelivered = delivery.redelivered
        #: 1 for the first attempt.
        self.attempt = delivery.attempt
        #: Its offset in a stream queue.
        self.stream_offset: int | None = delivery.stream_offset if delivery.HasField("stream_offset") else None
        #: Whether it was settled by the application.
        self.settled = False
        self.started = False
        self.received_at = received_at

    @property
    def body(self) -> bytes:
        """The body of the message."""
        return self.message.body

    @property
    def is_current(self) -> bool:
        """Whether a settlement can still have an effect; otherwise the message is delivered again."""
        return self._session.holds(self)

    def ack(self) -> None:
        """Acknowledge the message."""
        self._settle(None)

    def retry(self, delay: timedelta | float | None = None, reason: str = "") -> None:
        """Deliver the message again later: after this delay (seconds), or after the queue's back-off."""
        nack = pb.Nack(action=pb.NACK_ACTION_RETRY, reason=_short(reason))
        if delay is not None:
            nack.delay.FromTimedelta(delay if isinstance(delay, timedelta) else timedelta(seconds=delay))
        self._settle(nack)

    def dead_letter(self, reason: str = "") -> None:
        """Move the message to the tenant's dead letters."""
        self._settle(pb.Nack(action=pb.NACK_ACTION_DEAD_LETTER, reason=_short(reason)))

    def drop(self) -> None:
        """Discard the message."""
        self._settle(pb.Nack(action=pb.NACK_ACTION_DROP))

    def _settle(self, nack: pb.Nack | None) -> None:
        if not self.settled:
            self.settled = True
            self._session.settle(self, nack)

    def __repr__(self) -> str:
        return f"Delivery({self.routing_key!r}, id={self.message.message_id!r}, attempt={self.attempt})"


def _short(reason: str) -> str:
    # The gateway's limit is 1,024 bytes.
    return reason.encode()[:1024].decode(errors="ignore")


class Consumer:
    """An open subscription that survives its streams; see :meth:`Client.consume` and :meth:`Client.messages`."""

    def __init__(self, client: Client, options: ConsumeOptions, handler: Handler | None, concurrency: int) -> None:
        self.client = client
        self.options = options
        self._handler = handler
        self._concurrency = concurrency
        self._is_async = handler is not None and _is_async(handler)
        self._threads: ThreadPoolExecutor | None = None
        self._ready: deque[Delivery] = deque()
        self._waiters: deque[asyncio.Future[Delivery | None]] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        #: Workers that will take another delivery. A worker leaves the set above only some time after its end.
        self._active = 0
        self._running = 0
        self._session: _SubscribeSession | None = None
        self._recovery = Recovery(client, options.queue)
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = False
        self._resume_from: int | None = None
        self._task = asyncio.create_task(self._run())
        #: The error that ended the consumer.
        self.error: WarrengateError | None = None

    async def start(self, timeout: float) -> None:
        """Wait until the gateway has accepted the subscription."""
        try:
            await asyncio.wait_for(asyncio.shield(self._started), timeout)
        except TimeoutError:
            await self.close(0)
            if self.error is not None:
                raise self.error from None
            raise WarrengateError(
                f"the subscription of {self.options.queue} did not start in time",
                reason="REQUEST_TIMEOUT",
                code="DEADLINE_EXCEEDED",
                retryable=True,
            ) from None

    @property
    def running(self) -> int:
        """The number of running handlers."""
        return self._running

    @property
    def is_finished(self) -> bool:
        """Whether the subscription has ended."""
        return self._task.done()

    async def wait(self) -> None:
        """Wait until the consumer has ended; raises the error that ended it."""
        await asyncio.shield(self._task)
        if self.error is not None:
            raise self.error

    # Deliveries.

    def deliver(self, deliveries: list[Delivery]) -> None:
        """Receive deliveries of the current stream."""
        self._ready.extend(deliveries)
        while self._ready and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(self._take())
        if self._handler is not None:
            for _ in range(min(len(self._ready), self._concurrency - self._active)):
                self._active += 1
                worker = asyncio.create_task(self._work())
                self._workers.add(worker)
                worker.add_done_callback(self._workers.discard)

    def discard_ready(self) -> None:
        """Drop deliveries that were not started; they are delivered again."""
        self._ready.clear()

    def _take(self) -> Delivery:
        delivery = self._ready.popleft()
        delivery.started = True
        return delivery

    async def next(self) -> Delivery | None:
        """Wait for the next delivery; `None` when the consumer has ended in order."""
        if self._ready:
            return self._take()
        if self._closing or self._task.done():
            if self.error is not None:
                raise self.error
            return None
        waiter: asyncio.Future[Delivery | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            delivery = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (taken := waiter.result()) is not None:
                taken.started = False
                self._ready.appendleft(taken)
            raise
        if delivery is None and self.error is not None:
            raise self.error
        return delivery

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while (delivery := await self.next()) is not None:
            yield delivery

    async def _work(self) -> None:
        """Run handlers one after another, until nothing is ready."""
        while self._ready:
            delivery = self._take()
            self._running += 1
            try:
                with _tracing.consumer_span(self.options.queue, delivery.message, delivery.attempt):
                    await self._call(delivery)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if not delivery.settled:
                    log.warning("the handler of %s failed, the message is retried: %r", self.options.queue, error)
                    delivery.retry(reason=f"{type(error).__name__}: {error}")
            else:
                delivery.ack()
            finally:
                self._running -= 1
        self._active -= 1

    async def _call(self, delivery: Delivery) -> None:
        if self._handler is None:
            return
        if self._is_async:
            await self._handler(delivery)  # type: ignore[misc]
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="warrengate")
        await asyncio.get_running_loop().run_in_executor(self._threads, self._handler, delivery)

    # Streams.

    async def _run(self) -> None:
        try:
            while not self._closing:
                session = self._session = _SubscribeSession(self)
                error: WarrengateError | None = None
                try:
                    await session.run()
                except WarrengateError as failure:
                    error = failure
                self._resume_from = session.resume_from(self._resume_from)
                session.invalidate()
                if not self._closing:
                    await self._after(session, error)
        except WarrengateError as refusal:
            self.error = refusal
            log.error("the consumer of %s has ended: %s", self.options.queue, refusal)  # noqa: TRY400
        finally:
            self._session = None
            self._end()

    async def _after(self, session: _SubscribeSession, error: WarrengateError | None) -> None:
        # A plan's limit of streams refuses the first stream. A later one may only have been opened before the gateway
        # noticed the end of its predecessor.
        if error is not None and not self._started.done() and error.code == "RESOURCE_EXHAUSTED":
            raise error
        await self._recovery.after(session, error)

    def _end(self) -> None:
        if not self._started.done():
            if self.error is not None:
                self._started.set_exception(self.error)
                self._started.exception()
            else:
                self._started.set_result(None)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._ready.clear()

    def on_started(self) -> None:
        """Record that the gateway accepted the subscription."""
        self._recovery.works()
        self.client.emit(EventKind.CONNECTED, self.options.queue)
        if not self._started.done():
            self._started.set_result(None)

    def resume_from(self) -> int | None:
        """Return where the next stream of a stream queue starts."""
        return self._resume_from

    @property
    def closing_time(self) -> float:
        """The default time limit for closing: for handlers, but none for the iterator form."""
        return 0.0 if self._handler is None else 30.0

    async def close(self, timeout: float | None = None) -> None:
        """Stop consuming, wait until started deliveries are settled, and end the stream; the rest is delivered again.

        By default handlers have 30 s. Deliveries of the iterator form, which only the application can settle, are not
        waited for.
        """
        timeout = self.closing_time if timeout is None else timeout
        if self._closing:
            await asyncio.wait({self._task})
            return
        self._closing = True
        self.discard_ready()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        session = self._session
        if session is not None and session.channel is not None:
            session.close()
        else:
            # There is no stream to close in order.
            self._task.cancel()
        await asyncio.wait({self._task, *self._workers}, timeout=timeout)
        if session is not None and not self._task.done():
            session.stop_waiting()
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT)
        for task in (*self._workers, self._task):
            task.cancel()
        await asyncio.gather(*self._workers, self._task, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.forget(self)

    async def __aenter__(self) -> Consumer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def ensure_open(self) -> None:
        """Raise when the consumer has ended."""
        if self._task.done():
            raise self.error or ClosedError("consumer")


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


class _SubscribeSession(Session[pb.SubscribeRequest, pb.SubscribeResponse]):
    def __init__(self, consumer: Consumer) -> None:
        super().__init__(consumer.client, consumer.options.queue)
        self._consumer = consumer
        self._options = consumer.options
        self._start: pb.SubscribeRequest | None = consumer.options.start(consumer.resume_from())
        #: Deliveries that are not settled at the gateway, in the order of delivery.
        self._outstanding: dict[int, Delivery] = {}
        self._acks: set[int] = set()
        self._nacks: deque[pb.Nack] = deque()
        self._extensions: deque[pb.ExtendLease] = deque()
        self._lease = consumer.options.lease
        self._extend_timer: asyncio.TimerHandle | None = None
        self._last_offset: int | None = None
        self._given_up = False

    def open(self, channel: aio.Channel, metadata: tuple[tuple[str, str], ...]) -> Any:
        return MessagingStub(channel).Subscribe(metadata=metadata)

    def reauthentication(self, token: str) -> pb.SubscribeRequest:
        return pb.SubscribeRequest(reauthenticate=pb.Reauthenticate(access_token=token))

    async def gather(self) -> None:
        if self._acks and len(self._acks) < 64 and not self._nacks and not self.closing:
            await asyncio.sleep(_GATHER)

    def next_frame(self) -> pb.SubscribeRequest | None:
        if self._start is not None:
            start, self._start = self._start, None
            return start
        if self._nacks:
            return pb.SubscribeRequest(nack=self._nacks.popleft())
        if self._acks:
            return pb.SubscribeRequest(ack=self._next_ack())
        if self._extensions:
            return pb.SubscribeRequest(extend_lease=self._extensions.popleft())
        return None

    def _next_ack(self) -> pb.Ack:
        """Acknowledge all deliveries before the first unsettled one by one number, and the others by their ids."""
        ack = pb.Ack()
        for delivery_id in self._outstanding:
            if delivery_id not in self._acks:
                break
            ack.through = delivery_id
        if ack.through:
            while self._outstanding and (first := next(iter(self._outstanding))) <= ack.through:
                del self._outstanding[first]
                self._acks.discard(first)
        else:
            ack.delivery_ids.extend(sorted(self._acks)[:_MAX_IDS])
            for delivery_id in ack.delivery_ids:
                self._acks.discard(delivery_id)
                self._outstanding.pop(delivery_id, None)
        return ack

    def is_done(self) -> bool:
        if self._given_up:
            return True
        return all(delivery.settled or not delivery.started for delivery in self._outstanding.values())

    def stop_waiting(self) -> None:
        """Stop waiting for handlers."""
        self._given_up = True
        self.wake.set()

    # Settlements.

    def holds(self, delivery: Delivery) -> bool:
        return self._outstanding.get(delivery.delivery_id) is delivery

    def settle(self, delivery: Delivery, nack: pb.Nack | None) -> None:
        if delivery.stream_offset is not None:
            self._last_offset = max(delivery.stream_offset, self._last_offset or 0)
        if not self.holds(delivery):
            return
        if nack is None:
            self._acks.add(delivery.delivery_id)
        else:
            del self._outstanding[delivery.delivery_id]
            nack.delivery_ids.append(delivery.delivery_id)
            self._nacks.append(nack)
        self.wake.set()

    def resume_from(self, previous: int | None) -> int | None:
        """Return where to resume in a stream queue: at the first unsettled message."""
        left = [d.stream_offset for d in self._outstanding.values() if not d.settled and d.stream_offset is not None]
        if left:
            return min(left)
        return previous if self._last_offset is None else self._last_offset + 1

    def invalidate(self) -> None:
        """Invalidate every id; those messages are delivered again."""
        self._outstanding.clear()
        self._acks.clear()
        self._nacks.clear()
        self._extensions.clear()
        self._consumer.discard_ready()
        if self._extend_timer is not None:
            self._extend_timer.cancel()
            self._extend_timer = None

    # Frames from the gateway.

    def receive(self, response: pb.SubscribeResponse) -> None:
        match response.WhichOneof("event"):
            case "deliveries":
                self._take(response.deliveries)
            case "started":
                self._lease = response.started.ack_deadline.ToTimedelta().total_seconds() or self._lease
                self._consumer.on_started()
            case "settled":
                self._on_settled(response.settled)
            case "interrupted":
                resume = self.resume_from(None)
                self.invalidate()
                self._last_offset = None if resume is None else resume - 1
                self.client.emit(EventKind.INTERRUPTED, self.source, response.interrupted.reason)
            case "resumed":
                self.client.emit(EventKind.RESUMED, self.source)
            case "auth_expiring":
                self.on_expiring()
            case "draining":
                self._consumer.discard_ready()
                self.on_draining(response.draining.deadline)

    def _take(self, deliveries: pb.Deliveries) -> None:
        now = asyncio.get_running_loop().time()
        batch = [Delivery(self, delivery, now) for delivery in deliveries.deliveries]
        self._outstanding.update((delivery.delivery_id, delivery) for delivery in batch)
        if self._extend_timer is None:
            self._extend_timer = asyncio.get_running_loop().call_later(self._lease / 3, self._extend)
        # Deliveries that are not started when the stream is about to end are delivered again.
        if not (self.closing or self.draining):
            self._consumer.deliver(batch)

    def _on_settled(self, settled: pb.Settled) -> None:
        for delivery_id in settled.expired_delivery_ids:
            self._outstanding.pop(delivery_id, None)
            self._acks.discard(delivery_id)
        if settled.expired_delivery_ids:
            count = len(settled.expired_delivery_ids)
            log.warning("%d leases of %s ran out; the messages are delivered again", count, self.source)
            self.client.emit(EventKind.LEASE_EXPIRED, self.source, f"{count} messages")

    def _extend(self) -> None:
        """Extend every lease that would expire before the next check, unless that exceeds the maximum."""
        loop = asyncio.get_running_loop()
        self._extend_timer = loop.call_later(self._lease / 3, self._extend) if self._outstanding else None
        now = loop.time()
        ids = [
            delivery.delivery_id
            for delivery in self._outstanding.values()
            if not delivery.settled
            and now - delivery.received_at > self._lease / 4
            and now + self._lease <= delivery.received_at + self._options.max_lease
        ]
        for first in range(0, len(ids), _MAX_IDS):
            self._extensions.append(pb.ExtendLease(delivery_ids=ids[first : first + _MAX_IDS]))
        if ids:
            self.wake.set()

"""The client: one gateway, one set of credentials, and everything that uses them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, Unpack

import grpc

from ._connection import Backoff, Connection
from ._options import EnvironmentOptions
from ._tokens import Tokens, TokenSource
from .consumer import ConsumeOptions, Consumer, Delivery, Handler, Position
from .errors import ClosedError, ConfigurationError, WarrengateError, from_rpc
from .events import Event, EventKind, EventListener
from .message import Message
from .publisher import Publisher
from .services import Admin, DeadLetters, Topology
from .v1 import auth_pb2
from .v1.auth_pb2_grpc import AuthStub

log = logging.getLogger("warrengate")

Response = TypeVar("Response")


class Client:
    """A connection to a gateway, created by :func:`connect` or :func:`from_env`."""

    def __init__(
        self,
        endpoint: str,
        *,
        ca: str | Path | bytes | None = None,
        client_id: str = "",
        client_secret: str = "",
        token: str | TokenSource | None = None,
        token_lifetime: float | None = None,
        call_timeout: float = 30.0,
        on_event: EventListener | None = None,
    ) -> None:
        if token is None and not (client_id and client_secret):
            raise ConfigurationError("credentials are missing: give a client id and its secret, or a token")
        self.endpoint = endpoint
        #: Queues, exchanges and bindings.
        self.topology = Topology(self)
        #: Dead letters.
        self.dead_letters = DeadLetters(self)
        #: Tenants, clients and plans, for administrators.
        self.admin = Admin(self)
        self.connection = Connection(endpoint, ca)
        is_text = isinstance(token, str)
        self.tokens = Tokens(
            self.connection,
            client_id,
            client_secret,
            None if is_text or token is None else token,  # type: ignore[arg-type]
            token if is_text else None,  # type: ignore[arg-type]
            token_lifetime,
        )
        self._call_timeout = call_timeout
        self._listener = on_event
        self._publishers: set[Publisher] = set()
        self._consumers: set[Consumer] = set()
        self._closed = False
        self._replies: _Replies | None = None
        self._replies_lock = asyncio.Lock()

    # Calls.

    async def call(
        self,
        method: Callable[[grpc.aio.Channel], Callable[..., Awaitable[Response]]],
        request: Any,
        timeout: float | None = None,
    ) -> Response:
        """Make a unary call with the token attached; raises errors of this library."""
        deadline = time.monotonic() + (timeout if timeout is not None else self._call_timeout)
        tried_another_token = False
        while True:
            self._ensure_open()
            token = await self.tokens.get()
            try:
                return await method(self.connection.channel)(
                    request,
                    metadata=(("authorization", f"Bearer {token.text}"),),
                    timeout=max(deadline - time.monotonic(), 0.001),
                    wait_for_ready=True,
                )
            except grpc.aio.AioRpcError as failure:
                error = from_rpc(failure, self.endpoint)
            if error.code != "UNAUTHENTICATED" or tried_another_token or not self.tokens.is_renewable:
                raise error
            tried_another_token = True
            await self.tokens.newer_than(token)

    async def whoami(self) -> auth_pb2.WhoAmIResponse:
        """Return the client's own identity and grants."""
        return await self.call(lambda channel: AuthStub(channel).WhoAmI, auth_pb2.WhoAmIRequest())

    async def authenticate(self, timeout: float) -> None:
        """Connect to the gateway and check the credentials; retries until the timeout."""
        deadline, backoff = time.monotonic() + timeout, Backoff()
        while True:
            left = max(deadline - time.monotonic(), 0.01)
            try:
                async with asyncio.timeout(left):
                    await self.tokens.get()
                    await self.call(lambda channel: AuthStub(channel).WhoAmI, auth_pb2.WhoAmIRequest(), left)
                    return
            except TimeoutError:
                error: WarrengateError = WarrengateError(
                    f"the gateway at {self.endpoint} cannot be reached: no answer within {timeout:g} s",
                    reason="GATEWAY_UNREACHABLE",
                    code="UNAVAILABLE",
                    retryable=True,
                )
            except WarrengateError as failure:
                error = failure
            delay = backoff.delay(error.retry_after)
            if not error.retryable or time.monotonic() + delay >= deadline:
                raise error
            await asyncio.sleep(delay)

    # Publishing and consuming.

    def publisher(
        self,
        exchange: str = "",
        *,
        max_in_flight: int = 1000,
        max_in_flight_bytes: int = 32 * 1024 * 1024,
        batch_messages: int = 64,
        timeout: float = 60.0,
        retry_throttled: bool = True,
    ) -> Publisher:
        """Create a publisher for an exchange; the default exchange routes to the queue named by the routing key.

        A message ends after `timeout` seconds at the latest. Until then it is sent again, with the same id, when its
        outcome is unknown, and when it was throttled unless `retry_throttled` is false.
        """
        self._ensure_open()
        publisher = Publisher(
            self, exchange, max_in_flight, max_in_flight_bytes, batch_messages, timeout, retry_throttled
        )
        self._publishers.add(publisher)
        return publisher

    async def consume(
        self,
        queue: str,
        handler: Handler,
        *,
        concurrency: int = 1,
        window: int = 256,
        max_bytes: int = 16 * 1024 * 1024,
        lease: float = 60.0,
        max_lease: float = 3600.0,
        position: Position | None = None,
        exclusive: bool = False,
        priority: int = 0,
    ) -> Consumer:
        """Call a handler for each message, up to `concurrency` at a time.

        Returning acknowledges the message, an exception retries it with the queue's back-off. Leases are extended
        while a handler works, up to `max_lease` seconds. Returns when the gateway has accepted the subscription.
        """
        options = ConsumeOptions(
            queue, max(window, concurrency), max_bytes, lease, max_lease, position, exclusive, priority
        )
        return await self._open(options, handler, concurrency)

    async def messages(
        self,
        queue: str,
        *,
        window: int = 256,
        max_bytes: int = 16 * 1024 * 1024,
        lease: float = 60.0,
        max_lease: float = 3600.0,
        position: Position | None = None,
        exclusive: bool = False,
        priority: int = 0,
    ) -> Consumer:
        """Open a consumer to iterate over: ``async for delivery in await client.messages("orders")``.

        Each delivery must be settled; its lease is extended until then, up to `max_lease` seconds.
        """
        options = ConsumeOptions(queue, window, max_bytes, lease, max_lease, position, exclusive, priority)
        return await self._open(options, None, 1)

    async def _open(self, options: ConsumeOptions, handler: Handler | None, concurrency: int) -> Consumer:
        self._ensure_open()
        consumer = Consumer(self, options, handler, concurrency)
        self._consumers.add(consumer)
        try:
            await consumer.start(self._call_timeout)
        except WarrengateError:
            self.forget(consumer)
            raise
        return consumer

    # Request and reply.

    async def request(
        self, routing_key: str, message: Message | bytes | str, *, exchange: str = "", timeout: float = 10.0
    ) -> Message:
        """Publish a request and wait for the reply; needs the configure and subscribe grants on ``reply.#``."""
        self._ensure_open()
        async with self._replies_lock:
            if self._replies is None:
                self._replies = await _Replies.open(self)
        return await self._replies.request(exchange, routing_key, message, timeout)

    async def respond(
        self, queue: str, handler: Callable[[Delivery], Awaitable[Message | bytes | str]], *, concurrency: int = 8
    ) -> Consumer:
        """Reply to each request of a queue with the result of the handler."""
        publisher = self.publisher()

        async def answer(delivery: Delivery) -> None:
            reply = _message(await handler(delivery))
            if delivery.message.reply_to:
                correlation_id = delivery.message.correlation_id or delivery.message.message_id
                await publisher.publish(replace(reply, correlation_id=correlation_id), delivery.message.reply_to)

        return await self.consume(queue, answer, concurrency=concurrency)

    # Lifecycle.

    def emit(self, kind: EventKind, source: str, detail: str = "") -> None:
        """Notify the listener."""
        log.debug("%s: %s %s", source, kind.value, detail)
        if self._listener is not None:
            try:
                self._listener(Event(kind, source, detail))
            except Exception:
                log.exception("the event listener failed")

    def forget(self, member: Publisher | Consumer) -> None:
        """Record that a publisher or consumer has ended."""
        self._publishers.discard(member)
        self._consumers.discard(member)

    def _ensure_open(self) -> None:
        if self._closed:
            raise ClosedError

    async def close(self, timeout: float = 30.0) -> None:
        """Stop consuming, wait for handlers and outcomes for at most this time, then close the connection."""
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + timeout
        await asyncio.gather(
            *(consumer.close(timeout if consumer.closing_time else 0) for consumer in list(self._consumers))
        )
        left = max(deadline - time.monotonic(), 0.0)
        await asyncio.gather(*(publisher.close(left) for publisher in list(self._publishers)))
        await self.connection.close()
        self.emit(EventKind.CLOSED, "client")

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Replies:
    """The reply queue of a client, and the pending requests."""

    def __init__(self, client: Client, queue: str) -> None:
        self._queue = queue
        self._client = client
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._publishers: dict[str, Publisher] = {}

    @classmethod
    async def open(cls, client: Client) -> _Replies:
        replies = cls(client, f"reply.{uuid.uuid4().hex}")
        # The broker deletes it when the client disconnects.
        await client.topology.declare_queue(replies._queue, type="classic", expires=timedelta(minutes=5))
        await client.consume(replies._queue, replies._take, concurrency=32)
        return replies

    async def _take(self, delivery: Delivery) -> None:
        waiter = self._waiting.pop(delivery.message.correlation_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(delivery.message)

    async def request(self, exchange: str, routing_key: str, message: Message | bytes | str, timeout: float) -> Message:
        correlation_id = str(uuid.uuid4())
        waiter: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = waiter
        if exchange not in self._publishers:
            self._publishers[exchange] = self._client.publisher(exchange)
        ttl = timedelta(milliseconds=int(timeout * 1000))
        request = replace(_message(message), correlation_id=correlation_id, reply_to=self._queue, ttl=ttl)
        try:
            async with asyncio.timeout(timeout):
                await self._publishers[exchange].publish(request, routing_key)
                return await waiter
        except TimeoutError:
            raise WarrengateError(
                f"no reply within {timeout:g} s", reason="REQUEST_TIMEOUT", code="DEADLINE_EXCEEDED", retryable=True
            ) from None
        finally:
            self._waiting.pop(correlation_id, None)


def _message(value: Message | bytes | str) -> Message:
    if isinstance(value, Message):
        return value
    return Message(body=value.encode() if isinstance(value, str) else value)


async def open_client(
    endpoint: str,
    *,
    ca: str | Path | bytes | None = None,
    client_id: str = "",
    client_secret: str = "",
    token: str | TokenSource | None = None,
    token_lifetime: float | None = None,
    connect_timeout: float = 10.0,
    call_timeout: float = 30.0,
    on_event: EventListener | None = None,
) -> Client:
    """Connect, and return a client that must be closed; see :func:`connect`."""
    client = Client(
        endpoint,
        ca=ca,
        client_id=client_id,
        client_secret=client_secret,
        token=token,
        token_lifetime=token_lifetime,
        call_timeout=call_timeout,
        on_event=on_event,
    )
    try:
        await client.authenticate(connect_timeout)
    except BaseException:
        await client.connection.close()
        raise
    return client


@asynccontextmanager
async def connect(
    endpoint: str,
    *,
    ca: str | Path | bytes | None = None,
    client_id: str = "",
    client_secret: str = "",
    token: str | TokenSource | None = None,
    token_lifetime: float | None = None,
    connect_timeout: float = 10.0,
    call_timeout: float = 30.0,
    on_event: EventListener | None = None,
) -> AsyncIterator[Client]:
    """Connect to a gateway such as ``https://127.0.0.1:8443``, and close the client at the end of the block.

    `ca` is the path or the content of a PEM file with the authority to trust; without it, the system's authorities
    are trusted. Provide either `client_id` and `client_secret`, or `token`: a token, or a coroutine function that
    fetches one when it is needed. Raises when the gateway cannot be reached within `connect_timeout` seconds or
    refuses the credentials.
    """
    client = await open_client(
        endpoint,
        ca=ca,
        client_id=client_id,
        client_secret=client_secret,
        token=token,
        token_lifetime=token_lifetime,
        connect_timeout=connect_timeout,
        call_timeout=call_timeout,
        on_event=on_event,
    )
    async with client:
        yield client


def environment() -> dict[str, str]:
    """Read the endpoint and the credentials from `WARRENGATE_*` variables."""
    names = {
        "endpoint": "WARRENGATE_ENDPOINT",
        "ca": "WARRENGATE_CA",
        "client_id": "WARRENGATE_CLIENT_ID",
        "client_secret": "WARRENGATE_CLIENT_SECRET",
        "token": "WARRENGATE_TOKEN",
    }
    values = {option: value for option, name in names.items() if (value := os.environ.get(name))}
    if "endpoint" not in values:
        raise ConfigurationError(
            "WARRENGATE_ENDPOINT is not set: the gateway's address, such as https://127.0.0.1:8443"
        )
    return values


@asynccontextmanager
async def from_env(**options: Unpack[EnvironmentOptions]) -> AsyncIterator[Client]:
    """Connect with `WARRENGATE_ENDPOINT`, `WARRENGATE_CA`, and `WARRENGATE_CLIENT_ID` and `WARRENGATE_CLIENT_SECRET` or
    `WARRENGATE_TOKEN`; options are those of :func:`connect`.
    """  # noqa: D205
    combined: Any = {**environment(), **options}
    async with connect(**combined) as client:
        yield client

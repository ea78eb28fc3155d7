"""The library without asyncio: the same client on an event loop in a separate thread.

Every object may be used from any thread. Handlers run in threads, up to the concurrency of their consumer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar, Unpack

from . import client as _async
from ._options import (
    ConnectOptions,
    ConsumeOptions,
    DeadLetterOptions,
    EnvironmentOptions,
    MessagesOptions,
    PublisherOptions,
    PublishOptions,
    RequestOptions,
)
from .consumer import Consumer as _Consumer
from .consumer import Delivery as _Delivery
from .errors import WarrengateError
from .message import Message
from .publisher import Confirmation
from .publisher import Publisher as _Publisher
from .services import Admin as _Admin
from .services import DeadLetters as _DeadLetters
from .services import Topology as _Topology
from .v1.auth_pb2 import WhoAmIResponse
from .v1.topology_pb2 import DeadLetter

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class _Loop:
    """An event loop in a separate thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="warrengate", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end; an interruption of the caller cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def blocking(self, method: Callable[Arguments, Awaitable[Result]]) -> Callable[Arguments, Result]:
        """Return a method that waits for the result of another one, with the same arguments."""

        @wraps(method)
        def wait(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            async def result() -> Result:
                return await method(*arguments, **options)

            return self.run(result())

        return wait

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the loop, and return at once."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Delivery:
    """A message delivered to this consumer; see :class:`warrengate.Delivery`."""

    def __init__(self, loop: _Loop, delivery: _Delivery) -> None:
        self._loop = loop
        self._delivery = delivery
        #: The message.
        self.message: Message = delivery.message
        #: 1 for the first attempt.
        self.attempt: int = delivery.attempt
        #: The exchange it was published to.
        self.exchange: str = delivery.exchange
        #: The routing key it was published with.
        self.routing_key: str = delivery.routing_key
        #: Its offset in a stream queue.
        self.stream_offset: int | None = delivery.stream_offset
        self._settled = False

    @property
    def body(self) -> bytes:
        """The body of the message."""
        return self.message.body

    @property
    def settled(self) -> bool:
        """Whether it was settled by the application."""
        return self._settled

    def ack(self) -> None:
        """Acknowledge the message."""
        self._settle(self._delivery.ack)

    def retry(self, delay: timedelta | float | None = None, reason: str = "") -> None:
        """Deliver the message again later: after this delay (seconds), or after the queue's back-off."""
        self._settle(self._delivery.retry, delay, reason)

    def dead_letter(self, reason: str = "") -> None:
        """Move the message to the tenant's dead letters."""
        self._settle(self._delivery.dead_letter, reason)

    def drop(self) -> None:
        """Discard the message."""
        self._settle(self._delivery.drop)

    def _settle(self, how: Callable[..., object], *arguments: object) -> None:
        self._settled = True
        self._loop.call(how, *arguments)


class Publisher:
    """Publishes to one exchange; see :class:`warrengate.Publisher`."""

    def __init__(self, loop: _Loop, publisher: _Publisher) -> None:
        self._loop = loop
        self._publisher = publisher

    def publish(
        self, message: Message | bytes | str, routing_key: str = "", **options: Unpack[PublishOptions]
    ) -> Confirmation:
        """Publish a message and wait for its outcome."""
        return self._loop.run(self._publisher.publish(message, routing_key, **options))

    def send(
        self, message: Message | bytes | str, routing_key: str = "", **options: Unpack[PublishOptions]
    ) -> Future[Confirmation]:
        """Queue a message and return a future of its outcome; waits only while the publisher is full."""
        outcome: Future[Confirmation] = Future()

        def done(sent: asyncio.Future[Confirmation]) -> None:
            if sent.cancelled():
                outcome.cancel()
            elif (error := sent.exception()) is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(sent.result())

        async def send() -> None:
            (await self._publisher.send(message, routing_key, **options)).add_done_callback(done)

        self._loop.run(send())
        return outcome

    def flush(self) -> None:
        """Wait until every message has its outcome."""
        self._loop.run(self._publisher.flush())

    def close(self, timeout: float | None = None) -> None:
        """Accept no more messages, and wait until every message has its outcome."""
        self._loop.run(self._publisher.close(timeout))

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Consumer:
    """An open subscription; see :class:`warrengate.Consumer`."""

    def __init__(self, loop: _Loop, consumer: _Consumer) -> None:
        self._loop = loop
        self._consumer = consumer

    @property
    def error(self) -> WarrengateError | None:
        """The error that ended the consumer."""
        return self._consumer.error

    def next(self, timeout: float | None = None) -> Delivery | None:
        """Wait for the next delivery; `None` when the consumer has ended. Raises `TimeoutError` after the timeout."""

        async def following() -> _Delivery | None:
            async with asyncio.timeout(timeout):
                return await self._consumer.next()

        delivery = self._loop.run(following())
        return None if delivery is None else Delivery(self._loop, delivery)

    def __iter__(self) -> Iterator[Delivery]:
        while (delivery := self.next()) is not None:
            yield delivery

    def wait(self) -> None:
        """Wait until the consumer has ended; raises the error that ended it."""
        self._loop.run(self._consumer.wait())

    def close(self, timeout: float | None = None) -> None:
        """Stop consuming, wait for the handlers, settle, and end the stream."""
        self._loop.run(self._consumer.close(timeout))

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Topology:
    """Exchanges, queues and bindings; see :class:`warrengate.services.Topology`."""

    def __init__(self, loop: _Loop, service: _Topology) -> None:
        self.declare_queue = loop.blocking(service.declare_queue)
        self.delete_queue = loop.blocking(service.delete_queue)
        self.purge_queue = loop.blocking(service.purge_queue)
        self.queue_status = loop.blocking(service.queue_status)
        self.list_queues = loop.blocking(service.list_queues)
        self.declare_exchange = loop.blocking(service.declare_exchange)
        self.delete_exchange = loop.blocking(service.delete_exchange)
        self.bind = loop.blocking(service.bind)
        self.unbind = loop.blocking(service.unbind)
        self.get_queue = loop.blocking(service.get_queue)
        self.get_exchange = loop.blocking(service.get_exchange)
        self.list_exchanges = loop.blocking(service.list_exchanges)
        self.list_bindings = loop.blocking(service.list_bindings)


class DeadLetters:
    """Dead letters; see :class:`warrengate.services.DeadLetters`."""

    def __init__(self, loop: _Loop, service: _DeadLetters) -> None:
        self._loop = loop
        self._letters = service
        self.redrive = loop.blocking(service.redrive)
        self.purge = loop.blocking(service.purge)

    def list(self, queue: str = "", **filters: Unpack[DeadLetterOptions]) -> list[DeadLetter]:
        """Return dead letters, oldest first, without removing them."""

        async def collect() -> list[DeadLetter]:
            return [letter async for letter in self._letters.list(queue, **filters)]

        return self._loop.run(collect())


class Admin:
    """Tenants, clients and plans; see :class:`warrengate.services.Admin`."""

    def __init__(self, loop: _Loop, service: _Admin) -> None:
        self.create_tenant = loop.blocking(service.create_tenant)
        self.get_tenant = loop.blocking(service.get_tenant)
        self.list_tenants = loop.blocking(service.list_tenants)
        self.update_tenant = loop.blocking(service.update_tenant)
        self.suspend_tenant = loop.blocking(service.suspend_tenant)
        self.resume_tenant = loop.blocking(service.resume_tenant)
        self.delete_tenant = loop.blocking(service.delete_tenant)
        self.get_tenant_usage = loop.blocking(service.get_tenant_usage)
        self.list_plans = loop.blocking(service.list_plans)
        self.get_plan = loop.blocking(service.get_plan)
        self.create_plan = loop.blocking(service.create_plan)
        self.update_plan = loop.blocking(service.update_plan)
        self.delete_plan = loop.blocking(service.delete_plan)
        self.create_client = loop.blocking(service.create_client)
        self.list_clients = loop.blocking(service.list_clients)
        self.update_client = loop.blocking(service.update_client)
        self.revoke_client = loop.blocking(service.revoke_client)
        self.rotate_client_secret = loop.blocking(service.rotate_client_secret)
        self.rotate_broker_credentials = loop.blocking(service.rotate_broker_credentials)
        self.rotate_signing_key = loop.blocking(service.rotate_signing_key)
        self.list_audit_events = loop.blocking(service.list_audit_events)
        self.reconcile_tenant = loop.blocking(service.reconcile_tenant)
        self.verify_isolation = loop.blocking(service.verify_isolation)


class Client:
    """A connection to a gateway, created by :func:`connect` or :func:`from_env`."""

    def __init__(self, endpoint: str, **options: Unpack[ConnectOptions]) -> None:
        self._loop = _Loop()
        try:
            self._client = self._loop.run(_async.open_client(endpoint, **options))
        except BaseException:
            self._loop.close()
            raise
        self._is_closed = False
        #: Queues, exchanges and bindings.
        self.topology = Topology(self._loop, self._client.topology)
        #: Dead letters.
        self.dead_letters = DeadLetters(self._loop, self._client.dead_letters)
        #: Tenants, clients and plans.
        self.admin = Admin(self._loop, self._client.admin)

    def publisher(self, exchange: str = "", **options: Unpack[PublisherOptions]) -> Publisher:
        """Create a publisher for an exchange; the options are those of :meth:`warrengate.Client.publisher`."""

        async def make() -> _Publisher:
            return self._client.publisher(exchange, **options)

        return Publisher(self._loop, self._loop.run(make()))

    def consume(self, queue: str, handler: Callable[[Delivery], object], **options: Unpack[ConsumeOptions]) -> Consumer:
        """Call a handler, in a thread, for each message; the options are those of :meth:`warrengate.Client.consume`."""

        def handle(delivery: _Delivery) -> None:
            handler(Delivery(self._loop, delivery))

        return Consumer(self._loop, self._loop.run(self._client.consume(queue, handle, **options)))

    def messages(self, queue: str, **options: Unpack[MessagesOptions]) -> Consumer:
        """Open a consumer to iterate over; the options are those of :meth:`warrengate.Client.messages`."""
        return Consumer(self._loop, self._loop.run(self._client.messages(queue, **options)))

    def request(self, routing_key: str, message: Message | bytes | str, **options: Unpack[RequestOptions]) -> Message:
        """Publish a request and wait for the reply."""
        return self._loop.run(self._client.request(routing_key, message, **options))

    def respond(
        self, queue: str, handler: Callable[[Delivery], Message | bytes | str], concurrency: int = 8
    ) -> Consumer:
        """Reply to each request of a queue with the result of the handler, which runs in a thread."""

        async def answer(delivery: _Delivery) -> Message | bytes | str:
            return await asyncio.to_thread(handler, Delivery(self._loop, delivery))

        return Consumer(self._loop, self._loop.run(self._client.respond(queue, answer, concurrency=concurrency)))

    def whoami(self) -> WhoAmIResponse:
        """Return the client's own identity and grants."""
        return self._loop.run(self._client.whoami())

    def close(self, timeout: float = 30.0) -> None:
        """Stop consuming, wait for handlers and outcomes, then close the connection."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.run(self._client.close(timeout))
            self._loop.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(endpoint: str, **options: Unpack[ConnectOptions]) -> Client:
    """Connect to a gateway; the options are those of :func:`warrengate.connect`. Use it in a `with` statement."""
    return Client(endpoint, **options)


def from_env(**options: Unpack[EnvironmentOptions]) -> Client:
    """Connect with the `WARRENGATE_*` variables; see :func:`warrengate.from_env`."""
    combined: Any = {**_async.environment(), **options}
    return Client(**combined)

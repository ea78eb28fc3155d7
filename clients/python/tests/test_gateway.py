"""The library against a real gateway and broker."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import warrengate
from warrengate import _tracing, sync
from warrengate.testing import Tenant
from warrengate.v1 import admin_pb2, topology_pb2


def test_concurrent_calls_share_one_token(warrengate_tenant: Tenant) -> None:
    asked = 0

    async def body() -> None:
        nonlocal asked
        async with warrengate_tenant.connect_async() as issuer:

            async def source() -> str:
                nonlocal asked
                asked += 1
                return (await issuer.tokens.get()).text

            options = {"client_id": "", "client_secret": "", "token": source}
            async with warrengate_tenant.connect_async(**options) as client:
                names = await asyncio.gather(*(client.whoami() for _ in range(20)))
                assert {who.tenant for who in names} == {warrengate_tenant.name}

    asyncio.run(body())
    assert asked == 1


def test_a_failing_token_source_is_a_retryable_error(warrengate_tenant: Tenant) -> None:
    async def source() -> str:
        raise OSError("the token server is unavailable")

    async def body() -> None:
        options = {"client_id": "", "client_secret": "", "token": source, "connect_timeout": 0.5}
        async with warrengate_tenant.connect_async(**options):
            pass

    with pytest.raises(warrengate.UnavailableError, match="the token server is unavailable") as caught:
        asyncio.run(body())
    assert caught.value.reason == "TOKEN_SOURCE_FAILED"


def test_from_env_connects(warrengate_tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in warrengate_tenant.environment.items():
        monkeypatch.setenv(name, value)

    async def body() -> str:
        async with warrengate.from_env() as client:
            return (await client.whoami()).client_id

    assert asyncio.run(body()) == warrengate_tenant.client_id
    with sync.from_env() as client:
        assert client.whoami().tenant == warrengate_tenant.name


def test_topology_calls_reach_the_broker(warrengate_tenant: Tenant) -> None:
    with warrengate_tenant.connect() as client:
        topology = client.topology
        topology.declare_exchange("events", "headers")
        topology.declare_exchange("more", "fanout")
        topology.declare_queue("q", message_ttl=timedelta(hours=1), retry_min=timedelta(seconds=1))
        topology.bind("events", "q", headers={"kind": "order", "size": 3}, match_any=True)
        topology.bind("events", "more", to_exchange=True)
        bound = topology.list_bindings(topology_pb2.ListBindingsRequest(source="events")).bindings
        assert {binding.destination for binding in bound} == {"q", "more"}
        assert topology.get_queue(topology_pb2.GetQueueRequest(name="q")).queue.message_ttl.seconds == 3600
        publisher = client.publisher("events")
        publisher.publish(warrengate.Message(b"x", headers={"kind": "order"}))
        assert topology.queue_status("q").messages_ready == 1
        assert topology.purge_queue("q") == 1
        topology.unbind("events", "q", headers={"kind": "order", "size": 3}, match_any=True)
        topology.delete_exchange("more")
        assert topology.delete_queue("q", if_empty=True) == 0
        assert topology.list_queues() == []
        with pytest.raises(warrengate.NotFoundError) as caught:
            topology.queue_status("q")
        assert (caught.value.reason, caught.value.retryable) == ("QUEUE_NOT_FOUND", False)


def test_the_synchronous_client_publishes_consumes_and_settles(warrengate_tenant: Tenant) -> None:
    received: list[tuple[bytes, int]] = []
    done = threading.Event()

    def handle(delivery: sync.Delivery) -> None:
        received.append((delivery.body, delivery.attempt))
        if delivery.body == b"again" and delivery.attempt == 1:
            delivery.retry(0.2, "not yet")
        elif delivery.body == b"bad":
            delivery.dead_letter("bad")
        elif delivery.body == b"useless":
            delivery.drop()
        elif delivery.body == b"last":
            raise RuntimeError("fails")
        if (b"again", 2) in received and len(received) == 5:
            done.set()

    with warrengate_tenant.connect() as client:
        client.topology.declare_queue("q", retry_min=timedelta(seconds=30))
        with client.publisher() as publisher:
            futures = [publisher.send(body, "q") for body in (b"again", b"bad", b"useless", b"last")]
            assert all(future.result(30).message_id for future in futures)
            publisher.flush()
        with client.consume("q", handle, concurrency=2) as consumer:
            assert done.wait(30)
            assert consumer.error is None
        assert [letter.reason for letter in client.dead_letters.list("q")] == ["bad"]
        assert client.dead_letters.purge("q") == 1
        client.topology.purge_queue("q")
        client.publisher().publish("one", "q")
        with client.messages("q") as messages:
            delivery = next(iter(messages))
            delivery.ack()
            assert delivery.settled
            with pytest.raises(TimeoutError):
                messages.next(timeout=0.2)


def test_a_synchronous_consumer_reports_the_error_that_ended_it(warrengate_tenant: Tenant) -> None:
    with warrengate_tenant.connect() as client:
        client.topology.declare_queue("q")
        consumer = client.messages("q")
        client.topology.delete_queue("q")
        with pytest.raises(warrengate.NotFoundError) as caught:
            consumer.wait()
        assert caught.value.reason == "QUEUE_DELETED"
        with pytest.raises(warrengate.NotFoundError):
            consumer.next()


def test_synchronous_request_and_reply(warrengate_tenant: Tenant) -> None:
    with warrengate_tenant.connect() as client:
        client.topology.declare_queue("q")
        client.respond("q", lambda delivery: delivery.message.text[::-1])
        assert client.request("q", "abc", timeout=20).text == "cba"


def test_a_refused_connection_leaves_no_thread(warrengate_tenant: Tenant) -> None:
    before = threading.active_count()
    with pytest.raises(warrengate.AuthenticationError) as caught:
        warrengate_tenant.connect(client_secret="wrong")
    assert caught.value.reason == "INVALID_CLIENT_CREDENTIALS"
    assert threading.active_count() == before


def test_a_publisher_that_waits_for_capacity_can_be_cancelled(warrengate_tenant: Tenant) -> None:
    async def body() -> None:
        async with warrengate_tenant.connect_async() as client:
            await client.topology.declare_queue("q")
            publisher = client.publisher(max_in_flight=1)
            first = await publisher.send(b"1", "q")
            waiting = asyncio.create_task(publisher.send(b"2", "q"))
            await asyncio.sleep(0)
            waiting.cancel()
            await first
            # The capacity is available for the next one.
            assert (await publisher.publish(b"3", "q")).message_id

    asyncio.run(body())


def test_messages_are_traced_from_producer_to_consumer(
    warrengate_tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(_tracing, "_tracer", provider.get_tracer("test"))
    traced: list[int] = []

    async def body() -> None:
        handled = asyncio.Event()

        async def handle(delivery: warrengate.Delivery) -> None:
            traced.append(trace.get_current_span().get_span_context().trace_id)
            handled.set()

        async with warrengate_tenant.connect_async() as client:
            await client.topology.declare_queue("q")
            await client.publisher().publish(b"x", "q")
            with pytest.raises(warrengate.UnroutableError):
                await client.publisher().publish(b"x", "nowhere")
            consumer = await client.consume("q", handle)
            await asyncio.wait_for(handled.wait(), 30)
            await consumer.close()

    asyncio.run(body())
    spans = {span.name: span for span in exporter.get_finished_spans()}
    sent, processed = spans["publish q"], spans["process q"]
    assert traced == [sent.context.trace_id] == [processed.context.trace_id]
    assert processed.parent is not None
    assert processed.links[0].context.span_id == processed.parent.span_id
    assert spans["publish nowhere"].attributes["error.type"] == "NO_ROUTE"


def test_positions_in_a_stream_queue(warrengate_tenant: Tenant) -> None:
    with warrengate_tenant.connect() as client:
        client.topology.declare_queue("s", type="stream")
        publisher = client.publisher()
        for number in range(10):
            publisher.publish(str(number), "s")
        with client.messages("s", position=6) as messages:
            delivery = messages.next(timeout=20)
            assert delivery is not None
            assert (delivery.message.text, delivery.stream_offset) == ("6", 6)


def test_dead_letters_are_redriven_by_their_ids(warrengate_tenant: Tenant) -> None:
    with warrengate_tenant.connect() as client:
        client.topology.declare_queue("q")
        for body in ("a", "b"):
            client.publisher().publish(body, "q")
        with client.messages("q") as messages:
            for _ in range(2):
                delivery = messages.next(timeout=20)
                assert delivery is not None
                delivery.dead_letter("bad")
        letters = client.dead_letters.list("q", code="rejected")
        assert len(letters) == 2
        done = client.dead_letters.redrive(ids=(letters[0].dead_letter_id,))
        assert (done.redriven, done.failed) == (1, 0)
        assert client.dead_letters.purge() == 1
        assert client.topology.queue_status("q").messages_ready == 1


def test_administration_is_refused_to_a_client_without_the_grant(warrengate_tenant: Tenant) -> None:
    with warrengate_tenant.connect() as client, pytest.raises(warrengate.PermissionDeniedError) as caught:
        client.admin.list_plans(admin_pb2.ListPlansRequest())
    assert caught.value.code == "PERMISSION_DENIED"

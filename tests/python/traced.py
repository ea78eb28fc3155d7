"""An application with its own OpenTelemetry SDK on both ends: it publishes within a span, subscribes, and processes the
delivery in a span that continues the trace. Its spans go to the gateway's collector. It prints the trace id."""

import os
import queue
from pathlib import Path

import grpc
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from warrengate.v1 import auth_pb2, auth_pb2_grpc, message_pb2, messaging_pb2, messaging_pb2_grpc
from warrengate.v1 import topology_pb2, topology_pb2_grpc

NAME = "traced-python"


def connect():
    """A channel that trusts the gateway's CA and sends the client's token with every call."""
    authority = grpc.ssl_channel_credentials(Path(os.environ["WARRENGATE_CA"]).read_bytes())
    target = os.environ["WARRENGATE_ENDPOINT"].removeprefix("https://")
    who = auth_pb2.IssueTokenRequest(
        client_id=os.environ["WARRENGATE_CLIENT_ID"], client_secret=os.environ["WARRENGATE_CLIENT_SECRET"]
    )
    with grpc.secure_channel(target, authority) as plain:
        token = auth_pb2_grpc.AuthStub(plain).IssueToken(who, timeout=60).access_token
    return grpc.secure_channel(
        target, grpc.composite_channel_credentials(authority, grpc.access_token_call_credentials(token))
    )


def provider(service):
    made = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(endpoint=os.environ["COLLECTOR"], insecure=True)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


def produce(channel, tracer):
    with tracer.start_as_current_span("place order") as span:
        carrier = {}
        propagate.inject(carrier)
        headers = {name: message_pb2.Value(string_value=value) for name, value in carrier.items()}
        message = message_pb2.Message(body=b"an order", headers=headers)
        publication = messaging_pb2.Publication(sequence=1, routing_key=NAME, message=message)
        frame = messaging_pb2.PublishRequest(publications=messaging_pb2.Publications(publications=[publication]))
        (response,) = messaging_pb2_grpc.MessagingStub(channel).Publish(iter([frame]), timeout=60)
        (result,) = response.results.results
        trace_id = format(span.get_span_context().trace_id, "032x")
        if result.trace_id != trace_id:
            raise SystemExit(f"the gateway says trace {result.trace_id}, and it is {trace_id}")
    return trace_id


def consume(channel, tracer):
    frames = queue.SimpleQueue()
    frames.put(messaging_pb2.SubscribeRequest(start=messaging_pb2.SubscribeStart(queue=NAME)))
    for response in messaging_pb2_grpc.MessagingStub(channel).Subscribe(iter(frames.get, None), timeout=60):
        for delivery in response.deliveries.deliveries:
            headers = delivery.message.headers
            carrier = {name: value.string_value for name, value in headers.items() if value.HasField("string_value")}
            with tracer.start_as_current_span("process order", context=propagate.extract(carrier)):
                pass
            ack = messaging_pb2.Ack(delivery_ids=[delivery.delivery_id])
            frames.put(messaging_pb2.SubscribeRequest(ack=ack))
            frames.put(None)


def main():
    shop, store = provider("shop"), provider("store")
    with connect() as channel:
        request = topology_pb2.DeclareQueueRequest(queue={"name": NAME})
        topology_pb2_grpc.TopologyStub(channel).DeclareQueue(request, timeout=60)
        trace_id = produce(channel, shop.get_tracer("shop"))
        consume(channel, store.get_tracer("store"))
    shop.shutdown()
    store.shutdown()
    print(f"trace {trace_id}")


if __name__ == "__main__":
    main()

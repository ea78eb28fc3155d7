"""Spans of the OpenTelemetry API, if it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .message import Message

try:
    from opentelemetry import propagate, trace
except ImportError:
    _tracer: Any = None
else:
    _tracer = trace.get_tracer("warrengate")


def start_producer(exchange: str, routing_key: str, message: Message) -> Callable[[BaseException | None], None] | None:
    """Start the span of a message and write its context into the headers; call the result with the outcome."""
    if _tracer is None:
        return None
    name = exchange or routing_key
    span = _tracer.start_span(f"publish {name}", kind=trace.SpanKind.PRODUCER)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=trace.set_span_in_context(span))
    for key, value in carrier.items():
        message.headers.setdefault(key, value)
    if not span.is_recording():
        return None
    span.set_attributes(
        {
            "messaging.system": "warrengate",
            "messaging.operation.type": "send",
            "messaging.operation.name": "publish",
            "messaging.destination.name": name,
            "messaging.message.id": message.message_id,
            "messaging.message.body.size": len(message.body),
        }
    )

    def end(error: BaseException | None) -> None:
        if error is not None:
            span.set_attribute("error.type", getattr(error, "reason", "") or type(error).__name__)
            span.set_status(trace.StatusCode.ERROR, str(error))
        span.end()

    return end


@contextmanager
def consumer_span(queue: str, message: Message, attempt: int) -> Iterator[None]:
    """Run the block in a span whose parent, and link, is the context in the message."""
    if _tracer is None:
        yield
        return
    carrier = {key: value for key, value in message.headers.items() if isinstance(value, str)}
    context = propagate.extract(carrier)
    origin = trace.get_current_span(context).get_span_context()
    with _tracer.start_as_current_span(
        f"process {queue}",
        context=context,
        kind=trace.SpanKind.CONSUMER,
        links=[trace.Link(origin)] if origin.is_valid else [],
        attributes={
            "messaging.system": "warrengate",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": message.message_id,
            "warrengate.attempt": attempt,
        },
    ):
        yield

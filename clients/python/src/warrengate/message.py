"""Messages, and their conversion from and to protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from .v1 import message_pb2 as pb

#: The types of header values. Integers are 64-bit and signed; times have whole seconds.
HeaderValue: TypeAlias = (
    "str | int | float | bool | bytes | datetime | list[HeaderValue] | Mapping[str, HeaderValue] | None"
)


@dataclass(slots=True)
class Message:
    """A body and its properties."""

    #: The payload.
    body: bytes = b""
    #: Identifies the message for its consumers. The publisher generates it when it is empty.
    message_id: str = ""
    #: Relates a reply to its request.
    correlation_id: str = ""
    #: The queue for the reply.
    reply_to: str = ""
    #: MIME type of the body.
    content_type: str = ""
    #: Encoding of the body, as in HTTP.
    content_encoding: str = ""
    #: The kind of message, such as "order.created".
    type: str = ""
    #: The application that published it.
    app_id: str = ""
    #: 0 to 255.
    priority: int = 0
    #: The maximum time in a queue.
    ttl: timedelta | None = None
    #: Whether it may be lost when the broker restarts.
    transient: bool = False
    #: When it was published, in whole seconds. The gateway sets it when it is absent.
    publish_time: datetime | None = None
    #: Application headers.
    headers: dict[str, HeaderValue] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The body decoded as UTF-8."""
        return self.body.decode()


def to_pb(message: Message) -> pb.Message:
    """Convert to protobuf."""
    result = pb.Message(
        body=message.body,
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        type=message.type,
        app_id=message.app_id,
        priority=message.priority,
    )
    if message.ttl is not None:
        result.ttl.FromTimedelta(message.ttl)
    if message.transient:
        result.durability = pb.DURABILITY_TRANSIENT
    if message.publish_time is not None:
        result.publish_time.FromDatetime(message.publish_time)
    for name, value in message.headers.items():
        _set(result.headers[name], value)
    return result


def from_pb(message: pb.Message) -> Message:
    """Convert from protobuf."""
    return Message(
        body=message.body,
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        type=message.type,
        app_id=message.app_id,
        priority=message.priority,
        ttl=message.ttl.ToTimedelta() if message.HasField("ttl") else None,
        transient=message.durability == pb.DURABILITY_TRANSIENT,
        publish_time=message.publish_time.ToDatetime(UTC) if message.HasField("publish_time") else None,
        headers={name: _get(value) for name, value in message.headers.items()} if message.headers else {},
    )


def _set(target: pb.Value, value: HeaderValue) -> None:
    match value:
        case None:
            target.null_value = pb.NULL_VALUE_UNSPECIFIED
        # A bool is also an int, so it comes first.
        case bool():
            target.bool_value = value
        case str():
            target.string_value = value
        case int():
            target.int_value = value
        case float():
            target.double_value = value
        case bytes():
            target.bytes_value = value
        case datetime():
            target.timestamp_value.FromDatetime(value)
        case Mapping():
            target.table_value.SetInParent()
            for name, item in value.items():
                _set(target.table_value.entries[name], item)
        case list() | tuple():
            target.list_value.SetInParent()
            for item in value:
                _set(target.list_value.values.add(), item)
        case _:
            raise TypeError(f"a header cannot have the type {type(value).__name__}")


def _get(value: pb.Value) -> HeaderValue:
    kind = value.WhichOneof("kind")
    match kind:
        case None | "null_value":
            return None
        case "timestamp_value":
            return value.timestamp_value.ToDatetime(UTC)
        case "list_value":
            return [_get(item) for item in value.list_value.values]
        case "table_value":
            return {name: _get(item) for name, item in value.table_value.entries.items()}
    result: HeaderValue = getattr(value, kind)
    return result

"""Lifecycle events of a client and its streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """The kind of an event."""

    #: A stream is open.
    CONNECTED = "connected"
    #: A stream or its connection broke; it is opened again.
    DISCONNECTED = "disconnected"
    #: The gateway is stopping; the stream moves to another one.
    DRAINING = "draining"
    #: The gateway lost its broker; unsettled deliveries will be repeated.
    INTERRUPTED = "interrupted"
    #: The broker is available again.
    RESUMED = "resumed"
    #: An open stream continues with a newer token.
    REAUTHENTICATED = "reauthenticated"
    #: Leases expired; these messages are delivered again.
    LEASE_EXPIRED = "lease_expired"
    #: The client is closed.
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Event:
    """A lifecycle event."""

    kind: EventKind
    #: The queue of the consumer, "publisher", or "client".
    source: str
    #: A sentence for people; may be empty.
    detail: str = ""


#: Called for each event, on the client's event loop; it must not block.
EventListener = Callable[[Event], None]

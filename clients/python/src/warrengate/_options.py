"""The keyword options that functions pass on, so that type checkers know them."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from ._tokens import TokenSource
from .consumer import Position
from .events import EventListener


class ConnectOptions(TypedDict, total=False):
    """The options of :func:`warrengate.connect`."""

    ca: str | Path | bytes | None
    client_id: str
    client_secret: str
    token: str | TokenSource | None
    token_lifetime: float | None
    connect_timeout: float
    call_timeout: float
    on_event: EventListener | None


class EnvironmentOptions(ConnectOptions, total=False):
    """The options of :func:`warrengate.from_env`."""

    endpoint: str


class PublisherOptions(TypedDict, total=False):
    """The options of :meth:`warrengate.Client.publisher`."""

    max_in_flight: int
    max_in_flight_bytes: int
    batch_messages: int
    timeout: float
    retry_throttled: bool


class PublishOptions(TypedDict, total=False):
    """The options of :meth:`warrengate.Publisher.publish`."""

    allow_unroutable: bool


class MessagesOptions(TypedDict, total=False):
    """The options of :meth:`warrengate.Client.messages`."""

    window: int
    max_bytes: int
    lease: float
    max_lease: float
    position: Position | None
    exclusive: bool
    priority: int


class ConsumeOptions(MessagesOptions, total=False):
    """The options of :meth:`warrengate.Client.consume`."""

    concurrency: int


class RequestOptions(TypedDict, total=False):
    """The options of :meth:`warrengate.Client.request`."""

    exchange: str
    timeout: float


class DeadLetterOptions(TypedDict, total=False):
    """The options of :meth:`warrengate.services.DeadLetters.list`."""

    code: str
    reason_contains: str

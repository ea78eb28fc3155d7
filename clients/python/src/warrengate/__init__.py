"""Client of Warrengate, the multi-tenant messaging gateway.

::

    async with warrengate.from_env() as client:
        await client.topology.declare_queue("orders")
        await client.publisher().publish(b"order 1", "orders")

:mod:`warrengate.sync` offers the same without asyncio, and :mod:`warrengate.testing` a fixture for pytest.
"""

from ._tokens import TokenSource
from .client import Client, connect, from_env, open_client
from .consumer import Consumer, Delivery, Handler, Position
from .errors import (
    AuthenticationError,
    ClosedError,
    ConfigurationError,
    DeniedError,
    ExhaustedError,
    InvalidArgumentError,
    NotFoundError,
    NotSentError,
    PermissionDeniedError,
    PreconditionError,
    PublishError,
    RejectedError,
    RequestTimeoutError,
    ThrottledError,
    UnavailableError,
    UnknownOutcomeError,
    UnroutableError,
    WarrengateError,
)
from .events import Event, EventKind, EventListener
from .message import HeaderValue, Message
from .publisher import Confirmation, Publisher

__version__ = "0.1.0"

__all__ = [
    "AuthenticationError",
    "Client",
    "ClosedError",
    "ConfigurationError",
    "Confirmation",
    "Consumer",
    "Delivery",
    "DeniedError",
    "Event",
    "EventKind",
    "EventListener",
    "ExhaustedError",
    "Handler",
    "HeaderValue",
    "InvalidArgumentError",
    "Message",
    "NotFoundError",
    "NotSentError",
    "PermissionDeniedError",
    "Position",
    "PreconditionError",
    "PublishError",
    "Publisher",
    "RejectedError",
    "RequestTimeoutError",
    "ThrottledError",
    "TokenSource",
    "UnavailableError",
    "UnknownOutcomeError",
    "UnroutableError",
    "WarrengateError",
    "connect",
    "from_env",
    "open_client",
]

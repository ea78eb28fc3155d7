"""The token of a client: fetched once for all callers, and renewed before it expires.

At most one request for a token is in progress at a time, and every caller that needs a token waits for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from .errors import AuthenticationError, UnavailableError, WarrengateError, from_rpc
from .v1 import auth_pb2
from .v1.auth_pb2_grpc import AuthStub

if TYPE_CHECKING:
    from ._connection import Connection

log = logging.getLogger("warrengate")

#: Returns a token (a JWT without "Bearer"); called again before the last one expires.
TokenSource = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its lifetime by the local clock."""

    text: str = field(repr=False)
    renew_at: float
    ends_at: float


class Tokens:
    """Returns the current token, or fetches one."""

    def __init__(
        self,
        connection: Connection,
        client_id: str,
        secret: str,
        source: TokenSource | None,
        static: str | None,
        lifetime: float | None,
    ) -> None:
        self._connection = connection
        self._client_id = client_id
        self._secret = secret
        self._source = source
        self._static = static
        self._lifetime = lifetime
        self._token: Token | None = None
        self._fetching: asyncio.Task[Token] | None = None

    @property
    def is_renewable(self) -> bool:
        """Whether another token can be fetched."""
        return self._static is None

    async def get(self) -> Token:
        """Return a token that has not expired, and start to renew one that expires soon."""
        token, now = self._token, time.monotonic()
        if token is None or now >= token.ends_at:
            return await self._fetch()
        if now >= token.renew_at and self.is_renewable and self._fetching is None:
            task = self._start()
            task.add_done_callback(_log_failure)
        return token

    async def newer_than(self, old: Token) -> Token:
        """Return a token other than this one: the current one if it was replaced, otherwise a new one."""
        if self._token is not None and self._token is not old:
            return self._token
        if not self.is_renewable:
            raise AuthenticationError(
                "the token has expired and cannot be renewed: connect with a client id and its secret",
                reason="TOKEN_EXPIRED",
                code="UNAUTHENTICATED",
            )
        return await self._fetch()

    async def _fetch(self) -> Token:
        # A cancelled caller must not cancel the request for the others.
        return await asyncio.shield(self._fetching or self._start())

    def _start(self) -> asyncio.Task[Token]:
        self._fetching = asyncio.create_task(self._request())
        return self._fetching

    async def _request(self) -> Token:
        try:
            self._token = await self._request_now()
            return self._token
        finally:
            self._fetching = None

    async def _request_now(self) -> Token:
        if self._static is not None:
            return Token(self._static, float("inf"), float("inf"))
        began = time.monotonic()
        if self._source is not None:
            try:
                text = await self._source()
            except WarrengateError:
                raise
            except Exception as error:
                raise UnavailableError(
                    f"the token source failed: {error}",
                    reason="TOKEN_SOURCE_FAILED",
                    code="UNAVAILABLE",
                    retryable=True,
                ) from error
            return _with_lifetime(text, began, _lifetime_of(text))
        request = auth_pb2.IssueTokenRequest(client_id=self._client_id, client_secret=self._secret)
        if self._lifetime is not None:
            request.lifetime.FromNanoseconds(int(self._lifetime * 1e9))
        try:
            response = await AuthStub(self._connection.channel).IssueToken(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self._connection.endpoint) from None
        # The lifetime is taken from the token itself, so that the clocks need not agree.
        return _with_lifetime(response.access_token, began, _lifetime_of(response.access_token) or self._lifetime)


def _with_lifetime(text: str, began: float, lifetime: float | None) -> Token:
    if lifetime is None:
        return Token(text, float("inf"), float("inf"))
    # Clients that started at the same time do not renew at the same time.
    return Token(text, began + lifetime * random.uniform(0.6, 0.75), began + lifetime * 0.98)  # noqa: S311


def _lifetime_of(token: str) -> float | None:
    """Read `exp - iat` of a JWT; nothing is verified, the gateway does that."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"]) - float(claims["iat"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None


def _log_failure(task: asyncio.Task[Token]) -> None:
    if not task.cancelled() and isinstance(error := task.exception(), WarrengateError):
        log.warning("the token could not be renewed before it expires: %s", error)

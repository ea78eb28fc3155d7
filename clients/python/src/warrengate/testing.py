"""A pytest plugin: a development stack for the session, and a new tenant for each test.

The stack is `warrengate dev` from `PATH` or `WARRENGATE_BINARY`, started when a test first needs it, or the gateway of
`WARRENGATE_TEST_ENDPOINT`, `WARRENGATE_TEST_CA` and `WARRENGATE_TEST_ADMIN_SECRET`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from . import client as _async
from . import sync
from .v1 import admin_pb2, auth_pb2

_START = 180.0


@dataclass(frozen=True)
class Tenant:
    """A tenant, with a client that has every grant."""

    #: The address of the gateway.
    endpoint: str
    #: The path of the authority to trust.
    ca: str
    #: The id of the tenant.
    name: str
    #: The id of its client.
    client_id: str
    #: The client's secret.
    client_secret: str = field(repr=False)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        own = {"ca": self.ca, "client_id": self.client_id, "client_secret": self.client_secret}
        return {**own, **options}

    def connect(self, **options: Any) -> sync.Client:
        """Connect without asyncio."""
        return sync.connect(self.endpoint, **self._options(options))

    def connect_async(self, **options: Any) -> AbstractAsyncContextManager[_async.Client]:
        """Connect with asyncio, in an `async with` statement."""
        return _async.connect(self.endpoint, **self._options(options))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that `from_env` reads, for programs under test."""
        return {
            "WARRENGATE_ENDPOINT": self.endpoint,
            "WARRENGATE_CA": self.ca,
            "WARRENGATE_CLIENT_ID": self.client_id,
            "WARRENGATE_CLIENT_SECRET": self.client_secret,
        }


class Stack:
    """A gateway and its administrator."""

    def __init__(self, endpoint: str, ca: str, secret: str) -> None:
        self.endpoint = endpoint
        self.ca = ca
        self._admin = sync.connect(
            endpoint, ca=ca, client_id=os.environ.get("WARRENGATE_TEST_ADMIN_ID", "admin"), client_secret=secret
        )

    def create_tenant(self, plan: str = "unlimited") -> Tenant:
        """Create a tenant, and a client with every grant in it."""
        name = f"test-{secrets.token_hex(6)}"
        self._admin.admin.create_tenant(admin_pb2.CreateTenantRequest(tenant=admin_pb2.Tenant(id=name, plan=plan)))
        grants = auth_pb2.Grants(subscribe=["#"], configure=["#"])
        grants.publish.add(exchange="#", routing_key="#")
        wanted = admin_pb2.Client(client_id=f"{name}.app", grants=grants)
        created = self._admin.admin.create_client(admin_pb2.CreateClientRequest(client=wanted))
        return Tenant(self.endpoint, self.ca, name, f"{name}.app", created.client_secret)

    def delete_tenant(self, tenant: Tenant) -> None:
        """Delete a tenant with everything in it."""
        self._admin.admin.delete_tenant(admin_pb2.DeleteTenantRequest(tenant=tenant.name))

    def close(self) -> None:
        """Close the administrator's connection."""
        self._admin.close()


class _Development:
    """A `warrengate dev` in a separate folder, on free ports."""

    def __init__(self) -> None:
        binary = os.environ.get("WARRENGATE_BINARY") or shutil.which("warrengate")
        if binary is None:
            pytest.fail("there is no `warrengate` in PATH, and WARRENGATE_BINARY is not set", pytrace=False)
        self._folder = Path(tempfile.mkdtemp(prefix="warrengate-test-"))
        flags = ("--grpc", "--ops", "--amqps-port", "--management-port")
        addresses = [f"127.0.0.1:{port}" if number < 2 else str(port) for number, port in enumerate(_free_ports(4))]
        command = [binary, "dev", *(word for pair in zip(flags, addresses, strict=True) for word in pair)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WARRENGATE_")}
        self._log = self._folder / "gateway.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def settings(self) -> dict[str, str]:
        """Wait until it is ready, and read the settings that it has written."""
        deadline = time.monotonic() + _START
        while b"Ctrl-C" not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = self._log.read_text(errors="replace")
                self.stop()
                pytest.fail(f"`warrengate dev` did not start:\n{text[-2000:]}", pytrace=False)
            time.sleep(0.1)
        lines = (self._folder / ".warrengate/dev.env").read_text().splitlines()
        pairs = (line.removeprefix("export ").split("=", 1) for line in lines if "=" in line and line[0] != "#")
        values = {name: value.strip("'\"") for name, value in pairs}
        values["WARRENGATE_CA"] = str(self._folder / values["WARRENGATE_CA"])
        return values

    def stop(self) -> None:
        """Stop it, and delete its folder."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="session")
def warrengate_stack() -> Iterator[Stack]:
    """Return the stack of the session."""
    endpoint = os.environ.get("WARRENGATE_TEST_ENDPOINT")
    if endpoint:
        stack = Stack(endpoint, os.environ["WARRENGATE_TEST_CA"], os.environ["WARRENGATE_TEST_ADMIN_SECRET"])
        yield stack
        stack.close()
        return
    development = _Development()
    try:
        values = development.settings()
        stack = Stack(values["WARRENGATE_ENDPOINT"], values["WARRENGATE_CA"], values["WARRENGATE_ADMIN_CLIENT_SECRET"])
        yield stack
        stack.close()
    finally:
        development.stop()


@pytest.fixture
def warrengate_tenant(warrengate_stack: Stack) -> Iterator[Tenant]:
    """Return a new tenant, which is deleted after the test."""
    tenant = warrengate_stack.create_tenant()
    yield tenant
    warrengate_stack.delete_tenant(tenant)

"""A private stack for the conformance runner: RabbitMQ, PostgreSQL, two gateways, and TCP proxies in front of them.

Every process leads its own process group and is killed with the runner, even if the runner itself is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRAIN_DEADLINE = 10


class StackError(Exception):
    """The stack cannot be started."""


def free_port() -> int:
    """Return a port below those of outgoing connections, none of which can take it while its server is restarted."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


async def until(what: str, seconds: float, condition: Callable[[], bool]) -> None:
    """Wait for a condition by polling."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await asyncio.to_thread(condition):
        if asyncio.get_running_loop().time() > deadline:
            raise StackError(f"{what} took more than {seconds:g} s")
        await asyncio.sleep(0.1)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def find(*candidates: str) -> str:
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    raise StackError(f"{candidates[-1]} is not installed")


class Process:
    """A process that leads a process group."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path, user: tuple[int, int] | None = None) -> None:
        self._command, self._env, self._log, self._user = command, env, log, user
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        def prepare() -> None:
            if sys.platform == "linux":
                # PR_SET_PDEATHSIG: the process must not outlive the runner.
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)

        with self._log.open("ab") as log:
            self.popen = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/" if self._user else None,
                user=self._user[0] if self._user else None,
                group=self._user[1] if self._user else None,
                extra_groups=[] if self._user else None,
                preexec_fn=prepare,
            )

    @property
    def is_running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number: int) -> None:
        if self.popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.popen is not None:
            self.popen.wait()

    async def ended(self, seconds: float) -> int:
        await until("the end of a process", seconds, lambda: not self.is_running)
        assert self.popen is not None
        return int(self.popen.returncode)


class Postgres:
    """The store that both gateways share."""

    def __init__(self, folder: Path) -> None:
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        initdb = find("initdb", *(str(version / "initdb") for version in versions), "initdb")
        programs = Path(initdb).parent
        self.port = free_port()
        password = secrets.token_hex(16)
        self.url = f"postgres://warrengate:{password}@127.0.0.1:{self.port}/postgres"
        user = None
        folder.mkdir()
        if os.getuid() == 0:
            # PostgreSQL does not run as root.
            names = {entry.pw_name: entry for entry in pwd.getpwall()}
            entry = names.get("postgres") or names["nobody"]
            user = (entry.pw_uid, entry.pw_gid)
            os.chown(folder, *user)
        password_file = folder / "password"
        password_file.write_text(password)
        data = folder / "data"
        completed = subprocess.run(
            [
                initdb,
                "-D",
                data,
                "-U",
                "warrengate",
                "-A",
                "password",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                f"--pwfile={password_file}",
            ],
            capture_output=True,
            cwd="/",
            user=user[0] if user else None,
            group=user[1] if user else None,
            check=False,
        )
        if completed.returncode:
            raise StackError(f"initdb failed: {completed.stderr.decode()}")
        command = [
            str(programs / "postgres"),
            "-D",
            str(data),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-k",
            "",
            "-c",
            "fsync=off",
        ]
        self.process = Process(command, dict(os.environ), folder.parent / "postgres.log", user)

    async def start(self) -> None:
        self.process.start()
        await until("the start of PostgreSQL", 60, lambda: listens(self.port))


class Broker:
    """A RabbitMQ node with the configuration of the project."""

    def __init__(self, folder: Path, certs: Path) -> None:
        self.amqps, self.management = free_port(), free_port()
        epmd, tools = free_port(), free_port()
        server = find("/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/homebrew/sbin/rabbitmq-server", "rabbitmq-server")
        for name in ("conf.d", "data", "log"):
            (folder / name).mkdir(parents=True)
        for name in ("rabbitmq.conf", "advanced.config", "enabled_plugins"):
            shutil.copy(ROOT / "broker-config" / name, folder / name)
        tls = {"cacertfile": "broker-ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
        overlay = [
            f"listeners.ssl.default = 127.0.0.1:{self.amqps}",
            "management.ssl.ip = 127.0.0.1",
            f"management.ssl.port = {self.management}",
            f"load_definitions = {certs / 'definitions.json'}",
            *(f"ssl_options.{key} = {certs / name}" for key, name in tls.items()),
            *(f"management.ssl.{key} = {certs / name}" for key, name in tls.items()),
        ]
        (folder / "conf.d" / "90-node.conf").write_text("\n".join(overlay) + "\n")
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(32))
        cookie.chmod(0o600)
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "WARRENGATE_"))
        }
        env |= {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"conformance-{secrets.token_hex(4)}@localhost",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.env"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": str(folder / "log" / "broker.log"),
            "RABBITMQ_PID_FILE": str(folder / "broker.pid"),
            "RABBITMQ_DIST_PORT": str(tools),
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            # The start script is replaced by the Erlang process.
            "detached": "true",
        }
        self._epmd_port = epmd
        mapper = [find("epmd"), "-port", str(epmd), "-address", "127.0.0.1"]
        self.epmd = Process(mapper, env, folder / "epmd.log")
        self.process = Process([server], env, folder / "console.log")

    async def start(self) -> None:
        if not self.epmd.is_running:
            self.epmd.start()
            await until("the start of epmd", 10, lambda: listens(self._epmd_port))
        self.process.start()
        await until("the start of RabbitMQ", 120, self._is_up)

    def _is_up(self) -> bool:
        if not self.process.is_running:
            raise StackError("RabbitMQ ended while it was starting; see console.log")
        return listens(self.amqps) and listens(self.management)

    async def kill(self, down: float) -> None:
        self.process.kill()
        await asyncio.sleep(down)
        await self.start()


class Gateway:
    """A gateway as a separate process."""

    def __init__(self, number: int, binary: Path, settings: dict[str, str], folder: Path) -> None:
        self.port, self.ops = free_port(), free_port()
        self.log = folder / f"gateway-{number}.log"
        #: Whether new connections should go to another one, as a load balancer learns from its readiness.
        self.draining = False
        env = {name: value for name, value in os.environ.items() if not name.startswith("WARRENGATE_")}
        own = {
            **settings,
            "GRPC__LISTEN": f"127.0.0.1:{self.port}",
            "OPS__LISTEN": f"127.0.0.1:{self.ops}",
            "LIMITS__DRAIN_DEADLINE": f"{DRAIN_DEADLINE}s",
        }
        env |= {f"WARRENGATE_{name}": value for name, value in own.items()}
        self.process = Process([str(binary), "serve"], env, self.log)

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        if self.process.is_running:
            return
        self.draining = False
        self.process.start()
        await until("the start of a gateway", 90, self._is_ready)

    def _is_ready(self) -> bool:
        if not self.process.is_running:
            end = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise StackError(f"the gateway ended while it was starting:\n{end}")
        with contextlib.suppress(OSError, urllib.error.URLError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/readyz", timeout=2).status == 200
        return False

    def kill(self) -> None:
        self.process.kill()

    async def drain(self) -> None:
        self.draining = True
        self.process.signal(signal.SIGTERM)
        await self.process.ended(DRAIN_DEADLINE + 15)

    def administrator(self) -> str | None:
        found = re.search(r"administrator admin, secret ([^:\s]+):", self.log.read_text(errors="replace"))
        return found[1] if found else None


class Stack:
    """The complete stack in a separate folder."""

    def __init__(self, folder: Path, binary: Path, gateways: int = 2) -> None:
        self.folder, self.binary, self._count = folder, binary, gateways
        self.certs = folder / "certs"
        self.other_ca = folder / "other" / "gateway-ca.pem"
        self.gateways: list[Gateway] = []
        self.admin_secret = ""

    @property
    def ca(self) -> Path:
        return self.certs / "gateway-ca.pem"

    async def start(self) -> None:
        for certs in (self.certs, self.other_ca.parent):
            subprocess.run([self.binary, "certs", "--dir", certs, "create"], check=True, capture_output=True)
        self.postgres = Postgres(self.folder / "postgres")
        self.broker = Broker(self.folder / "broker", self.certs)
        await asyncio.gather(self.postgres.start(), self.broker.start())
        settings = {
            "GRPC__CERTIFICATE": str(self.certs / "gateway.pem"),
            "GRPC__KEY": str(self.certs / "gateway.key"),
            "BROKER__ENDPOINTS": f"127.0.0.1:{self.broker.amqps}",
            "BROKER__CA_CERTIFICATE": str(self.certs / "broker-ca.pem"),
            "BROKER__CA_KEY": str(self.certs / "broker-ca.key"),
            "MANAGEMENT__ENDPOINTS": f"https://127.0.0.1:{self.broker.management}",
            "MANAGEMENT__CERTIFICATE": str(self.certs / "provisioner.pem"),
            "MANAGEMENT__KEY": str(self.certs / "provisioner.key"),
            "MANAGEMENT__PASSWORD_FILE": str(self.certs / "provisioner.password"),
            "STORE__URL": self.postgres.url,
            "STORE__ENCRYPTION_KEY": _encryption_key(),
            "AUTH__ISSUER": "https://warrengate.test",
            # A one-minute token is renewed after five seconds on a stream, and expires after a minute.
            "AUTH__WARN_BEFORE_EXPIRY": "55s",
            "AUTH__LEEWAY": "1s",
            # More than a client of gRPC accepts by default.
            "LIMITS__MAX_MESSAGE_BYTES": str(4 << 20),
            # All cases share the address of the runner.
            "AUTH__FAILED_LOGINS_PER_MINUTE_PER_ADDRESS": "10000",
            "TELEMETRY__LOG": os.environ.get("WARRENGATE_TEST_LOG", "info"),
            "TELEMETRY__LOG_FORMAT": "human",
        }
        for number in range(self._count):
            gateway = Gateway(number, self.binary, settings, self.folder)
            self.gateways.append(gateway)
            await gateway.start()
        # The log may be written after the gateway is ready.
        await until("the report of the first administrator", 10, lambda: self.gateways[0].administrator() is not None)
        self.admin_secret = self.gateways[0].administrator() or ""

    async def restore(self) -> None:
        """Start what a case has stopped."""
        for gateway in self.gateways:
            await gateway.start()

    def stop(self) -> None:
        for gateway in self.gateways:
            gateway.kill()
        for name in ("broker", "postgres"):
            if (part := getattr(self, name, None)) is not None:
                part.process.kill()
        if (broker := getattr(self, "broker", None)) is not None:
            broker.epmd.kill()


def _encryption_key() -> str:
    import base64

    return base64.b64encode(secrets.token_bytes(32)).decode()


class Proxy:
    """A loopback port that leads to the first gateway that accepts connections."""

    def __init__(self, gateways: list[Gateway]) -> None:
        self._gateways = gateways
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self.port = free_port()

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for gateway in self._gateways:
            if gateway.draining or not gateway.process.is_running:
                continue
            with contextlib.suppress(OSError):
                upstream = await asyncio.open_connection("127.0.0.1", gateway.port)
                link = _Link((reader, writer), upstream)
                self._links.add(link)
                try:
                    await link.run()
                except asyncio.CancelledError:
                    # The runner ends. Streams would report a cancelled callback as an error.
                    link.abort()
                finally:
                    self._links.discard(link)
                return
        writer.transport.abort()

    async def cut(self) -> None:
        """Close every connection, and accept no new one."""
        await self._stop_listening()
        for link in list(self._links):
            link.abort()

    def freeze(self) -> None:
        """Stop forwarding on existing connections."""
        for link in self._links:
            link.flowing.clear()

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        await self.cut()


class _Link:
    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        gateway: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._client, self._gateway = client, gateway
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def run(self) -> None:
        await asyncio.gather(
            self._copy(self._client[0], self._gateway[1]), self._copy(self._gateway[0], self._client[1])
        )

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                await self.flowing.wait()
                target.write(data)
                await target.drain()
            await self.flowing.wait()
        except OSError:
            pass
        # Either end closes the other, unless the connection is frozen: then nothing is reported.
        await self.flowing.wait()
        self.abort()

    def abort(self) -> None:
        for _, writer in (self._client, self._gateway):
            writer.transport.abort()

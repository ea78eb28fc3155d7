#!/usr/bin/env python3
"""Measures each client library beside the usual AMQP client of its language; see README.md.

run.py [LANGUAGE…] [--short] [--binary PATH] [--rounds N] [--messages N] [--results FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "conformance"))
from warrengate.v1 import admin_pb2, auth_pb2, topology_pb2
from warrengate.v1.topology_pb2_grpc import TopologyStub

from run import Administrator
from stack import ROOT, Stack

WORK = Path(os.environ.get("WARRENGATE_BENCH_WORK", ROOT / "target/clients/bench"))
TENANT = "bench"
SIZE = 256
WINDOW = 1_000
#: The default window of the libraries, and what RabbitMQ's documentation recommends for most programs.
PREFETCH = 256
#: What a library must reach, compared with the usual client.
BARS = {"publish": 1.0, "consume": 0.8}
SIDES = ("library", "amqp")
TIMEOUT = 300

COMMANDS: dict[str, dict[str, list[str]]] = {
    "python": {side: [f"{WORK}/python/bin/python", str(HERE / f"python/{side}.py")] for side in SIDES},
    "typescript": {side: ["node", f"{WORK}/typescript/{side}.mjs"] for side in SIDES},
    "go": {side: [f"{WORK}/go/{side}"] for side in SIDES},
    "java": {
        side: ["java", "-Xmx256m", f"@{WORK}/java.arguments", f"io.github.warrengate.bench.{side.capitalize()}"]
        for side in SIDES
    },
    "rust": {side: [f"{WORK}/rust/{side}"] for side in SIDES},
}
USUAL = {
    "python": "aio-pika",
    "typescript": "amqplib",
    "go": "amqp091-go",
    "java": "amqp-client",
    "rust": "lapin",
}


class Program:
    """One side of one language: a process that executes commands."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._command, self._env = command, env

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, env=self._env)
        await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), TIMEOUT)
        if not line:
            raise SystemExit(f"{self._command} has ended, see above")
        return dict(json.loads(line))

    async def rate(self, action: str, queue: str, count: int) -> float:
        """Execute a command, and return its messages in a second."""
        assert self._process.stdin is not None
        command = {"do": action, "queue": queue, "count": count, "size": SIZE, "window": WINDOW, "prefetch": PREFETCH}
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return count / float((await self._answer())["seconds"])

    def processor_time(self) -> float:
        """Return the seconds of processor time so far; 0 where they cannot be read."""
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def memory(self) -> float:
        """Return the resident memory in MiB."""
        if sys.platform == "linux":
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)
        size = subprocess.run(["ps", "-o", "rss=", "-p", str(self._process.pid)], capture_output=True, check=True)
        return int(size.stdout) / 1024

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 30)
        except TimeoutError:
            self._process.kill()


@dataclass
class Result:
    """The measurements of one language."""

    language: str
    #: The rates of each action and side, by round.
    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    #: The memory of the library after each part of the long run, in MiB.
    memory: list[float] = field(default_factory=list)

    def median(self, action: str, side: str) -> float:
        return statistics.median(self.rates[action, side])

    def ratio(self, action: str) -> float:
        """Return the median of the ratios of the rounds, because the load of the machine changes between rounds."""
        pairs = zip(self.rates[action, "library"], self.rates[action, "amqp"], strict=True)
        return statistics.median(library / usual for library, usual in pairs)

    def growth(self) -> tuple[float, float]:
        """Return the memory in the second quarter and in the last quarter of the long run."""
        quarter = max(1, len(self.memory) // 4)
        return statistics.median(self.memory[quarter : 2 * quarter]), statistics.median(self.memory[-quarter:])

    def is_steady(self) -> bool:
        early, late = self.growth()
        return late <= early * 1.1 + 4

    def misses(self) -> list[str]:
        """Return what does not reach its bar."""
        missed = [
            f"{self.language}: {action} is {self.ratio(action):.2f} of {USUAL[self.language]}, not {bar}"
            for action, bar in BARS.items()
            if self.ratio(action) < bar
        ]
        if self.memory and not self.is_steady():
            early, late = self.growth()
            missed.append(f"{self.language}: the memory grew from {early:.0f} to {late:.0f} MiB")
        return missed


class Queue:
    """The queue of a language."""

    def __init__(self, admin: Administrator, env: dict[str, str], name: str) -> None:
        self._admin, self._env, self.name = admin, env, name

    async def _call(self, method: str, request: Any) -> None:
        token = await self._admin.token(self._env["WARRENGATE_CLIENT_ID"], self._env["WARRENGATE_CLIENT_SECRET"])
        metadata = (("authorization", f"Bearer {token}"),)
        channel = self._admin.channel(self._env["WARRENGATE_ENDPOINT"])
        await getattr(TopologyStub(channel), method)(request, metadata=metadata, wait_for_ready=True, timeout=60)
        await channel.close()

    async def declare(self) -> None:
        queue = {"name": self.name, "type": topology_pb2.QUEUE_TYPE_QUORUM}
        await self._call("DeclareQueue", topology_pb2.DeclareQueueRequest(queue=queue))

    async def purge(self) -> None:
        """Remove what a closed AMQP channel returned: the broker drops acknowledgements that it has not applied."""
        await self._call("PurgeQueue", topology_pb2.PurgeQueueRequest(name=self.name))


async def measure(arguments: argparse.Namespace, language: str, env: dict[str, str], queue: Queue) -> Result:
    result = Result(language)
    programs = {side: Program(COMMANDS[language][side], env) for side in SIDES}
    for program in programs.values():
        await program.start()
    try:
        # The first round is a warm-up: compilers, connections and the queue's leader.
        for number in range(arguments.rounds + 1):
            for side in SIDES if number % 2 else reversed(SIDES):
                for action in BARS:
                    rate = await programs[side].rate(action, queue.name, arguments.messages)
                    if number:
                        result.rates.setdefault((action, side), []).append(rate)
                await queue.purge()
            if number:
                last = {action: [result.rates[action, side][-1] for side in SIDES] for action in BARS}
                text = ", ".join(f"{name} {one:,.0f} and {other:,.0f}/s" for name, (one, other) in last.items())
                print(f"{language:<10} round {number}: {text}", flush=True)
        for _ in range(arguments.long // arguments.messages):
            for action in BARS:
                await programs["library"].rate(action, queue.name, arguments.messages)
            result.memory.append(programs["library"].memory())
    finally:
        for program in programs.values():
            await program.stop()
    return result


def table(results: list[Result]) -> str:
    """Return the measurements as Markdown."""
    lines = [
        "| language | usual client | publish/s | ÷ usual | consume/s | ÷ usual | memory |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for result in results:
        cells = [result.language, USUAL[result.language]]
        for action in BARS:
            cells += [f"{result.median(action, 'library'):,.0f}", f"{result.ratio(action):.2f}"]
        if result.memory:
            early, late = result.growth()
            cells.append(f"{'steady' if result.is_steady() else 'GROWS'}: {early:.0f} → {late:.0f} MiB")
        else:
            cells.append("not measured")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def certificate(stack: Stack, folder: Path) -> dict[str, str]:
    """Issue a certificate of the tenant, as the gateway does, for the direct clients."""
    key, request, leaf, bundle = (folder / name for name in ("leaf.key", "leaf.csr", "leaf.pem", "leaf.p12"))
    extensions = folder / "extensions"
    extensions.write_text("basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n")
    ca = ["-CA", stack.certs / "broker-ca.pem", "-CAkey", stack.certs / "broker-ca.key"]
    ca += ["-CAcreateserial", "-CAserial", folder / "serial"]
    # The file is deleted with its folder.
    password = secrets.token_urlsafe()
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for command in (
        ["req", *curve, "-keyout", key, "-subj", f"/CN=wg.{TENANT}", "-out", request],
        [
            "x509",
            "-req",
            "-in",
            request,
            *ca,
            "-CAserial",
            folder / "serial",
            "-days",
            "1",
            "-extfile",
            extensions,
            "-out",
            leaf,
        ],
        ["pkcs12", "-export", "-inkey", key, "-in", leaf, "-out", bundle, "-passout", f"pass:{password}"],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return {
        "BENCH_PORT": str(stack.broker.amqps),
        "BENCH_VHOST": f"wg.{TENANT}",
        "BENCH_CA": str(stack.certs / "broker-ca.pem"),
        "BENCH_CERTIFICATE": str(leaf),
        "BENCH_KEY": str(key),
        "BENCH_PKCS12": str(bundle),
        "BENCH_PKCS12_PASSWORD": password,
    }


async def tenant(stack: Stack, admin: Administrator) -> dict[str, str]:
    """Create the tenant, and return the environment of the library."""
    await admin.call("CreateTenant", admin_pb2.CreateTenantRequest(tenant={"id": TENANT, "plan": "unlimited"}))
    grants = auth_pb2.Grants(subscribe=["#"], configure=["#"])
    grants.publish.add(exchange="#", routing_key="#")
    client_id = f"{TENANT}.app"
    request = admin_pb2.CreateClientRequest(client={"client_id": client_id, "grants": grants})
    secret = (await admin.call("CreateClient", request)).client_secret
    return {
        "WARRENGATE_ENDPOINT": stack.gateways[0].endpoint,
        "WARRENGATE_CA": str(stack.ca),
        "WARRENGATE_CLIENT_ID": client_id,
        "WARRENGATE_CLIENT_SECRET": secret,
    }


async def run(arguments: argparse.Namespace) -> list[Result]:
    folder = Path(tempfile.mkdtemp(prefix="warrengate-bench-"))
    folder.chmod(0o711)
    stack = Stack(folder, arguments.binary.resolve(), gateways=1)
    admin = Administrator(stack)
    try:
        await stack.start()
        await admin.start()
        env = {name: value for name, value in os.environ.items() if not name.startswith("WARRENGATE_")}
        env |= await tenant(stack, admin)
        env |= certificate(stack, folder)
        results = []
        for language in arguments.languages:
            queue = Queue(admin, env, language)
            await queue.declare()
            results.append(await measure(arguments, language, env, queue))
        return results
    finally:
        await admin.close()
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help="default: all")
    parser.add_argument("--short", action="store_true", help="one round of 2,000 messages, and no long run")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/warrengate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=50_000, help="messages of a round, each way and side")
    parser.add_argument("--long", type=int, default=200_000, help="messages of the run that measures memory")
    parser.add_argument("--results", type=Path, help="write the table into this file, as Markdown")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.rounds, arguments.messages, arguments.long = 1, 2_000, 0
    arguments.languages = arguments.languages or list(COMMANDS)
    for language in arguments.languages:
        if language not in COMMANDS:
            parser.error(f"no program for {language}")
    results = asyncio.run(run(arguments))
    text = table(results)
    print(text)
    if arguments.results:
        arguments.results.write_text(text + "\n")
    missed = [miss for result in results for miss in result.misses()]
    print(*(f"missed: {miss}" for miss in missed), sep="\n")
    # One round says nothing about speed.
    return 1 if missed and not arguments.short else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Runs the conformance cases against the drivers of the client libraries; see README.md.

run.py [LANGUAGE…] [--short] [--case NAME]… [--binary PATH] [--parallel N] [--results FILE] [--coverage]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stack import ROOT, Proxy, Stack, StackError, free_port

# Only the stubs: importing the library would make it part of its own test.
sys.path.insert(0, str(ROOT / "clients/python/src"))
import types

_package = types.ModuleType("warrengate")
_package.__path__ = [str(ROOT / "clients/python/src/warrengate")]
sys.modules["warrengate"] = _package

import grpc
from warrengate.v1 import admin_pb2, auth_pb2, topology_pb2
from warrengate.v1.admin_pb2_grpc import AdminStub
from warrengate.v1.auth_pb2_grpc import AuthStub
from warrengate.v1.topology_pb2_grpc import TopologyStub

Case = dict[str, Any]
HERE = Path(__file__).resolve().parent
#: Faults that affect the whole stack; such a case runs alone.
SHARED_FAULTS = {"kill_gateway", "start_gateway", "drain_gateway", "kill_broker"}
CASE_TIMEOUT = 300
START_TIMEOUT = 60


class Failed(Exception):
    """A case has failed."""


def matches(expected: Any, actual: Any) -> bool:
    """Compare as described in README.md."""
    if isinstance(expected, dict):
        operators = {name for name in expected if name.startswith("$")}
        if operators:
            return all(_operator(name, expected[name], actual) for name in operators)
        return isinstance(actual, dict) and all(
            name in actual and matches(value, actual[name]) for name, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(actual, list)
            and len(actual) == len(expected)
            and all(matches(one, other) for one, other in zip(expected, actual, strict=True))
        )
    if isinstance(expected, bool) or isinstance(actual, bool) or expected is None:
        return expected is actual
    return bool(expected == actual)


def _operator(name: str, operand: Any, actual: Any) -> bool:
    match name:
        case "$ge":
            return actual is not None and actual >= operand
        case "$le":
            return actual is not None and actual <= operand
        case "$contains":
            return operand in actual
        case "$in":
            return actual in operand
        case "$not":
            return not matches(operand, actual)
        case "$includes":
            rest = iter(actual)
            return all(any(value == one for one in rest) for value in operand)
    raise ValueError(f"unknown operator {name}")


class Administrator:
    """Calls of the first administrator, through its own channel to the gateway that answers."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._proxy = Proxy(stack.gateways)
        self._channel: grpc.aio.Channel | None = None
        self._token = ""

    async def start(self) -> None:
        await self._proxy.start()
        self._channel = self.channel(self._proxy.endpoint)

    def channel(self, endpoint: str) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self._stack.ca.read_bytes())
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 100)]
        return grpc.aio.secure_channel(endpoint.removeprefix("https://"), credentials, options=options)

    async def token(self, client_id: str, secret: str, lifetime: int | None = None) -> str:
        request = auth_pb2.IssueTokenRequest(client_id=client_id, client_secret=secret)
        if lifetime:
            request.lifetime.FromSeconds(lifetime)
        assert self._channel is not None
        return (await AuthStub(self._channel).IssueToken(request, wait_for_ready=True, timeout=30)).access_token

    async def call(self, name: str, request: Any) -> Any:
        for attempt in range(5):
            try:
                self._token = self._token or await self.token("admin", self._stack.admin_secret)
                method = getattr(AdminStub(self._channel), name)
                metadata = (("authorization", f"Bearer {self._token}"),)
                return await method(request, metadata=metadata, wait_for_ready=True, timeout=60)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or attempt == 4:
                    raise
                await asyncio.sleep(0.5)

    async def delete_queue(self, client_id: str, secret: str, name: str) -> None:
        token = await self.token(client_id, secret)
        metadata = (("authorization", f"Bearer {token}"),)
        request = topology_pb2.DeleteQueueRequest(name=name)
        await TopologyStub(self._channel).DeleteQueue(request, metadata=metadata, wait_for_ready=True, timeout=60)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
        await self._proxy.close()


class Driver:
    """A driver process."""

    def __init__(self, command: list[str], env: dict[str, str], secret: str, verbose: bool) -> None:
        self._command, self._env, self._verbose = command, env, verbose
        self._secrets = [secret]
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next = 0
        self.leaks: list[str] = []
        self.log: list[str] = []

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=self._env,
            cwd=ROOT,
            limit=1 << 26,
            start_new_session=True,
        )
        self._readers = [asyncio.create_task(self._read_answers()), asyncio.create_task(self._read_log())]

    def hide(self, secret: str) -> None:
        self._secrets.append(secret)

    def _inspect(self, line: str) -> None:
        # A JWT begins with the encoded '{"'.
        if any(secret in line for secret in self._secrets) or re.search(r"eyJ[\w-]{10,}\.", line):
            self.leaks.append(line[:200])

    async def _read_answers(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            text = line.decode()
            self._inspect(text)
            try:
                answer = json.loads(text)
            except ValueError:
                self.log.append(text)
                continue
            if (future := self._answers.pop(answer["id"], None)) is not None and not future.done():
                future.set_result(answer)
        for future in self._answers.values():
            if not future.done():
                future.set_exception(Failed("the driver has ended:\n" + "".join(self.log[-40:])))

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            text = line.decode(errors="replace")
            self._inspect(text)
            self.log.append(text)
            if self._verbose:
                sys.stderr.write(text)

    async def send(self, command: dict[str, Any]) -> dict[str, Any]:
        self._next += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._next] = future
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"id": self._next, **command}).encode() + b"\n")
            await self._process.stdin.drain()
        except OSError:
            raise Failed("the driver has ended:\n" + "".join(self.log[-40:])) from None
        return await future

    def has_ended(self) -> bool:
        return self._process.returncode is not None

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = await asyncio.wait_for(self._process.wait(), 20)
            if code != 0:
                raise Failed(f"the driver ended with {code}:\n" + "".join(self.log[-40:]))
        except TimeoutError:
            raise Failed("the driver did not end within 20 s:\n" + "".join(self.log[-40:])) from None
        finally:
            await self.kill()

    async def kill(self) -> None:
        # A driver may have started another process.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)


@dataclass
class Run:
    """One case with one driver."""

    stack: Stack
    admin: Administrator
    case: Case
    command: list[str]
    verbose: bool
    tenant: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    background: dict[str, tuple[dict[str, Any], asyncio.Task[dict[str, Any]]]] = field(default_factory=dict)
    published: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    async def __call__(self) -> None:
        async with asyncio.timeout(CASE_TIMEOUT):
            await self._prepare()
        env = {name: value for name, value in os.environ.items() if not name.startswith("WARRENGATE_")}
        env |= {
            "WARRENGATE_ENDPOINT": self.proxy.endpoint,
            "WARRENGATE_CA": str(self.stack.ca),
            "WARRENGATE_CLIENT_ID": self.values["$client_id"],
            "WARRENGATE_CLIENT_SECRET": self.values["$client_secret"],
        }
        self.driver = Driver(self.command, env, self.values["$client_secret"], self.verbose)
        await self.driver.start()
        try:
            async with asyncio.timeout(CASE_TIMEOUT):
                # The times of a case are those of the library, not of starting a program.
                await self._answer(self.driver.send({"do": "hello"}), START_TIMEOUT)
                for number, step in enumerate(self.case["steps"]):
                    try:
                        await self._step(step)
                    except Failed as failure:
                        tail = "".join(self.driver.log[-15:])
                        raise Failed(f"step {number + 1}, {json.dumps(step)[:200]}: {failure}\n{tail}") from None
                await self.driver.stop()
            if self.driver.leaks:
                raise Failed(f"the driver's output contains a secret: {self.driver.leaks[0]}")
        except TimeoutError:
            raise Failed(f"the case took more than {CASE_TIMEOUT} s") from None
        finally:
            for _, task in self.background.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self.background.values()), return_exceptions=True)
            await self.driver.kill()
            await self.proxy.close()

    async def _prepare(self) -> None:
        self.tenant = f"t{secrets.token_hex(5)}"
        plan = "unlimited"
        if "plan" in self.case:
            plan = self.tenant
            await self.admin.call("CreatePlan", admin_pb2.CreatePlanRequest(plan={"name": plan, **self.case["plan"]}))
        await self.admin.call("CreateTenant", admin_pb2.CreateTenantRequest(tenant={"id": self.tenant, "plan": plan}))
        chosen = self.case.get("grants", {"publish": ["#:#"], "subscribe": ["#"], "configure": ["#"]})
        client_id = f"{self.tenant}.app"
        grants = auth_pb2.Grants(subscribe=chosen["subscribe"], configure=chosen["configure"])
        for text in chosen["publish"]:
            exchange, _, key = text.partition(":")
            grants.publish.add(exchange=exchange, routing_key=key)
        created = await self.admin.call(
            "CreateClient", admin_pb2.CreateClientRequest(client={"client_id": client_id, "grants": grants})
        )
        self.proxy = Proxy(self.stack.gateways)
        if self.case.get("listening", True):
            await self.proxy.start()
        self.values |= {
            "$tenant": self.tenant,
            "$client_id": client_id,
            "$client_secret": created.client_secret,
            "$endpoint": self.proxy.endpoint,
            "$closed_endpoint": f"https://127.0.0.1:{free_port()}",
            "$other_ca": str(self.stack.other_ca),
        }
        if "$short_token" in json.dumps(self.case):
            self.values["$short_token"] = await self.admin.token(client_id, created.client_secret, 60)

    async def cleanup(self) -> None:
        if self.tenant:
            await self.admin.call("DeleteTenant", admin_pb2.DeleteTenantRequest(tenant=self.tenant))
            if "plan" in self.case:
                await self.admin.call("DeletePlan", admin_pb2.DeletePlanRequest(name=self.tenant))

    def _fill(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.values.get(value, value)
        if isinstance(value, dict):
            return {name: self._fill(item) for name, item in value.items()}
        return [self._fill(item) for item in value] if isinstance(value, list) else value

    async def _step(self, step: dict[str, Any]) -> None:
        step = self._fill(step)
        within = step.get("within_s", 30)
        if "do" in step:
            command = {
                name: value for name, value in step.items() if name not in ("as", "expect", "expect_error", "within_s")
            }
            if "as" in step:
                task = asyncio.create_task(self.driver.send(command))
                self.background[step["as"]] = (command, task)
                # The following steps may require that it has started.
                await asyncio.sleep(0)
                return
            answer = await self._answer(self.driver.send(command), within)
            # Queues are preparation. A broker with other load may refuse the first declaration and says that it is
            # retryable.
            attempts = 5 if step["do"] == "declare_queue" and "expect_error" not in step else 1
            while attempts > 1 and answer.get("error", {}).get("retryable"):
                attempts -= 1
                answer = await self._answer(self.driver.send(command), within)
            self._check(step, answer)
        elif "join" in step:
            command, task = self.background[step["join"]]
            answer = await self._answer(asyncio.shield(task), within)
            self.published[step["join"]] = (command, answer.get("ok", {}))
            self._check(step, answer)
        elif "until" in step:
            await self._until(step, within)
        elif "fault" in step:
            await self._answer(self._fault(step), max(within, 60))
        elif "check" in step:
            await getattr(self, f"_check_{step['check']}")(step)
        else:
            raise ValueError(f"an unknown kind of step: {step}")

    async def _answer(self, awaitable: Any, within: float) -> Any:
        try:
            return await asyncio.wait_for(awaitable, within)
        except TimeoutError:
            raise Failed(f"no answer within {within} s") from None

    def _check(self, step: dict[str, Any], answer: dict[str, Any]) -> None:
        if "expect_error" in step:
            if not matches(step["expect_error"], answer.get("error")):
                raise Failed(f"expected the error {step['expect_error']}, got {json.dumps(answer)[:600]}")
        elif "error" in answer:
            raise Failed(f"failed with {answer['error']}")
        elif not matches(step.get("expect", {}), answer["ok"]):
            raise Failed(f"got {json.dumps(answer['ok'])[:600]}")

    async def _until(self, step: dict[str, Any], within: float) -> None:
        deadline = time.monotonic() + within
        while True:
            answer = await self._answer(self.driver.send(step["until"]), within)
            if "expect_error" in step:
                if matches(step["expect_error"], answer.get("error")):
                    return
            elif "ok" in answer and matches(step["expect"], answer["ok"]):
                return
            if time.monotonic() > deadline:
                raise Failed(f"after {within} s still {json.dumps(answer)[:600]}")
            await asyncio.sleep(0.05)

    async def _fault(self, step: dict[str, Any]) -> None:
        gateways = self.stack.gateways
        client_id, secret = self.values["$client_id"], self.values["$client_secret"]
        match step["fault"]:
            case "kill_gateway":
                gateways[step["gateway"]].kill()
            case "start_gateway":
                await gateways[step["gateway"]].start()
            case "drain_gateway":
                await gateways[step["gateway"]].drain()
            case "kill_broker":
                await self.stack.broker.kill(step["down_ms"] / 1000)
            case "cut":
                await self.proxy.cut()
            case "restore" | "start_listening":
                await self.proxy.start()
            case "freeze":
                self.proxy.freeze()
            case "revoke_client":
                await self.admin.call("RevokeClient", admin_pb2.RevokeClientRequest(client_id=client_id))
            case "rotate_secret":
                request = admin_pb2.RotateClientSecretRequest(client_id=client_id)
                self.values["$client_secret"] = (await self.admin.call("RotateClientSecret", request)).client_secret
                self.driver.hide(self.values["$client_secret"])
            case "suspend_tenant":
                await self.admin.call("SuspendTenant", admin_pb2.SuspendTenantRequest(tenant=self.tenant))
            case "resume_tenant":
                await self.admin.call("ResumeTenant", admin_pb2.ResumeTenantRequest(tenant=self.tenant))
            case "delete_queue":
                await self.admin.delete_queue(client_id, secret, step["name"])
            case "wait":
                await asyncio.sleep(step["ms"] / 1000)
            case other:
                raise ValueError(f"unknown fault {other}")

    async def _keys(self, consumer: str) -> list[list[Any]]:
        answer = await self._answer(self.driver.send({"do": "report", "consumer": consumer, "full": True}), 30)
        if "error" in answer:
            raise Failed(f"no report: {answer['error']}")
        return list(answer["ok"]["keys"])

    async def _check_nothing_lost(self, step: dict[str, Any]) -> None:
        confirmed = set()
        for name in step["published"]:
            command, outcome = self.published[name]
            all_keys = {f"{command['prefix']}-{number}" for number in range(command["count"])}
            confirmed |= all_keys - {failure["key"] for failure in outcome["failed"]}
        # The last deliveries may still be on their way to the driver.
        deadline = time.monotonic() + 15
        while True:
            deliveries: dict[str, int] = {}
            for consumer in step["consumers"]:
                for key, count, _ in await self._keys(consumer):
                    deliveries[key] = deliveries.get(key, 0) + count
            missing = confirmed - set(deliveries)
            if not missing:
                break
            if time.monotonic() > deadline:
                raise Failed(f"{len(missing)} of {len(confirmed)} confirmed messages were lost: {sorted(missing)[:5]}")
            await asyncio.sleep(0.1)
        extra = sum(count - 1 for count in deliveries.values())
        if extra > step.get("at_most", extra):
            twice = sorted(key for key, count in deliveries.items() if count > 1)[:5]
            raise Failed(f"{extra} deliveries beyond the first one: {twice}")

    async def _check_in_order(self, step: dict[str, Any]) -> None:
        numbers = [int(key.rpartition("-")[2]) for key, *_ in await self._keys(step["consumer"])]
        for before, after in itertools.pairwise(numbers):
            if before > after:
                raise Failed(f"message {after} came after message {before}")

    async def _check_attempts(self, step: dict[str, Any]) -> None:
        high = [key for key, _, attempt in await self._keys(step["consumer"]) if attempt > step["highest"]]
        if high:
            raise Failed(f"{len(high)} deliveries had a higher attempt: {high[:5]}")


@dataclass
class Result:
    """The result of a case."""

    language: str
    case: str
    seconds: float
    failure: str | None


async def run_case(
    stack: Stack, admin: Administrator, case: Case, language: str, command: list[str], verbose: bool
) -> Result:
    run = Run(stack, admin, case, command, verbose)
    began, failure = time.monotonic(), None
    try:
        await run()
    except (Failed, grpc.aio.AioRpcError, StackError) as error:
        failure = str(error)
    seconds = time.monotonic() - began
    await stack.restore()
    try:
        await run.cleanup()
    except grpc.aio.AioRpcError as error:
        failure = failure or f"the tenant could not be deleted: {error.details()}"
    print(f"{'ok  ' if failure is None else 'FAIL'} {language:<11} {case['name']:<32} {seconds:6.1f} s", flush=True)
    if failure:
        print("     " + failure.replace("\n", "\n     "), flush=True)
    return Result(language, case["name"], seconds, failure)


async def run_all(arguments: argparse.Namespace, cases: list[Case], drivers: dict[str, list[str]]) -> list[Result]:
    folder = Path(tempfile.mkdtemp(prefix="warrengate-conformance-"))
    folder.chmod(0o711)
    stack = Stack(folder, arguments.binary)
    admin = Administrator(stack)
    results: list[Result] = []
    try:
        await stack.start()
        await admin.start()
        jobs = [
            (case, language, command)
            for language, command in drivers.items()
            for case in cases
            if case["name"] not in arguments.skip.get(language, [])
        ]
        alone = [job for job in jobs if {step.get("fault") for step in job[0]["steps"]} & SHARED_FAULTS]
        slots = asyncio.Semaphore(arguments.parallel)

        async def run_one(case: Case, language: str, command: list[str]) -> None:
            async with slots:
                results.append(await run_case(stack, admin, case, language, command, bool(arguments.case)))

        await asyncio.gather(*(run_one(*job) for job in jobs if job not in alone))
        for job in alone:
            await run_one(*job)
    finally:
        await admin.close()
        stack.stop()
        if any(result.failure for result in results) or not results:
            logs = ROOT / "target" / "conformance"
            shutil.rmtree(logs, ignore_errors=True)
            logs.mkdir(parents=True)
            for log in (*folder.glob("*.log"), *folder.glob("broker/log/*")):
                shutil.copy(log, logs / log.name)
            print(f"the logs of the stack are in {logs.relative_to(ROOT)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
    return results


def table(cases: list[Case], results: list[Result]) -> str:
    """Return the table by case and language, in Markdown."""
    languages = list(dict.fromkeys(result.language for result in results))
    of = {(result.case, result.language): result for result in results}
    lines = ["| case | " + " | ".join(languages) + " |", "| --- |" + " --- |" * len(languages)]
    for case in cases:
        cells = []
        for language in languages:
            result = of.get((case["name"], language))
            cells.append("–" if result is None else "passed" if result.failure is None else "FAILED")
        lines.append(f"| {case['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    all_drivers = json.loads((HERE / "drivers.json").read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "languages", nargs="*", metavar="LANGUAGE", help=f"one of {', '.join(all_drivers)}; default: all"
    )
    parser.add_argument("--short", action="store_true", help='only the cases with the tag "short"')
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="only this case; may be repeated")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/debug/warrengate")
    parser.add_argument("--parallel", type=int, default=2, help="maximum number of independent cases at a time")
    parser.add_argument("--results", type=Path, help="write the table into this file, as Markdown")
    parser.add_argument("--coverage", action="store_true", help="run the drivers so that they record coverage")
    arguments = parser.parse_args()
    arguments.binary = arguments.binary.resolve()
    languages = arguments.languages or list(all_drivers)
    for language in languages:
        if language not in all_drivers:
            parser.error(f"no driver for {language}")
    cases = [case for file in sorted((HERE / "cases").glob("*.json")) for case in json.loads(file.read_text())]
    if arguments.short:
        cases = [case for case in cases if "short" in case["tags"]]
    if arguments.case:
        cases = [case for case in cases if case["name"] in arguments.case]
    if not cases:
        parser.error("no such case")
    values = {"${PYTHON}": os.environ.get("PYTHON", sys.executable)}
    which = "coverage" if arguments.coverage else "command"
    drivers = {
        language: [
            values.get(word, word) for word in all_drivers[language].get(which, all_drivers[language]["command"])
        ]
        for language in languages
    }
    arguments.skip = {language: all_drivers[language].get("skip", []) for language in languages}
    results = asyncio.run(run_all(arguments, cases, drivers))
    failed = sum(result.failure is not None for result in results)
    if arguments.results:
        arguments.results.write_text(table(cases, results) + "\n")
    print(f"conformance: {len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())

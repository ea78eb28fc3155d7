"""The conformance driver of the Python library; clients/conformance/README.md describes the protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import warrengate
from warrengate.client import environment

Command = dict[str, Any]


def seconds(command: Command, name: str) -> dict[str, float]:
    """Return an option in seconds if the command has it in milliseconds."""
    key = f"{name}_ms"
    return {name: command[key] / 1000} if key in command else {}


def some(command: Command, *names: str) -> Command:
    return {name: command[name] for name in names if name in command}


def to_header(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"bytes"}:
        return base64.b64decode(value["bytes"])
    return value


def from_header(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return value


def key_of(body: bytes) -> str:
    return body[:200].split(b":")[0].decode(errors="replace")


@dataclass
class ObservedConsumer:
    """A consumer and the deliveries that its handlers received."""

    work: float
    rules: list[Command]
    consumer: warrengate.Consumer | None = None
    keys: dict[str, list[int]] = field(default_factory=dict)
    total: int = 0
    running: int = 0
    max_running: int = 0
    max_attempt: int = 0
    last: warrengate.Message | None = None
    unsettled: list[warrengate.Delivery] = field(default_factory=list)
    loop: asyncio.Task[None] | None = None

    def arrive(self, delivery: warrengate.Delivery) -> Command:
        key = key_of(delivery.body)
        counts = self.keys.setdefault(key, [0, 0])
        counts[0] += 1
        counts[1] = max(counts[1], delivery.attempt)
        self.total += 1
        self.max_attempt = max(self.max_attempt, delivery.attempt)
        self.last = delivery.message
        for rule in self.rules:
            if key.startswith(rule.get("prefix", "")) and delivery.attempt <= rule.get("attempts", 1 << 30):
                return rule
        return {"then": "ack"}

    async def callback(self, delivery: warrengate.Delivery) -> None:
        rule = self.arrive(delivery)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            if self.work:
                await asyncio.sleep(self.work)
            match rule["then"]:
                case "fail":
                    raise RuntimeError("this case requires the handler to fail")
                case "stuck":
                    await asyncio.Event().wait()
                case action:
                    settle(delivery, action, rule)
        finally:
            self.running -= 1

    async def iterate(self, concurrency: int) -> None:
        slots = asyncio.Semaphore(concurrency)
        tasks: set[asyncio.Task[None]] = set()
        assert self.consumer is not None
        try:
            async for delivery in self.consumer:
                await slots.acquire()
                task = asyncio.create_task(self.process(delivery, slots))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except warrengate.WarrengateError:
            # `report` shows it.
            pass

    async def process(self, delivery: warrengate.Delivery, slots: asyncio.Semaphore) -> None:
        rule = self.arrive(delivery)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        if self.work:
            await asyncio.sleep(self.work)
        match rule["then"]:
            case "hold":
                self.unsettled.append(delivery)
            case "fail":
                delivery.retry()
            case "ack":
                delivery.ack()
            case action:
                settle(delivery, action, rule)
        self.running -= 1
        slots.release()


def settle(delivery: warrengate.Delivery, action: str, rule: Command) -> None:
    match action:
        case "retry":
            delivery.retry(
                timedelta(milliseconds=rule["delay_ms"]) if "delay_ms" in rule else None, rule.get("reason", "")
            )
        case "dead_letter":
            delivery.dead_letter(rule.get("reason", ""))
        case "drop":
            delivery.drop()


class Driver:
    """Executes commands."""

    def __init__(self) -> None:
        self.clients: dict[str, warrengate.Client] = {}
        self.events: dict[str, list[str]] = {}
        self.publishers: dict[str, warrengate.Publisher] = {}
        self.consumers: dict[str, ObservedConsumer] = {}

    async def hello(self, command: Command) -> Command:
        return {"protocol": 1, "language": "python", "library": warrengate.__version__}

    async def connect(self, command: Command) -> Command:
        options = environment()
        if "token" in command:
            options.pop("client_id")
            options.pop("client_secret")
        if not command.get("from_env"):
            options.update(some(command, "endpoint", "ca", "client_id", "client_secret", "token"))
        events: list[str] = self.events.setdefault(command["client"], [])
        self.clients[command["client"]] = await warrengate.open_client(
            **options,
            **seconds(command, "token_lifetime"),
            **seconds(command, "connect_timeout"),
            on_event=lambda event: events.append(event.kind.value),
        )
        return {}

    async def close(self, command: Command) -> Command:
        await self.clients[command["client"]].close(**seconds(command, "timeout"))
        return {}

    async def list_events(self, command: Command) -> Command:
        return {"events": self.events[command["client"]]}

    async def whoami(self, command: Command) -> Command:
        who = await self.clients[command["client"]].whoami()
        return {"tenant": who.tenant, "client_id": who.client_id}

    async def declare_queue(self, command: Command) -> Command:
        backoff = {
            f"retry_{end}": timedelta(milliseconds=command[f"retry_{end}_ms"])
            for end in ("min", "max")
            if f"retry_{end}_ms" in command
        }
        options = some(command, "type", "max_length", "max_delivery_attempts")
        await self.clients[command["client"]].topology.declare_queue(command["name"], **options, **backoff)
        return {}

    async def declare_exchange(self, command: Command) -> Command:
        await self.clients[command["client"]].topology.declare_exchange(command["name"], command["type"])
        return {}

    async def bind(self, command: Command) -> Command:
        topology = self.clients[command["client"]].topology
        await topology.bind(command["source"], command["destination"], command.get("routing_key", ""))
        return {}

    async def delete_queue(self, command: Command) -> Command:
        return {"count": await self.clients[command["client"]].topology.delete_queue(command["name"])}

    async def purge_queue(self, command: Command) -> Command:
        return {"count": await self.clients[command["client"]].topology.purge_queue(command["name"])}

    async def queue_status(self, command: Command) -> Command:
        status = await self.clients[command["client"]].topology.queue_status(command["name"])
        return {"ready": status.messages_ready, "consumers": status.consumers}

    async def list_queues(self, command: Command) -> Command:
        return {"names": [entry.queue.name for entry in await self.clients[command["client"]].topology.list_queues()]}

    async def list_tenants(self, command: Command) -> Command:
        from warrengate.v1.admin_pb2 import ListTenantsRequest

        response = await self.clients[command["client"]].admin.list_tenants(ListTenantsRequest())
        return {"names": [tenant.id for tenant in response.tenants]}

    async def dead_letters(self, command: Command) -> Command:
        letters = self.clients[command["client"]].dead_letters.list(command["queue"])
        return {
            "dead_letters": [
                {
                    "key": key_of(letter.message.body),
                    "code": letter.code,
                    "reason": letter.reason,
                    "attempts": letter.attempts,
                }
                async for letter in letters
            ]
        }

    async def redrive(self, command: Command) -> Command:
        done = await self.clients[command["client"]].dead_letters.redrive(command["queue"])
        return {"redriven": done.redriven, "failed": done.failed}

    async def purge_dead_letters(self, command: Command) -> Command:
        return {"purged": await self.clients[command["client"]].dead_letters.purge(command["queue"])}

    async def publisher(self, command: Command) -> Command:
        options = some(command, "max_in_flight", "batch_messages", "retry_throttled")
        self.publishers[command["publisher"]] = self.clients[command["client"]].publisher(
            command.get("exchange", ""), **options, **seconds(command, "timeout")
        )
        return {}

    async def publish(self, command: Command) -> Command:
        publisher = self.publishers[command["publisher"]]
        pause, size, peak = command.get("interval_ms", 0) / 1000, command.get("size", 0), 0
        futures = []
        for number in range(command["count"]):
            key = f"{command['prefix']}-{number}"
            body = f"{key}:".ljust(size, ".") if size else key
            futures.append((key, await publisher.send(body, command["routing_key"])))
            peak = max(peak, publisher.in_flight)
            if pause:
                await asyncio.sleep(pause)
        outcomes: dict[str, int] = {}
        failed = []
        for key, future in futures:
            outcome = "CONFIRMED"
            try:
                await future
            except warrengate.WarrengateError as error:
                outcome = getattr(error, "outcome", "NOT_SENT")
                failed.append(
                    {
                        "key": key,
                        "outcome": outcome,
                        "reason": error.reason,
                        "retry_after_ms": None if error.retry_after is None else error.retry_after * 1000,
                        "message_id": getattr(error, "message_id", ""),
                    }
                )
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        return {"outcomes": outcomes, "failed": failed, "peak_in_flight": peak}

    async def publish_message(self, command: Command) -> Command:
        properties = dict(command["message"])
        body = properties.pop("body").encode()
        headers = {name: to_header(value) for name, value in properties.pop("headers", {}).items()}
        message = warrengate.Message(body=body, headers=headers, **properties)
        confirmation = await self.publishers[command["publisher"]].publish(message, command["routing_key"])
        return {"outcome": "CONFIRMED", "message_id": confirmation.message_id}

    async def consume(self, command: Command) -> Command:
        client = self.clients[command["client"]]
        observed = ObservedConsumer(command.get("work_ms", 0) / 1000, command.get("rules", []))
        options = {
            **some(command, "window", "position"),
            **seconds(command, "lease"),
            **seconds(command, "max_lease"),
        }
        concurrency = command.get("concurrency", 1)
        if command.get("form") == "iterator":
            observed.consumer = await client.messages(command["queue"], **options)
            observed.loop = asyncio.create_task(observed.iterate(concurrency))
        else:
            observed.consumer = await client.consume(
                command["queue"], observed.callback, concurrency=concurrency, **options
            )
        self.consumers[command["consumer"]] = observed
        return {}

    async def settle_held(self, command: Command) -> Command:
        unsettled = self.consumers[command["consumer"]].unsettled
        for delivery in unsettled:
            delivery.ack()
        count = len(unsettled)
        unsettled.clear()
        return {"count": count}

    async def report(self, command: Command) -> Command:
        observed = self.consumers[command["consumer"]]
        assert observed.consumer is not None
        error = observed.consumer.error
        result: Command = {
            "total": observed.total,
            "distinct": len(observed.keys),
            "running": observed.running,
            "max_running": observed.max_running,
            "max_attempt": observed.max_attempt,
            "finished": observed.consumer.is_finished,
            "error": None if error is None else describe(error),
        }
        if command.get("full"):
            result["keys"] = [[key, *counts] for key, counts in observed.keys.items()]
            if observed.last is not None and len(observed.last.body) < 1000:
                last = observed.last
                names = ("message_id", "correlation_id", "reply_to", "content_type", "type", "app_id", "priority")
                headers = {name: from_header(value) for name, value in last.headers.items()}
                result["last"] = {name: getattr(last, name) for name in names} | {"body": last.text, "headers": headers}
        return result

    async def stop(self, command: Command) -> Command:
        consumer = self.consumers[command["consumer"]].consumer
        assert consumer is not None
        await consumer.close(**seconds(command, "timeout"))
        return {}

    async def respond(self, command: Command) -> Command:
        async def upper(delivery: warrengate.Delivery) -> str:
            return delivery.message.text.upper()

        await self.clients[command["client"]].respond(command["queue"], upper)
        return {}

    async def request(self, command: Command) -> Command:
        reply = await self.clients[command["client"]].request(
            command["routing_key"], command["body"], **seconds(command, "timeout")
        )
        return {"body": reply.text}


def describe(error: warrengate.WarrengateError) -> Command:
    return {
        "reason": error.reason,
        "code": error.code,
        "retryable": error.retryable,
        "retry_after_ms": None if error.retry_after is None else error.retry_after * 1000,
        "message": str(error),
    }


async def execute(method: Callable[[Command], Awaitable[Command]], command: Command) -> None:
    try:
        answer: Command = {"ok": await method(command)}
    except warrengate.WarrengateError as error:
        answer = {"error": describe(error)}
    except Exception as error:
        logging.exception("%s", command)
        answer = {"error": {"reason": "DRIVER", "code": "UNKNOWN", "retryable": False, "message": repr(error)}}
    print(json.dumps({"id": command["id"], **answer}), flush=True)


async def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    driver = Driver()
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        command = json.loads(line)
        name = "list_events" if command["do"] == "events" else command["do"]
        task = asyncio.create_task(execute(getattr(driver, name), command))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*(client.close(timeout=2) for client in driver.clients.values()), return_exceptions=True)


asyncio.run(main())

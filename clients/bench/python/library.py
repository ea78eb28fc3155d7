"""The library's side of the measurement."""

from __future__ import annotations

import asyncio
from typing import Any

import warrengate

from program import serve


async def main() -> None:
    async with warrengate.from_env() as client:
        publisher = client.publisher()

        async def publish(command: dict[str, Any]) -> None:
            queue, count, window, body = command["queue"], command["count"], command["window"], bytes(command["size"])
            for first in range(0, count, window):
                outcomes = [await publisher.send(body, queue) for _ in range(min(window, count - first))]
                await asyncio.gather(*outcomes)

        async def consume(command: dict[str, Any]) -> None:
            left, done = command["count"], asyncio.Event()

            async def handle(delivery: warrengate.Delivery) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    done.set()

            consumer = await client.consume(command["queue"], handle, window=command["prefetch"])
            await done.wait()
            await consumer.close()

        await serve({"publish": publish, "consume": consume})


asyncio.run(main())

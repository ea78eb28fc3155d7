"""aio-pika, as its documentation shows it."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import aio_pika

from program import serve


async def main() -> None:
    context = ssl.create_default_context(cafile=os.environ["BENCH_CA"])
    context.load_cert_chain(os.environ["BENCH_CERTIFICATE"], os.environ["BENCH_KEY"])
    url = f"amqps://localhost:{os.environ['BENCH_PORT']}/{os.environ['BENCH_VHOST']}?auth=external"
    connection = await aio_pika.connect(url, ssl_context=context)
    publishing = await connection.channel()

    async def publish(command: dict[str, Any]) -> None:
        queue, count, window, body = command["queue"], command["count"], command["window"], bytes(command["size"])
        exchange = publishing.default_exchange

        def send() -> Any:
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            return exchange.publish(message, routing_key=queue)

        for first in range(0, count, window):
            await asyncio.gather(*(send() for _ in range(min(window, count - first))))

    async def consume(command: dict[str, Any]) -> None:
        left, done = command["count"], asyncio.Event()
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=command["prefetch"])

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            nonlocal left
            if left == 0:  # the channel is being closed
                return
            await message.ack()
            left -= 1
            if left == 0:
                done.set()

        queue = await channel.get_queue(command["queue"], ensure=False)
        await queue.consume(handle)
        await done.wait()
        await channel.close()

    await serve({"publish": publish, "consume": consume})


asyncio.run(main())

"""Warrengate in Python: a queue, publishing, consuming, a retry and a dead letter. README.md describes how to run it."""

import asyncio
import json
import uuid
from pathlib import Path

import warrengate

RETRY_AFTER = 4  # seconds; the broker keeps the message meanwhile


def on_event(event):
    if event.kind == "reauthenticated":
        print("token renewed")


async def main():
    scenario = json.loads((Path(__file__).parent.parent / "scenario.json").read_text())
    queue, left, finished = f"quickstart-{uuid.uuid4().hex[:8]}", set(scenario["orders"]), asyncio.Event()

    async def handle(delivery):  # returning acknowledges, unless the delivery was settled otherwise
        order, result = delivery.message.text, "done"
        if order == scenario["dead_letter"]:
            result = "give up"
            delivery.dead_letter("required by the scenario")
        elif order == scenario["retry_once"] and delivery.attempt == 1:
            result = "try again"
            delivery.retry(RETRY_AFTER, "required by the scenario")
        print(f"delivered {order}, attempt {delivery.attempt}: {result}")
        if result != "try again":
            left.discard(order)
        if not left:
            finished.set()

    async with warrengate.from_env(on_event=on_event) as client:
        await client.topology.declare_queue(queue)
        async with client.publisher() as publisher:
            sent = [(order, await publisher.send(order, queue)) for order in scenario["orders"]]
            sent.append((scenario["nowhere"], await publisher.send(scenario["nowhere"], f"{queue}.nowhere")))
            for order, outcome in sent:
                try:
                    await outcome
                    print(f"published {order}: CONFIRMED")
                except warrengate.PublishError as error:
                    print(f"published {order}: {error.outcome}")
        async with await client.consume(queue, handle):
            await finished.wait()
        await client.topology.delete_queue(queue)


asyncio.run(main())

import asyncio

import warrengate


async def ship(delivery):
    print("shipped", delivery.message.text, flush=True)  # an exception retries; returning acknowledges


async def publish(publisher, number):
    message = warrengate.Message(f"order {number}".encode(), message_id=f"order-{number}")
    while True:
        try:
            return await publisher.publish(message, "shipping")
        except warrengate.PublishError as error:  # after a minute of attempts
            if not error.retryable:
                raise


async def main():
    async with warrengate.from_env() as client:
        await client.topology.declare_queue("shipping")
        consumer = await client.consume("shipping", ship, concurrency=4)
        publisher = client.publisher()
        for number in range(2000):
            await publish(publisher, number)
        await consumer.wait()


asyncio.run(main())

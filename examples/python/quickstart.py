"""Warrengate in Python: a token, a queue, publishing, consuming. See README.md."""

import asyncio
import json
import os
import sys
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "generated"))

import grpc
from opentelemetry import propagate
from warrengate.v1 import auth_pb2, auth_pb2_grpc, message_pb2, messaging_pb2, messaging_pb2_grpc, topology_pb2, topology_pb2_grpc
from warrengate.v1.messaging_pb2 import Outcome, PublishRequest, SubscribeRequest

AGAIN = 0.2  # seconds before a stream is opened again
RETRY_AFTER = 4  # seconds; the broker keeps the message meanwhile
FRAME = 1_000  # the maximum number of messages in a frame
KEEPALIVE = [("grpc.keepalive_time_ms", 15_000), ("grpc.keepalive_timeout_ms", 10_000)]


class Gateway:
    """One channel to the gateway, and a cached token."""

    def __init__(self):
        authority = grpc.ssl_channel_credentials(Path(os.environ["WARRENGATE_CA"]).read_bytes())
        address = os.environ["WARRENGATE_ENDPOINT"].removeprefix("https://")
        self.channel = grpc.aio.secure_channel(address, authority, options=KEEPALIVE)
        self.cached = None
        self.messaging = messaging_pb2_grpc.MessagingStub(self.channel)
        self.topology = topology_pb2_grpc.TopologyStub(self.channel)

    async def token(self):
        who = auth_pb2.IssueTokenRequest(
            client_id=os.environ["WARRENGATE_CLIENT_ID"], client_secret=os.environ["WARRENGATE_CLIENT_SECRET"]
        )
        # A stream that is told that its token expires needs a newer one, a minute ahead.
        if self.cached is None or self.cached.expires.seconds - time.time() < 120:
            self.cached = await auth_pb2_grpc.AuthStub(self.channel).IssueToken(who, wait_for_ready=True)
        return self.cached.access_token

    async def metadata(self):
        return (("authorization", f"Bearer {await self.token()}"),)

    async def renewal(self):
        return messaging_pb2.Reauthenticate(access_token=await self.token())


def publication(sequence, queue, body):
    """A message for this queue. Its id lets consumers recognise a message that was sent twice."""
    message = message_pb2.Message(body=body.encode(), message_id=str(uuid.uuid4()), content_type="text/plain")
    carrier = {}
    propagate.inject(carrier)  # consumers continue the current trace, if there is one
    for name, value in carrier.items():
        message.headers[name].string_value = value
    return messaging_pb2.Publication(sequence=sequence, routing_key=queue, message=message)


async def publish(gateway, publications):
    """Publishes all messages in order, over as many streams as needed, and yields each with its final outcome."""
    waiting = {publication.sequence: publication for publication in publications}
    while waiting:
        pause = AGAIN
        try:
            stream = gateway.messaging.Publish(metadata=await gateway.metadata(), wait_for_ready=True)
            frame = messaging_pb2.Publications(publications=list(waiting.values())[:FRAME])
            await stream.write(PublishRequest(publications=frame))
            await stream.done_writing()
            async for response in stream:
                for result in response.results.results:
                    pause = max(pause, result.retry_after.ToMilliseconds() / 1000)
                    # UNKNOWN may be stored, THROTTLED is not: both are sent again, with the same id.
                    if result.outcome not in (Outcome.OUTCOME_UNKNOWN, Outcome.OUTCOME_THROTTLED):
                        yield waiting.pop(result.sequence), result
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        if waiting:
            await asyncio.sleep(pause)


async def consume(gateway, queue, handle):
    """Passes each delivery to `handle`, which returns how to reject it (None: acknowledge) and whether more are wanted."""
    more = True
    while more:
        try:
            stream = gateway.messaging.Subscribe(metadata=await gateway.metadata(), wait_for_ready=True)
            await stream.write(SubscribeRequest(start=messaging_pb2.SubscribeStart(queue=queue)))
            async for response in stream:
                match response.WhichOneof("event"):
                    case "deliveries":
                        for delivery in response.deliveries.deliveries:
                            action, more = handle(delivery)
                            if action is not None:
                                await stream.write(rejection(delivery.delivery_id, action))
                        # One acknowledgement for the frame; rejected deliveries are settled already.
                        await stream.write(SubscribeRequest(ack=messaging_pb2.Ack(through=delivery.delivery_id)))
                        if not more:
                            await stream.done_writing()  # the gateway settles, returns the rest and ends the stream
                    case "auth_expiring":
                        await stream.write(SubscribeRequest(reauthenticate=await gateway.renewal()))
                        print("token renewed")
                    case "draining":
                        await stream.done_writing()  # the next stream reaches another gateway
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        await asyncio.sleep(AGAIN if more else 0)


def rejection(delivery_id, action):
    nack = messaging_pb2.Nack(delivery_ids=[delivery_id], action=action, reason="as the scenario says")
    if action == messaging_pb2.NACK_ACTION_RETRY:
        nack.delay.FromSeconds(RETRY_AFTER)
    return SubscribeRequest(nack=nack)


async def main():
    scenario = json.loads((Path(__file__).parent.parent / "scenario.json").read_text())
    gateway, queue, left = Gateway(), f"quickstart-{uuid.uuid4().hex[:8]}", set(scenario["orders"])
    # Without a deadline these calls wait for a gateway that restarts.
    declaration = topology_pb2.DeclareQueueRequest(queue={"name": queue})
    await gateway.topology.DeclareQueue(declaration, metadata=await gateway.metadata(), wait_for_ready=True)

    publications = [publication(number, queue, order) for number, order in enumerate(scenario["orders"])]
    publications.append(publication(len(publications), f"{queue}.nowhere", scenario["nowhere"]))
    async for sent, result in publish(gateway, publications):
        print(f"published {sent.message.body.decode()}: {Outcome.Name(result.outcome).removeprefix('OUTCOME_')}")

    def handle(delivery):
        order, action, verdict = delivery.message.body.decode(), None, "done"
        if order == scenario["dead_letter"]:
            action, verdict = messaging_pb2.NACK_ACTION_DEAD_LETTER, "give up"
        elif order == scenario["retry_once"] and delivery.attempt == 1:
            action, verdict = messaging_pb2.NACK_ACTION_RETRY, "try again"
        print(f"delivered {order}, attempt {delivery.attempt}: {verdict}")
        if verdict != "try again":
            left.discard(order)
        return action, bool(left)

    await consume(gateway, queue, handle)
    deletion = topology_pb2.DeleteQueueRequest(name=queue)
    await gateway.topology.DeleteQueue(deletion, metadata=await gateway.metadata(), wait_for_ready=True)


if __name__ == "__main__":
    asyncio.run(main())

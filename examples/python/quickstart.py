"""Warrengate in Python: a token, a queue, publishing, consuming. README.md says how to run it."""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "generated"))

import grpc
from opentelemetry import propagate
from warrengate.v1 import auth_pb2, auth_pb2_grpc, message_pb2, messaging_pb2, messaging_pb2_grpc, topology_pb2, topology_pb2_grpc
from warrengate.v1.messaging_pb2 import Outcome, PublishRequest, SubscribeRequest

AGAIN = 0.2  # seconds before a stream is opened again
RETRY_AFTER = 4  # seconds; the broker keeps the message meanwhile


class Gateway:
    """One channel to the gateway, and tokens for it."""

    def __init__(self):
        authority = grpc.ssl_channel_credentials(Path(os.environ["WARRENGATE_CA"]).read_bytes())
        self.channel = grpc.aio.secure_channel(os.environ["WARRENGATE_ENDPOINT"].removeprefix("https://"), authority)
        self.messaging = messaging_pb2_grpc.MessagingStub(self.channel)
        self.topology = topology_pb2_grpc.TopologyStub(self.channel)

    async def token(self):
        who = auth_pb2.IssueTokenRequest(
            client_id=os.environ["WARRENGATE_CLIENT_ID"], client_secret=os.environ["WARRENGATE_CLIENT_SECRET"]
        )
        return (await auth_pb2_grpc.AuthStub(self.channel).IssueToken(who)).access_token

    async def metadata(self):
        return (("authorization", f"Bearer {await self.token()}"),)

    async def renewal(self):
        return messaging_pb2.Reauthenticate(access_token=await self.token())


def publication(sequence, queue, body):
    """To the queue of that name. The id is the caller's, so that a message sent twice can be recognised."""
    message = message_pb2.Message(body=body.encode(), message_id=str(uuid.uuid4()), content_type="text/plain")
    carrier = {}
    propagate.inject(carrier)  # the trace that this program is part of, if any, goes on in whoever consumes the message
    for name, value in carrier.items():
        message.headers[name].string_value = value
    return messaging_pb2.Publication(sequence=sequence, routing_key=queue, message=message)


async def publish(gateway, publications):
    """Publishes all, over as many streams as it takes, and yields each with its final outcome."""
    waiting = {publication.sequence: publication for publication in publications}
    while waiting:
        stream = gateway.messaging.Publish(metadata=await gateway.metadata())
        try:
            frame = messaging_pb2.Publications(publications=waiting.values())
            await stream.write(PublishRequest(publications=frame))
            await stream.done_writing()
            async for response in stream:
                for result in response.results.results:
                    # UNKNOWN may be stored, THROTTLED is not: both are sent again, with the same id.
                    if result.outcome not in (Outcome.OUTCOME_UNKNOWN, Outcome.OUTCOME_THROTTLED):
                        yield waiting.pop(result.sequence), result
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        if waiting:
            await asyncio.sleep(AGAIN)


async def consume(gateway, queue, handle):
    """Hands each delivery to `handle`, which returns what becomes of it (None: done) and whether more is wanted."""
    more = True
    while more:
        stream = gateway.messaging.Subscribe(metadata=await gateway.metadata())
        try:
            await stream.write(SubscribeRequest(start=messaging_pb2.SubscribeStart(queue=queue)))
            async for response in stream:
                match response.WhichOneof("event"):
                    case "deliveries":
                        for delivery in response.deliveries.deliveries:
                            action, more = handle(delivery)
                            await stream.write(settlement(delivery.delivery_id, action))
                        if not more:
                            await stream.done_writing()  # the gateway settles, hands back the rest and ends the stream
                    case "auth_expiring":
                        await stream.write(SubscribeRequest(reauthenticate=await gateway.renewal()))
                        print("token renewed")
                    case "draining":
                        await stream.done_writing()  # and the next stream reaches another gateway
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        await asyncio.sleep(AGAIN if more else 0)


def settlement(delivery_id, action):
    if action is None:
        return SubscribeRequest(ack=messaging_pb2.Ack(delivery_ids=[delivery_id]))
    nack = messaging_pb2.Nack(delivery_ids=[delivery_id], action=action, reason="as the scenario says")
    if action == messaging_pb2.NACK_ACTION_RETRY:
        nack.delay.FromSeconds(RETRY_AFTER)
    return SubscribeRequest(nack=nack)


async def main():
    scenario = json.loads((Path(__file__).parent.parent / "scenario.json").read_text())
    gateway, queue, left = Gateway(), f"quickstart-{uuid.uuid4().hex[:8]}", set(scenario["orders"])
    # No deadline: a gateway that restarts is waited for.
    who = await gateway.metadata()
    await gateway.topology.DeclareQueue(topology_pb2.DeclareQueueRequest(queue={"name": queue}), metadata=who)

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
    await gateway.topology.DeleteQueue(topology_pb2.DeleteQueueRequest(name=queue), metadata=await gateway.metadata())


asyncio.run(main())

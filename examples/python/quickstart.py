"""Warrengate in Python: a token, a queue, a publish stream, a subscribe stream. README.md says how to run it."""

import os
import queue
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "generated"))

import grpc
from warrengate.v1 import (
    auth_pb2,
    auth_pb2_grpc,
    message_pb2,
    messaging_pb2,
    messaging_pb2_grpc,
    topology_pb2,
    topology_pb2_grpc,
)

ORDERS = 10
LIMIT = 60  # seconds for each call; a stream that works for longer would have none

def setting(name):
    value = os.environ.get(name)
    if not value:
        raise SystemExit(f"{name} is not set: see README.md")
    return value


def check(truth, what):
    if not truth:
        raise SystemExit(f"not as it should be: {what}")


def connect():
    """A channel to the gateway that trusts its CA and sends the client's token with every call."""
    authority = grpc.ssl_channel_credentials(Path(setting("WARRENGATE_CA")).read_bytes())
    target = setting("WARRENGATE_ENDPOINT").removeprefix("https://")
    with grpc.secure_channel(target, authority) as plain:
        issued = auth_pb2_grpc.AuthStub(plain).IssueToken(
            auth_pb2.IssueTokenRequest(
                client_id=setting("WARRENGATE_CLIENT_ID"), client_secret=setting("WARRENGATE_CLIENT_SECRET")
            ),
            timeout=LIMIT,
        )
    print(f"token until {issued.expires.ToJsonString()}")
    token = grpc.access_token_call_credentials(issued.access_token)
    return grpc.secure_channel(target, grpc.composite_channel_credentials(authority, token))


def publish(channel, name):
    """Publishes a frame of orders and one message that no queue takes; returns what became of each."""
    publications = [
        messaging_pb2.Publication(
            sequence=number,
            routing_key=name if number <= ORDERS else name + ".nowhere",
            message=message_pb2.Message(
                body=f"order {number}".encode(),
                message_id=str(uuid.uuid4()),
                content_type="text/plain",
                headers={"number": message_pb2.Value(int_value=number)},
            ),
        )
        for number in range(1, ORDERS + 2)
    ]
    frame = messaging_pb2.PublishRequest(publications=messaging_pb2.Publications(publications=publications))
    outcomes = {}
    # The sending side closes when the iterator ends; the stream ends after the last outcome.
    for response in messaging_pb2_grpc.MessagingStub(channel).Publish(iter([frame]), timeout=LIMIT):
        for result in response.results.results:
            outcomes[result.sequence] = result.outcome
            print(f"  {result.sequence:2} {messaging_pb2.Outcome.Name(result.outcome)} {result.reason}")
    return outcomes


def consume(channel, name):
    """Takes every order, sends the first one back once to be tried again, and acknowledges the rest."""
    frames = queue.SimpleQueue()
    frames.put(messaging_pb2.SubscribeRequest(start=messaging_pb2.SubscribeStart(queue=name)))
    responses = messaging_pb2_grpc.MessagingStub(channel).Subscribe(iter(frames.get, None), timeout=LIMIT)
    done, refused = set(), set()
    for response in responses:
        for delivery in response.deliveries.deliveries:
            body, ids = delivery.message.body.decode(), [delivery.delivery_id]
            check(delivery.message.headers["number"].int_value == int(body.split()[1]), "the header is the order's")
            if not refused:
                refused.add(body)
                nack = messaging_pb2.Nack(delivery_ids=ids, action=messaging_pb2.NACK_ACTION_RETRY, reason="not yet")
                frames.put(messaging_pb2.SubscribeRequest(nack=nack))
                print(f"  {body}: retry")
            else:
                done.add(body)
                frames.put(messaging_pb2.SubscribeRequest(ack=messaging_pb2.Ack(delivery_ids=ids)))
                print(f"  {body}: done at attempt {delivery.attempt}")
        if len(done) == ORDERS:
            frames.put(None)  # closes the sending side; the gateway settles and ends the stream
    return done


def main():
    name = f"python-quickstart-{uuid.uuid4().hex[:8]}"
    with connect() as channel:
        topology = topology_pb2_grpc.TopologyStub(channel)
        topology.DeclareQueue(topology_pb2.DeclareQueueRequest(queue={"name": name}), timeout=LIMIT)
        print(f"queue {name}")
        try:
            outcomes = publish(channel, name)
            expected = dict.fromkeys(range(1, ORDERS + 1), messaging_pb2.OUTCOME_CONFIRMED)
            check(outcomes == expected | {ORDERS + 1: messaging_pb2.OUTCOME_UNROUTABLE}, f"outcomes {outcomes}")
            done = consume(channel, name)
            check(done == {f"order {number}" for number in expected}, f"done {done}")
        finally:
            topology.DeleteQueue(topology_pb2.DeleteQueueRequest(name=name), timeout=LIMIT)
    print("all as it should be")


if __name__ == "__main__":
    main()

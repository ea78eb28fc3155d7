"""Publish and consume with grpcio and its default settings: one message a frame, one acknowledgement a frame.

Usage: plain.py QUEUE COUNT. README.md describes the environment and the output.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import time
from collections import Counter
from pathlib import Path

import grpc
from warrengate.v1 import auth_pb2, auth_pb2_grpc, message_pb2, messaging_pb2, messaging_pb2_grpc

Metadata = list[tuple[str, str]]


def publish(stub: messaging_pb2_grpc.MessagingStub, metadata: Metadata, name: str, count: int) -> int:
    frames: queue.SimpleQueue = queue.SimpleQueue()
    results = stub.Publish(iter(frames.get, None), metadata=metadata)
    sequence = throttled = 0
    to_send = count
    while to_send:
        for _ in range(to_send):
            sequence += 1
            message = message_pb2.Message(body=str(sequence).encode())
            publication = messaging_pb2.Publication(sequence=sequence, routing_key=name, message=message)
            frames.put(messaging_pb2.PublishRequest(publications={"publications": [publication]}))
        unanswered, to_send, pause = to_send, 0, 0.0
        while unanswered:
            for result in next(results).results.results:
                unanswered -= 1
                if result.outcome == messaging_pb2.OUTCOME_THROTTLED:
                    to_send += 1
                    pause = max(pause, result.retry_after.ToTimedelta().total_seconds())
                elif result.outcome != messaging_pb2.OUTCOME_CONFIRMED:
                    raise SystemExit(f"message {result.sequence}: {result}")
        throttled += to_send
        time.sleep(pause)
    frames.put(None)
    if any(event.HasField("results") for event in results):
        raise SystemExit("an outcome came after all messages were answered")
    return throttled


def consume(stub: messaging_pb2_grpc.MessagingStub, metadata: Metadata, name: str, count: int) -> tuple[Counter, bool]:
    frames: queue.SimpleQueue = queue.SimpleQueue()
    frames.put(messaging_pb2.SubscribeRequest(start=messaging_pb2.SubscribeStart(queue=name)))
    events = stub.Subscribe(iter(frames.get, None), metadata=metadata)
    attempts: Counter = Counter()
    last, in_order = 0, True
    while attempts.total() < count:
        event = next(events)
        if event.HasField("settled"):
            raise SystemExit(f"an acknowledgement had no effect: {event}")
        for delivery in event.deliveries.deliveries:
            attempts[delivery.attempt] += 1
            body = int(delivery.message.body)
            in_order, last = in_order and body > last, body
            ack = messaging_pb2.Ack(delivery_ids=[delivery.delivery_id])
            frames.put(messaging_pb2.SubscribeRequest(ack=ack))
    frames.put(None)
    for event in events:
        if event.deliveries.deliveries:
            raise SystemExit("there were more deliveries than messages")
    return attempts, in_order


def main() -> None:
    name, count = sys.argv[1], int(sys.argv[2])
    credentials = grpc.ssl_channel_credentials(Path(os.environ["WARRENGATE_CA"]).read_bytes())
    address = os.environ["WARRENGATE_ENDPOINT"].removeprefix("https://")
    with grpc.secure_channel(address, credentials) as channel:
        request = auth_pb2.IssueTokenRequest(
            client_id=os.environ["WARRENGATE_CLIENT_ID"], client_secret=os.environ["WARRENGATE_CLIENT_SECRET"]
        )
        token = auth_pb2_grpc.AuthStub(channel).IssueToken(request).access_token
        metadata = [("authorization", f"Bearer {token}")]
        stub = messaging_pb2_grpc.MessagingStub(channel)
        began = time.monotonic()
        throttled = publish(stub, metadata, name, count)
        published = time.monotonic()
        attempts, in_order = consume(stub, metadata, name, count)
        answer = {
            "library": f"grpcio {grpc.__version__}",
            "throttled": throttled,
            "attempts": attempts,
            "in_order": in_order,
            "publish_seconds": round(published - began, 1),
            "consume_seconds": round(time.monotonic() - published, 1),
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

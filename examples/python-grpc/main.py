"""Sends a batch over gRPC, prints one result per message, and follows the channel."""

import json
import os
import sys
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent / "gen"))
from sendbatch.v1 import message_pb2, message_service_pb2, message_service_pb2_grpc

CHANNEL = {"channel_id": "python-grpc", "channel_type": message_pb2.CHANNEL_TYPE_GROUP}

# Retries a call that the service refuses for now. The keys of the messages make a retry exact.
RETRY_UNAVAILABLE = json.dumps({
    "methodConfig": [{
        "name": [{"service": "sendbatch.v1.MessageService"}],
        "retryPolicy": {
            "maxAttempts": 5,
            "initialBackoff": "0.2s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        },
    }]
})


def draft(from_uid, key, text):
    return message_pb2.MessageDraft(from_uid=from_uid, client_msg_no=key, payload=text.encode(), **CHANNEL)


address = os.environ.get("SENDBATCH_ADDRESS", "127.0.0.1:5001")
with grpc.insecure_channel(address, options=[("grpc.service_config", RETRY_UNAVAILABLE)]) as connection:
    client = message_service_pb2_grpc.MessageServiceStub(connection)

    # Alice is no member of the channel: her message is refused, the others are stored.
    batch = message_service_pb2.SendBatchRequest(messages=[
        draft("system", "python-1", "hello"),
        draft("alice", "python-2", "may I?"),
        draft("system", "python-3", "world"),
    ])
    for result in client.SendBatch(batch, timeout=30).results:
        if result.HasField("error"):
            print("refused", result.client_msg_no, result.error.reason)
        else:
            print("stored", result.client_msg_no, "as", result.message_seq)

    cursor = message_service_pb2.ChannelCursor(after_seq=0, **CHANNEL)
    for frame in client.Subscribe(message_service_pb2.SubscribeRequest(channels=[cursor]), timeout=30):
        if frame.HasField("message"):
            print("received", frame.message.message_seq, frame.message.payload.decode())
        elif frame.HasField("caught_up"):
            break

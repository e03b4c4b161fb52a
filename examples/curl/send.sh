#!/bin/sh
# Sends a batch of three messages, sends it again, and reads the channel. Prints one answer per command.
set -eu
url=${SENDBATCH_URL:-http://127.0.0.1:5001}

# The channel was never created, so only system users may send to it: the message of alice is refused.
batch='[
  {"client_msg_no": "curl-1", "from_uid": "system", "channel_id": "curl", "channel_type": 2, "payload": "aGVsbG8="},
  {"client_msg_no": "curl-2", "from_uid": "alice", "channel_id": "curl", "channel_type": 2, "payload": "bWF5IEk/"},
  {"client_msg_no": "curl-3", "from_uid": "system", "channel_id": "curl", "channel_type": 2, "payload": "d29ybGQ="}
]'

echo '# Dry run: all checks, nothing is stored.'
curl -sS -w '\n' "$url/message/sendbatch?validate_only=true" -d "$batch"

echo '# Send: one result per message, in the order of the batch.'
curl -sS -w '\n' "$url/message/sendbatch" -d "$batch"

echo '# Send again: the same numbers, marked as duplicates.'
curl -sS -w '\n' "$url/message/sendbatch" -d "$batch"

echo '# Read the last message of the channel.'
curl -sS -w '\n' "$url/v1/channels/2/curl/messages?descending=true&limit=1"

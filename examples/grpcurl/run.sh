#!/bin/sh
# A first message with nothing but grpcurl (https://github.com/fullstorydev/grpcurl; `go run` builds it when it is missing).
set -eu
proto=$(cd "$(dirname "$0")/../../proto" && pwd)
address=${WARRENGATE_ENDPOINT#https://}
call() { # call METHOD DATA [HEADER]: the protobuf files stand in for reflection, which a gateway may have switched off.
  files=$(cd "$proto" && ls warrengate/v1/*.proto | sed 's/^/-proto /')
  # shellcheck disable=SC2086 # one word a flag
  ${GRPCURL:-go run github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3} -cacert "$WARRENGATE_CA" -import-path "$proto" \
    $files ${3:+-H "$3"} -d "$2" "$address" "warrengate.v1.$1"
}
token=$(call Auth/IssueToken "{\"client_id\": \"$WARRENGATE_CLIENT_ID\", \"client_secret\": \"$WARRENGATE_CLIENT_SECRET\"}" |
  sed -n 's/.*"accessToken": "\(.*\)",.*/\1/p')
me="authorization: Bearer $token"
body=$(printf 'hello from grpcurl' | base64)

call Topology/DeclareQueue '{"queue": {"name": "grpcurl"}}' "$me"
call Messaging/PublishBatch "{\"publications\": [{\"routing_key\": \"grpcurl\", \"message\": {\"body\": \"$body\"}}]}" "$me"
# Deliveries count as done as soon as they are sent; the stream ends when the sending side is closed, here after two seconds.
(echo '{"start": {"queue": "grpcurl", "auto_ack": true}}'; sleep 2) | call Messaging/Subscribe @ "$me"
call Topology/DeleteQueue '{"name": "grpcurl"}' "$me"

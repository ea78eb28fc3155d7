#!/bin/sh
# A first message with only grpcurl (https://github.com/fullstorydev/grpcurl), which `go run` builds if it is missing.
set -eu
proto=$(cd "$(dirname "$0")/../../proto" && pwd)
address=${WARRENGATE_ENDPOINT#https://}
if [ -z "${GRPCURL:-}" ] && command -v grpcurl >/dev/null; then GRPCURL=grpcurl; fi
call() { # call METHOD DATA [HEADER]: with the protobuf files, because reflection may be off.
  files=$(cd "$proto" && ls warrengate/v1/*.proto | sed 's/^/-proto /')
  # shellcheck disable=SC2086 # one word per flag
  ${GRPCURL:-go run github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3} -cacert "$WARRENGATE_CA" -import-path "$proto" \
    $files ${3:+-H "$3"} -d "$2" "$address" "warrengate.v1.$1"
}
token=$(call Auth/IssueToken "{\"client_id\": \"$WARRENGATE_CLIENT_ID\", \"client_secret\": \"$WARRENGATE_CLIENT_SECRET\"}" |
  sed -n 's/.*"accessToken": "\(.*\)",.*/\1/p')
me="authorization: Bearer $token"
body=$(printf 'hello from grpcurl' | base64)

call Topology/DeclareQueue '{"queue": {"name": "grpcurl"}}' "$me"
call Messaging/PublishBatch "{\"publications\": [{\"routing_key\": \"grpcurl\", \"message\": {\"body\": \"$body\"}}]}" "$me"
# With auto_ack a delivery is acknowledged once it is sent. The stream ends when the sending side is closed: here once
# the message has arrived, or after a minute.
received=$(mktemp)
(
  echo '{"start": {"queue": "grpcurl", "auto_ack": true}}'
  tries=0
  until grep -q '"body"' "$received" || [ "$tries" -ge 300 ]; do tries=$((tries + 1)); sleep 0.2; done
) | call Messaging/Subscribe @ "$me" | tee "$received"
grep -q '"body"' "$received" && rm "$received"
call Topology/DeleteQueue '{"name": "grpcurl"}' "$me"

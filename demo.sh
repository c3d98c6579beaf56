#!/usr/bin/env bash
# make demo: queen, hive and worker on the embedded defaults; an answer, the decision behind it; everything stopped.
set -euo pipefail

RBEE_DATA_DIR=$(mktemp -d)
port() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
RBEE_QUEEN=127.0.0.1:$(port)
RBEE_QUEEN_HTTP=127.0.0.1:$(port)
export RBEE_DATA_DIR RBEE_QUEEN RBEE_QUEEN_HTTP RBEE_HIVE_NAME=demo RBEE_QUEEN_HIVE_LISTEN=127.0.0.1:0

stop() {
  rbee down >/dev/null 2>&1 || true
  rm -rf "$RBEE_DATA_DIR"
}
trap stop EXIT
trap 'exit 130' INT TERM

show() {
  printf '\n$ '
  printf '%q ' "$@"
  printf '\n'
  "$@"
}

show rbee up --detach
show rbee infer "What is a hive?" --model rbee-tiny --temperature 0
job=$(rbee jobs list --json | python -c 'import json, sys; print(json.load(sys.stdin)[0]["id"])')
show rbee jobs show "$job"
show rbee status
printf '\nany OpenAI client: http://%s/v1\n' "$RBEE_QUEEN_HTTP"
show rbee down

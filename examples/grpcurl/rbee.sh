#!/usr/bin/env bash
# Works with a queen by what she tells of herself: rbee.sh [--queen HOST:PORT] infer MODEL PROMPT | hives | watch
# Answers are JSON; an error's google.rpc.ErrorInfo has the reason on which programs can switch.
set -euo pipefail

queen=${RBEE_QUEEN:-127.0.0.1:7833}
if [ "${1:-}" = --queen ]; then
  queen=$2
  shift 2
fi

call() { exec "${GRPCURL:-grpcurl}" -plaintext -format-error -d "$2" "$queen" "rbee.v1.$1"; }

quoted() { # a text as JSON has it
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  printf '"%s"' "${text//$'\t'/\\t}"
}

case "${1:-} $#" in
  "infer 3")
    sampling='{"max_tokens": 64, "temperature": 0}'
    call InferenceService/Infer "{\"job\": {\"model\": $(quoted "$2"), \"prompt\": $(quoted "$3"), \"sampling\": $sampling}}"
    ;;
  "hives 1") call HiveService/List '{}' ;;
  "watch 1") call TelemetryService/WatchCluster '{}' ;;
  *)
    echo "usage: rbee.sh [--queen HOST:PORT] infer MODEL PROMPT | hives | watch" >&2
    exit 2
    ;;
esac

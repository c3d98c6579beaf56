"""Works with a queen by stubs generated from proto/: main.py [--queen HOST:PORT] infer MODEL PROMPT | hives | watch."""

from __future__ import annotations

import argparse
import os
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2

from rbee.v1 import (
    generation_pb2,
    hive_pb2,
    hive_service_pb2,
    hive_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
    job_pb2,
    telemetry_service_pb2,
    telemetry_service_pb2_grpc,
)


def infer(queen: grpc.Channel, model: str, prompt: str) -> None:
    """Writes an answer to stdout as it comes, everything else that happens to stderr."""
    job = job_pb2.JobSpec(model=model, prompt=prompt, sampling=generation_pb2.Sampling(max_tokens=64, temperature=0))
    stub = inference_service_pb2_grpc.InferenceServiceStub(queen)
    for response in stub.Infer(inference_service_pb2.InferRequest(job=job)):
        for event in response.events:
            kind = event.WhichOneof("event")
            if kind == "tokens":
                print(event.tokens.text, end="", flush=True)
            elif kind == "done":
                print(f"\ndone: {event.done.usage.completion_tokens} tokens", file=sys.stderr)
            else:
                print(kind, file=sys.stderr)


def hives(queen: grpc.Channel) -> None:
    """Prints a line for each machine."""
    stub = hive_service_pb2_grpc.HiveServiceStub(queen)
    request = hive_service_pb2.HiveServiceListRequest()
    while True:
        page = stub.List(request, timeout=10)
        for hive in page.hives:
            state = hive_pb2.HiveState.Name(hive.state).removeprefix("HIVE_STATE_")
            print(f"{hive.id} {state} {len(hive.devices)} devices {len(hive.models)} models")
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def watch(queen: grpc.Channel) -> None:
    """Prints a line whenever the cluster is told of: all of it first, then what changed."""
    known_hives: set[str] = set()
    known_workers: set[str] = set()
    stub = telemetry_service_pb2_grpc.TelemetryServiceStub(queen)
    for change in stub.WatchCluster(telemetry_service_pb2.WatchClusterRequest()):
        known_hives = (known_hives | {hive.id for hive in change.hives}) - set(change.removed_hive_ids)
        known_workers = (known_workers | {worker.id for worker in change.workers}) - set(change.removed_worker_ids)
        print(
            f"{len(known_hives)} hives, {len(known_workers)} workers, {change.queue_depth} waiting, "
            f"{change.tokens_per_second:.1f} tokens/s",
            flush=True,
        )


def reason(error: grpc.RpcError) -> str:
    """Returns the reason of google.rpc.ErrorInfo, on which programs can switch; the status code where there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return error.code().name


def main() -> int:
    """Does what the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queen", default=os.environ.get("RBEE_QUEEN", "127.0.0.1:7833"), metavar="HOST:PORT")
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("infer")
    asking.add_argument("model")
    asking.add_argument("prompt")
    commands.add_parser("hives")
    commands.add_parser("watch")
    told = parser.parse_args()
    with grpc.insecure_channel(told.queen) as queen:
        try:
            match told.command:
                case "infer":
                    infer(queen, told.model, told.prompt)
                case "hives":
                    hives(queen)
                case "watch":
                    watch(queen)
        except grpc.RpcError as error:
            print(f"{reason(error)}: {error.details()}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A real queen, hive and synthetic worker on free ports of this machine, to be timed. Prints nothing when run."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import psutil

from rbee.v1 import (
    engine_service_pb2,
    hive_service_pb2,
    hive_service_pb2_grpc,
    inference_service_pb2,
    job_pb2,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from wire.channel import dial

MODEL: Final = "synthetic:bench"
CONTEXT_LENGTH: Final = 2**24
"""Long enough for streams that outlast their benchmark, tokens."""
START_S: Final = 60.0
STOP_S: Final = 45.0

INFER: Final = "/rbee.v1.InferenceService/Infer"
GENERATE: Final = "/rbee.v1.EngineService/Generate"

RawCall = grpc.aio.UnaryStreamCall[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Rig:
    """What runs: the queen's process, and the addresses of queen (gRPC, HTTP) and worker as "host:port"."""

    queen: psutil.Process
    queen_address: str
    http_address: str
    worker_address: str

    def queen_cpu_s(self) -> float:
        """Returns the processor time the queen's own process has used so far, user and system, in seconds."""
        used = self.queen.cpu_times()
        return float(used.user + used.system)


@asynccontextmanager
async def running(
    *, slots: int, environment: Mapping[str, str] | None = None, **engine_options: object
) -> AsyncIterator[Rig]:
    """Starts queen, hive and one synthetic worker and stops them at the end; raises RuntimeError with the queen's log.

    `environment`: what the queen's has beside this process's own. `engine_options` are those of the synthetic engine:
    completion_tokens, tokens_per_second, first_token_ms.
    """
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as folder:
        address, http_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
        queen = _start_queen(address, Path(folder), {"RBEE_QUEEN_HTTP": http_address, **(environment or {})})
        channel = dial(address)
        try:
            try:
                async with asyncio.timeout(START_S):
                    await channel.channel_ready()
                    worker_address = await _start_worker(channel, slots, engine_options)
            except (TimeoutError, grpc.aio.AioRpcError) as error:
                raise RuntimeError(f"the programs did not start: {error}\n{_last_lines(Path(folder))}") from error
            yield Rig(queen, address, http_address, worker_address)
        finally:
            await channel.close()
            await asyncio.to_thread(_stop, queen)


async def _start_worker(channel: grpc.aio.Channel, slots: int, engine_options: dict[str, object]) -> str:
    await hive_service_pb2_grpc.HiveServiceStub(channel).Start(hive_service_pb2.HiveServiceStartRequest())
    spawned = await worker_service_pb2_grpc.WorkerServiceStub(channel).Spawn(
        worker_service_pb2.WorkerServiceSpawnRequest(
            model=MODEL,
            engine="synthetic",
            slots=slots,
            context_length=CONTEXT_LENGTH,
            engine_options={name: str(value) for name, value in engine_options.items()},
        )
    )
    return spawned.worker.address


def _start_queen(address: str, folder: Path, environment: Mapping[str, str]) -> psutil.Popen:
    with _log(folder).open("ab") as output:
        return psutil.Popen(
            [sys.executable, "-m", "queen", "--listen", address, "--data-dir", str(folder / "data")],
            env={**os.environ, "RBEE_QUEEN_HIVE_LISTEN": "127.0.0.1:0", **environment},
            stdout=output,
            stderr=output,
        )


def _log(folder: Path) -> Path:
    return folder / "queen.log"


def _last_lines(folder: Path) -> str:
    return _log(folder).read_text()[-4000:]


def _stop(queen: psutil.Popen) -> None:
    """Ends the queen, who ends her hive, which ends its worker."""
    if queen.poll() is not None:
        return
    queen.terminate()
    try:
        queen.wait(STOP_S)
    except psutil.TimeoutExpired:
        queen.kill()
        queen.wait()


def free_port() -> int:
    """Returns a port nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Programs:
    """A queen and a hive of another machine, which outlives her. `kill_queen` is SIGKILL; `stop` ends both."""

    def __init__(self, folder: Path) -> None:
        self.queen_address = f"127.0.0.1:{free_port()}"
        self._folder = folder
        self._running: list[psutil.Popen] = []

    @property
    def database_url(self) -> str:
        """Returns the URL of her database."""
        return f"sqlite:///{self._folder / 'data' / 'queen.db'}"

    def start_queen(self) -> psutil.Popen:
        """Starts her without waiting."""
        self._queen = _start_queen(self.queen_address, self._folder, {})
        self._running.append(self._queen)
        return self._queen

    def start_hive(self) -> None:
        """Starts the hive without waiting."""
        arguments = ("--name", "bench", "--queen", self.queen_address, "--listen", "127.0.0.1:0")
        with (self._folder / "hive.log").open("ab") as output:
            self._running.append(
                psutil.Popen(
                    [sys.executable, "-m", "hive", *arguments, "--data-dir", str(self._folder / "hive")],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            )

    def kill_queen(self) -> None:
        """Ends her as a crash would."""
        self._queen.kill()
        self._queen.wait()

    def stop(self) -> None:
        """Ends what runs."""
        for process in reversed(self._running):
            _stop(process)


# Calls whose messages stay bytes, so that the load generator costs little.


def infer_request() -> bytes:
    """Returns a serialised InferRequest."""
    return inference_service_pb2.InferRequest(job=_spec()).SerializeToString()


def generate_request(job_id: str) -> bytes:
    """Returns a serialised GenerateRequest."""
    return engine_service_pb2.GenerateRequest(job_id=job_id, attempt=1, job=_spec()).SerializeToString()


def _spec() -> job_pb2.JobSpec:
    return job_pb2.JobSpec(model=MODEL, prompt="What is a queen without a hive?")


def raw_method(channel: grpc.aio.Channel, path: str) -> grpc.aio.UnaryStreamMultiCallable[bytes, bytes]:
    """Returns a server-streaming method that takes and gives serialised messages."""
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
    return method


def parsed(message: bytes) -> inference_service_pb2.InferResponse:
    """Returns a message of Infer or Generate; both have the same fields."""
    return inference_service_pb2.InferResponse.FromString(message)


# Running and printing.


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a benchmark, on uvloop where it is installed, as the programs do."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the nearest-rank percentile of at least one value."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__trunc__() - 1)]


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    print(f"\n{title}")
    for line in (head, ["-" * width for width in widths], *rows):
        cells = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells))


def beside(value: float, target: float, unit: str) -> str:
    """Returns the text of a target and whether a figure meets it."""
    return f"<= {target:g} {unit} {'met' if value <= target else 'MISSED'}"

"""How soon does a worker stop when a job is cancelled, or its caller gone? See README.md here."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc
import rig

import rbee
from rbee.v1 import (
    engine_service_pb2,
    engine_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from wire.channel import dial

STOPPED_MS: Final = 200.0
SLOTS: Final = 4
LOOKS_S: Final = 0.002
"""How often the worker is asked whether it still runs the job, which is how exact the figures are."""
TINY: Final = "rbee-tiny"
NEVER_ENDING: Final = 10_000
"""Tokens: more than an answer gets before it is cancelled."""
ENDLESS: Final = "root ::= [a-z ] root"
"""A grammar with no end, so that the model does not come to one either."""
LONG_PROMPT: Final = "What is a queen without a hive? " * 60


@dataclass(frozen=True, slots=True)
class Load:
    """What is cancelled: `others` answers run beside it on the same worker."""

    name: str
    model: str
    others: int
    prompt: str = "What is a queen without a hive?"
    at_first_token: bool = True


class Bench:
    """Runs one answer after the other and ends each; `address` is the queen's, `worker` the stub of the worker."""

    def __init__(self, address: str, worker: engine_service_pb2_grpc.EngineServiceStub) -> None:
        self._address = address
        self._channel = dial(address)
        self._infer = inference_service_pb2_grpc.InferenceServiceStub(self._channel)
        self._jobs = job_service_pb2_grpc.JobServiceStub(self._channel)
        self._worker = worker

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def cancelled(self, load: Load) -> float:
        """Returns how many milliseconds after a Cancel call began the worker had ended the job."""
        call, job_id = await self._begun(load)
        begun = time.perf_counter()
        await self._jobs.Cancel(job_service_pb2.JobServiceCancelRequest(job_id=job_id))
        ended = await self._ended(job_id)
        call.cancel()
        return 1e3 * (ended - begun)

    async def left(self, load: Load) -> float:
        """Returns how many milliseconds after its caller's connection was closed the worker had ended the job."""
        async with dial(self._address) as channel:
            call, job_id = await self._begun(load, inference_service_pb2_grpc.InferenceServiceStub(channel))
            begun = time.perf_counter()
            call.cancel()
        return 1e3 * (await self._ended(job_id) - begun)

    async def _begun(
        self, load: Load, stub: inference_service_pb2_grpc.InferenceServiceStub | None = None
    ) -> tuple[grpc.aio.UnaryStreamCall[object, inference_service_pb2.InferResponse], str]:
        """Asks, and returns the call and the job's id when its first token is there, or its worker has begun."""
        spec = job_pb2.JobSpec(model=load.model, prompt=load.prompt)
        spec.sampling.max_tokens = NEVER_ENDING
        if load.model == TINY:
            spec.output_format.grammar = ENDLESS
        call = (stub or self._infer).Infer(inference_service_pb2.InferRequest(job=spec))
        message = await call.read()
        job_id = message.job_id
        while not any(event.HasField("tokens" if load.at_first_token else "started") for event in message.events):
            message = await call.read()
        while not load.at_first_token and not await self._runs(job_id):  # noqa: ASYNC110  it is another process
            await asyncio.sleep(LOOKS_S)
        return call, job_id

    async def _ended(self, job_id: str) -> float:
        """Returns when the worker said first that it does not run a job any more."""
        while await self._runs(job_id):  # noqa: ASYNC110  it is another process
            await asyncio.sleep(LOOKS_S)
        return time.perf_counter()

    async def _runs(self, job_id: str) -> bool:
        status = await self._worker.GetStatus(engine_service_pb2.GetStatusRequest())
        return any(one.job_id == job_id and not one.ended for one in status.generations)

    async def busy(self, load: Load) -> None:
        """Keeps one more slot of the worker at work until it is cancelled itself."""
        while True:
            call, _ = await self._begun(load)
            while await call.read() is not grpc.aio.EOF:
                pass


async def measure(bench: Bench, load: Load, end: Callable[[Load], Awaitable[float]], calls: int) -> list[float]:
    """Returns how long the worker took to end each of some answers, ms."""
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(bench.busy(load)) for _ in range(load.others)]
        times = [await end(load) for _ in range(calls)]
        for other in others:
            other.cancel()
    return times


@asynccontextmanager
async def prepared() -> AsyncIterator[dict[str, Bench]]:
    """Starts queen, hive, and a worker of each engine; yields a bench for each model."""
    pace = {"tokens_per_second": 50, "completion_tokens": NEVER_ENDING, "first_token_ms": 0}
    async with rig.running(slots=SLOTS, **pace) as cluster, rbee.connect(cluster.queen_address) as client:
        tiny = await client.spawn_worker(TINY, slots=SLOTS)
        async with dial(cluster.worker_address) as synthetic, dial(tiny.address) as real:
            benches = {
                model: Bench(cluster.queen_address, engine_service_pb2_grpc.EngineServiceStub(channel))
                for model, channel in ((rig.MODEL, synthetic), (TINY, real))
            }
            yield benches
            await asyncio.gather(*(bench.close() for bench in benches.values()))


async def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few answers: does it work at all?")
    parser.add_argument("--calls", type=int, default=100, help="answers ended of each kind (default 100)")
    told = parser.parse_args()
    calls = 5 if told.quick else told.calls
    loads = [
        Load("synthetic, 50 tok/s, alone", rig.MODEL, 0),
        Load("synthetic, 50 tok/s, 3 others", rig.MODEL, SLOTS - 1),
        Load("rbee-tiny in llama.cpp, alone", TINY, 0),
        Load("rbee-tiny in llama.cpp, 3 others", TINY, SLOTS - 1),
        Load("the same, while it reads a long prompt", TINY, SLOTS - 1, LONG_PROMPT, at_first_token=False),
    ]
    rows = []
    async with prepared() as benches:
        for load, (way, name) in itertools.product(loads, (("Cancel", "cancelled"), ("caller gone", "left"))):
            bench = benches[load.model]
            times = await measure(bench, load, getattr(bench, name), calls)
            figures = [f"{rig.percentile(times, percent):.1f}" for percent in (50, 90, 99, 100)]
            rows.append([load.name, way, *figures, rig.beside(rig.percentile(times, 99), STOPPED_MS, "ms")])
    head = ["what runs", "ended by", "p50", "p90", "p99", "most", "target (p99)"]
    rig.print_table(f"From the call until the worker has ended the job, ms; {calls} of each", head, rows)


if __name__ == "__main__":
    rig.run(main())

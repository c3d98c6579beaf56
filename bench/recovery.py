"""How soon does a job go on when its worker is killed, and a queen serve anew? Target 11; see README.md here."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import rig

import rbee
from queen.core.model import Job
from queen.storage.store import open_store
from rbee.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc, worker_pb2
from wire.channel import dial, split_address

FAILOVER_MS: Final = 500.0
SERVING_S: Final = 2.0
STREAMS: Final = 4
"""Answers that run on the worker when it is killed; each is one measurement."""

PACE: Final = {"tokens_per_second": "200", "completion_tokens": "5000"}
ORDER_SHOWN: Final = 200
"""Jobs whose order of dispatch is held against the order they were accepted in."""


# A worker is killed.


@dataclass(slots=True)
class Stream:
    """One answer that is read: `first_s` and `first_at` are when and where the newest attempt sent its first token."""

    worker_id: str = ""
    attempts: int = 0
    fresh: bool = False
    first_s: float = 0.0
    tokens: int = 0


async def failovers(rounds: int) -> list[float]:
    """Returns for each answer how long after the SIGKILL of its worker its next token came from another one, in ms."""
    times: list[float] = []
    async with rig.running(slots=STREAMS, **PACE) as cluster, rbee.connect(cluster.queen_address) as client:
        for _ in range(rounds):
            await _two_workers(client)
            times += await _failover(client)
    return times


async def _two_workers(client: rbee.Client) -> None:
    while True:
        workers = [one async for one in client.workers()]
        ready = [one for one in workers if one.state == worker_pb2.WORKER_STATE_READY]
        if len(ready) >= 2 and all(one.slots_available == STREAMS for one in ready):
            return
        if len(ready) < 2:
            await client.spawn_worker(rig.MODEL, slots=STREAMS, context_length=rig.CONTEXT_LENGTH, engine_options=PACE)
        await asyncio.sleep(0.05)


async def _failover(client: rbee.Client) -> list[float]:
    streams = [Stream() for _ in range(STREAMS)]
    news = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_read(client, stream, news)) for stream in streams]
        await _until(news, lambda: all(stream.tokens > 20 for stream in streams))
        (worker_id,) = {stream.worker_id for stream in streams}
        pid = (await client.get_worker(worker_id)).pid
        os.kill(pid, signal.SIGKILL)
        killed = time.perf_counter()
        await _until(news, lambda: all(stream.attempts > 1 and not stream.fresh for stream in streams))
        for task in tasks:
            task.cancel()
    return [1e3 * (stream.first_s - killed) for stream in streams]


async def _read(client: rbee.Client, stream: Stream, news: asyncio.Event) -> None:
    async for event in client.infer(model=rig.MODEL, prompt="x").events():
        if event.HasField("started"):
            stream.worker_id, stream.attempts, stream.fresh = event.started.worker_id, stream.attempts + 1, True
        elif event.HasField("tokens"):
            stream.tokens += event.tokens.count
            if stream.fresh:
                stream.first_s, stream.fresh = time.perf_counter(), False
        news.set()


async def _until(news: asyncio.Event, holds: Callable[[], bool]) -> None:
    while not holds():
        news.clear()
        await news.wait()


# A queen is killed.


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from the start of the new queen's process to her first answer, and to the first job on a worker.

    `processor_s`: what her process had used by her first answer; the answer comes no later on a machine left alone.
    """

    answered_s: float
    processor_s: float
    dispatched_s: float
    in_order: bool
    rss_mb: float


@asynccontextmanager
async def _programs(folder: Path) -> AsyncIterator[rig.Programs]:
    programs = rig.Programs(folder)
    try:
        yield programs
    finally:
        await asyncio.to_thread(programs.stop)


async def restart(count: int) -> Restart:
    """Kills a queen, puts `count` jobs into her database, starts her again, and looks how she gets on."""
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as name:
        async with _programs(Path(name)) as programs:
            programs.start_queen()
            programs.start_hive()
            async with rbee.connect(programs.queen_address) as client:
                await client.is_serving(rig.START_S, wait_for_ready=True)
                while not [one async for one in client.hives()]:  # noqa: ASYNC110  it is another process
                    await asyncio.sleep(0.05)
                await client.spawn_worker(
                    rig.MODEL, slots=8, engine_options={"tokens_per_second": "0", "completion_tokens": "1"}
                )
            programs.kill_queen()
            job_ids = await _fill(programs.database_url, count)
            begun, began_at = time.perf_counter(), time.time()
            queen = programs.start_queen()
            await _answers(programs.queen_address, job_ids[-1])
            answered = time.perf_counter() - begun
            rss_mb, used = queen.memory_info().rss / 2**20, queen.cpu_times()
            async with rbee.connect(programs.queen_address) as client:
                await client.watch(job_ids[min(ORDER_SHOWN, count) - 1]).text()
                jobs = [await client.get_job(one) for one in job_ids[:ORDER_SHOWN]]
            times = [job.attempts[0].dispatch_time.ToNanoseconds() for job in jobs]
            return Restart(answered, used.user + used.system, times[0] / 1e9 - began_at, times == sorted(times), rss_mb)


async def _fill(url: str, count: int) -> list[str]:
    """Puts jobs that wait into the database, as a queen that was killed leaves them."""
    spec = job_pb2.JobSpec(model=rig.MODEL, prompt="What is a queen without a hive? " * 8).SerializeToString()
    store = await asyncio.to_thread(open_store, url)
    async with asyncio.TaskGroup() as group:
        group.create_task(store.writer.run())
        first = await store.last_order() + 1
        jobs = [
            Job(f"job-{order:010x}", order, rig.MODEL, rig.MODEL, time.time(), f"request-{order}", detached=True)
            for order in range(first, first + count)
        ]
        for job in jobs:
            store.save_request(job.id, spec)
            store.save_job(job)
        await store.flush()
        store.writer.close()
    await store.close()
    return [job.id for job in jobs]


async def _answers(address: str, job_id: str) -> None:
    """Returns when a queen has answered a call about a job; her port is tried without the pauses of gRPC."""
    host, port = split_address(address)
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.002)
            continue
        writer.close()
        break
    async with dial(address) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        await stub.Get(job_service_pb2.JobServiceGetRequest(job_id=job_id), wait_for_ready=True)


async def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, few jobs: does it work at all?")
    parser.add_argument("--rounds", type=int, default=50, help=f"workers killed, {STREAMS} answers each (default 50)")
    parser.add_argument("--restarts", type=int, default=5, help="queens killed (default 5)")
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs that wait when the queen is killed")
    told = parser.parse_args()
    rounds, restarts, count = (3, 1, 2_000) if told.quick else (told.rounds, told.restarts, told.jobs)
    if rounds:
        times = await failovers(rounds)
        rig.print_table(
            f"Worker killed: from SIGKILL to the next token at the caller, from another; {len(times)} answers, ms",
            ["p50", "p90", "p99", "most", "target"],
            [
                [
                    *(f"{rig.percentile(times, one):.0f}" for one in (50, 90, 99, 100)),
                    rig.beside(rig.percentile(times, 99), FAILOVER_MS, "ms"),
                ]
            ],
        )
    if restarts:
        runs = [await restart(count) for _ in range(restarts)]
        assert all(one.in_order for one in runs), "jobs were not dispatched in the order they were accepted in"
        rig.print_table(
            f"Queen killed with {count:,} jobs in her queue: from the start of the next one, s; {restarts} times",
            ["what", "median", "least", "most", "target"],
            [
                _row("first call answered", [one.answered_s for one in runs], rig.beside),
                _row("her processor time until then", [one.processor_s for one in runs], None),
                _row("first job on a worker", [one.dispatched_s for one in runs], None),
            ],
        )
        print(f"jobs were dispatched in their order; {max(one.rss_mb for one in runs):,.0f} MB at the first answer")


def _row(what: str, values: list[float], beside: Callable[[float, float, str], str] | None) -> list[str]:
    middle = statistics.median(values)
    target = "" if beside is None else beside(middle, SERVING_S, "s")
    return [what, f"{middle:.2f}", f"{min(values):.2f}", f"{max(values):.2f}", target]


if __name__ == "__main__":
    rig.run(main())

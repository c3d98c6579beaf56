"""How many detached jobs a second are accepted and on disk, and does kill -9 lose any? Target 8; see README.md here."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import grpc
import psutil
import rig

from queen.core.model import Job, Priority
from queen.storage.store import SqlStore, open_store
from rbee.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from wire.channel import dial

pb = job_service_pb2

PER_S: Final = 10_000.0
TIMES_SINGLE: Final = 4.0
BATCH: Final = 500
SPEC: Final = job_pb2.JobSpec(
    model=rig.MODEL,
    prompt="What is a queen without a hive? " * 6,
    priority=job_pb2.PRIORITY_BATCH,
    labels={"batch": "0123456789ab"},
)
JOB: Final = Job(
    "",
    0,
    rig.MODEL,
    rig.MODEL,
    submit_time=1e9,
    priority=Priority.BATCH,
    labels={"batch": "0123456789ab"},
    detached=True,
    trace_id="ab" * 16,
)

Submit = Callable[[], Awaitable[int]]
"""Hands in one or more jobs and returns, once these are on disk, how many."""


async def rate(submit: Submit, callers: int, seconds: float) -> float:
    """Returns how many jobs a second that many callers bring to disk, each waiting for its own."""
    begun = time.perf_counter()
    done = 0

    async def busy() -> None:
        nonlocal done
        while time.perf_counter() < begun + seconds:
            count = await submit()  # awaited first: `done` may change meanwhile
            done += count

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(busy())
    return done / (time.perf_counter() - begun)


@asynccontextmanager
async def open_in(folder: str) -> AsyncIterator[SqlStore]:
    """Yields an empty store of a file."""
    with tempfile.TemporaryDirectory(prefix="rbee-bench-", dir=folder or None) as at:
        store = await asyncio.to_thread(open_store, f"sqlite:///{at}/queen.db")
        async with asyncio.TaskGroup() as group:
            group.create_task(store.writer.run())
            yield store
            store.writer.close()
        await store.close()


def saver(store: SqlStore, numbers: itertools.count[int], count: int) -> Submit:
    """Returns what saves so many jobs and waits until they are on disk."""
    spec = SPEC.SerializeToString()

    async def save() -> int:
        for number in itertools.islice(numbers, count):
            job_id = f"job-{number:010x}"
            store.save_request(job_id, spec)
            store.save_job(replace(JOB, id=job_id, order=number, request_id=f"request-{number}"))
        await store.flush()
        return count

    return save


class Callers:
    """Submits over gRPC; knows which jobs were acknowledged."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = job_service_pb2_grpc.JobServiceStub(channel)
        self._numbers = itertools.count()
        self.acknowledged: list[str] = []

    async def one(self) -> int:
        """Hands in a job by a call of its own."""
        answer = await self._stub.Submit(self._request())
        self.acknowledged.append(answer.job.id)
        return 1

    async def batch(self) -> int:
        """Hands in many by one call."""
        jobs = [self._request() for _ in range(BATCH)]
        answer = await self._stub.SubmitBatch(pb.JobServiceSubmitBatchRequest(jobs=jobs))
        ids = [result.job_id for result in answer.results]
        assert all(ids), answer
        self.acknowledged += ids
        return len(ids)

    def _request(self) -> pb.JobServiceSubmitRequest:
        return pb.JobServiceSubmitRequest(request_id=f"request-{next(self._numbers)}", job=SPEC)


async def killed(up: rig.Rig, callers: Callers, after_s: float) -> int:
    """Kills a queen under load; returns how many acknowledged jobs her file lacks."""
    command = up.queen.cmdline()
    path = command[command.index("--data-dir") + 1] + "/queen.db"
    children = up.queen.children(recursive=True)

    async def kill() -> None:
        await asyncio.sleep(after_s)
        up.queen.kill()

    async def submit() -> int:
        try:
            return await callers.batch()
        except grpc.aio.AioRpcError:
            return 0

    async with asyncio.TaskGroup() as group:
        group.create_task(kill())
        await rate(submit, 4, after_s + 0.5)
    await asyncio.to_thread(up.queen.wait)
    for child in children:
        child.kill()
    psutil.wait_procs(children, timeout=10)
    with sqlite3.connect(path) as connection:
        kept = {row[0] for row in connection.execute("SELECT id FROM jobs")}
    connection.close()
    return len(set(callers.acknowledged) - kept)


async def measure(folder: str, seconds: float, rounds: int) -> None:
    """Measures and prints."""
    alone: dict[str, list[float]] = {"one commit per job": [], "256 callers": [], f"{BATCH} at a time": []}
    async with open_in(folder) as store:
        numbers = itertools.count(1)
        for _ in range(rounds):
            for name, count, callers in zip(alone, (1, 1, BATCH), (1, 256, 1), strict=True):
                alone[name].append(await rate(saver(store, numbers, count), callers, seconds))
    async with rig.running(slots=1, completion_tokens=100, tokens_per_second=0.1) as up:
        channel = dial(up.queen_address)
        callers = Callers(channel)
        wire: dict[str, list[float]] = {"Submit, 64 callers": [], f"SubmitBatch of {BATCH}, 2 callers": []}
        for _ in range(rounds):
            for name, submit, count in zip(wire, (callers.one, callers.batch), (64, 2), strict=True):
                wire[name].append(await rate(submit, count, seconds))
        acknowledged = len(callers.acknowledged)
        missing = await killed(up, callers, seconds)
        acknowledged = len(callers.acknowledged) - acknowledged
        await channel.close()
    print_rates("the store alone, jobs on disk per second", alone)
    print_rates("through the queen, jobs acknowledged per second", wire)
    ratios = [many / one for many, one in zip(alone[f"{BATCH} at a time"], alone["one commit per job"], strict=True)]
    rig.print_table(
        "and",
        ("what", "figure", "target"),
        [
            (
                "batched, against one commit per job",
                f"{statistics.median(ratios):.1f}x",
                at_least(ratios, TIMES_SINGLE),
            ),
            (f"lost by kill -9, of {acknowledged:,} acknowledged under load", f"{missing}", "0"),
        ],
    )


def print_rates(title: str, rates: dict[str, list[float]]) -> None:
    rows = [
        (name, f"{statistics.median(found):,.0f}", f"{min(found):,.0f} to {max(found):,.0f}", target(name, found))
        for name, found in rates.items()
    ]
    rig.print_table(title, ("how", "median", "range", "target"), rows)


def target(name: str, found: Sequence[float]) -> str:
    return at_least(found, PER_S) if str(BATCH) in name else "-"


def at_least(found: Sequence[float], least: float) -> str:
    return f">= {least:,g} {'met' if statistics.median(found) >= least else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean little")
    parser.add_argument("--folder", default="", help="where to put the store's file; default: the temporary folder")
    options = parser.parse_args()
    rig.run(measure(options.folder, 0.5 if options.quick else 2.0, 1 if options.quick else 5))


if __name__ == "__main__":
    main()

"""How many jobs a second are placed on 1,000 workers, by one core, with everything the queen does for a placement."""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

import rig

from queen.core.model import Device, Hive, Job, Priority, Proposal, Worker, WorkerSpec, WorkerState
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.registry.tenants import TenantTable
from queen.scheduler.cycle import SchedulingCycle
from queen.scheduler.simple import SimpleScheduler
from queen.storage.store import SqlStore, open_store
from wire.clock import SystemClock

WORKERS: Final = 1000
WORKERS_A_HIVE: Final = 8
SESSIONS: Final = 50
TARGET_PER_S: Final = 2000
MODEL: Final = "synthetic:bench"


class InstantWorkers:
    """Stands for the worker's side: what is dispatched runs until `end` says that the oldest have ended."""

    def __init__(self) -> None:
        self.jobs: JobTable
        self.cluster: Cluster
        self.running: deque[tuple[LiveJob, str]] = deque()
        self.placed = 0

    def dispatch(self, job_id: str, worker: Worker) -> None:
        """Takes a job that was given to a worker."""
        live = self.jobs.get(job_id)
        assert live is not None, "the cycle has it"
        self.running.append((live, worker.id))
        self.placed += 1

    def end(self, most: int) -> None:
        """Completes the oldest jobs that run."""
        now = time.time()
        for _ in range(min(most, len(self.running))):
            live, worker_id = self.running.popleft()
            self.jobs.started(live, now)
            self.jobs.completed(live, now)
            self.cluster.release(worker_id, live.job.id, now)

    def start_for(self, proposal: Proposal) -> None:
        """Starts no workers: all are there."""

    def tell_waiting(self, job_id: str) -> None:
        """Tells nobody: no worker is being started."""


class Bench:
    """A queen's scheduling parts over a real store, without the network."""

    def __init__(self, store: SqlStore, models: int) -> None:
        clock = SystemClock()
        woken = asyncio.Event()
        numbers = count(1)
        self.store = store
        self.models = models
        self.orders = count(1)
        self.cluster = Cluster(woken.set)
        tenants = TenantTable(store, self.cluster.get_worker)
        self.jobs = JobTable(store, woken.set, tenants)
        self.workers = InstantWorkers()
        self.workers.jobs, self.workers.cluster = self.jobs, self.cluster
        self.cycle = SchedulingCycle(
            scheduler=SimpleScheduler(str, tenants),
            jobs=self.jobs,
            cluster=self.cluster,
            dispatcher=self.workers,
            starter=self.workers,
            reject=_never,
            store=store,
            clock=clock,
            new_id=lambda prefix: f"{prefix}-{next(numbers):010x}",
            woken=woken,
            tenants=tenants,
        )
        self._add_workers()

    def _add_workers(self) -> None:
        for n in range(WORKERS):
            hive_id = f"hive-{n // WORKERS_A_HIVE:03d}"
            if n % WORKERS_A_HIVE == 0:
                self.cluster.register_hive(Hive(hive_id))
                cpu = Device("cpu", "CPU", "cpu", memory_total_mb=65536, memory_free_mb=65536)
                self.cluster.heard(hive_id, time.time(), {"devices": (cpu,), "address": "h:1"})
            worker_id = f"{hive_id}-{n:04d}"
            spec = WorkerSpec(worker_id, self._model(n), slots=1, device_ids=("cpu",), memory_mb=100)
            changes = {"spec": spec, "state": WorkerState.READY, "address": "w:1", "slots_total": 1}
            self.cluster.heard_worker(hive_id, worker_id, time.time(), changes)
            self.cluster.settle(worker_id)

    def _model(self, n: int) -> str:
        return f"{MODEL}-{n % self.models}" if self.models > 1 else MODEL

    def submit(self, number: int, priority: Priority) -> None:
        """Puts jobs into the queue."""
        for order in (next(self.orders) for _ in range(number)):
            job = Job(
                f"job-{order:09d}", order, "bench", self._model(order), time.time(), priority=priority,
                session_id=f"s{order % SESSIONS}", detached=True,
            )  # fmt: skip
            self.jobs.add(LiveJob(job, b"what it asks for, serialised: " * 8))

    async def place(self, number: int, *, ending: int) -> float:
        """Places jobs and replaces each by a new one in the queue; returns placements per second of processor time.

        `ending`: how many jobs end between two cycles.
        """
        before, begun = self.workers.placed, time.process_time()
        known = before
        while self.workers.placed - before < number:
            self.workers.end(ending)
            await self.cycle.turn()
            self.submit(self.workers.placed - known, Priority.BATCH)
            known = self.workers.placed
            await asyncio.sleep(0)
        await self.store.flush()
        return (self.workers.placed - before) / (time.process_time() - begun)


def _never(live: LiveJob, proposal: Proposal) -> None:
    raise AssertionError(proposal.reason)


def _cases(*, quick: bool) -> Iterator[tuple[str, int, int, int]]:
    """Yields what is measured, jobs that wait, jobs that end between two cycles, models."""
    for waiting in (1_000, 100_000 if not quick else 5_000):
        yield f"{waiting:,} waiting, 100 end at a time", waiting, 100, 1
        yield f"{waiting:,} waiting, 10 end at a time", waiting, 10, 1
        yield f"{waiting:,} waiting, one ends at a time", waiting, 1, 1
        yield f"{waiting:,} waiting, 20 models, 100 end at a time", waiting, 100, 20


async def measure(waiting: int, ending: int, models: int, *, runs: int, number: int) -> list[float]:
    """Returns placements per second of processor time of each run."""
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as folder:
        store = open_store(f"sqlite:///{Path(folder) / 'queen.db'}")
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(store.writer.run())
            bench = Bench(store, models)
            bench.submit(waiting + WORKERS, Priority.BATCH)
            await bench.place(WORKERS, ending=0)
            await store.flush()
            gc.collect()
            gc.freeze()
            await bench.place(number // 4, ending=ending)
            rates = [await bench.place(number, ending=ending) for _ in range(runs)]
            store.writer.close()
            await writing
        await store.close()
    return rates


async def main(*, quick: bool, runs: int) -> None:
    rows = []
    for title, waiting, ending, models in _cases(quick=quick):
        number = (400 if ending == 1 else 4000) // (8 if quick else 1)
        rates = await measure(waiting, ending, models, runs=runs, number=number)
        middle = statistics.median(rates)
        verdict = f">= {TARGET_PER_S:,} /s {'met' if middle >= TARGET_PER_S else 'MISSED'}"
        rows.append([title, f"{middle:,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}", verdict])
    head = ["1,000 workers, all busy", "placements/s", "range", "target"]
    rig.print_table("Placements per second of processor time", head, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: fewer placements, 5,000 jobs waiting")
    parser.add_argument("--runs", type=int, default=5, help="runs of each case, 5 by default")
    told = parser.parse_args()
    rig.run(main(quick=told.quick, runs=told.runs))

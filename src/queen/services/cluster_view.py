"""The cluster as one viewer has seen it: all of it first, then what has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from queen.core.model import Job
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable
from queen.services import convert
from rbee.v1 import hive_pb2, telemetry_service_pb2, worker_pb2
from wire.clock import Clock

MOST_JOBS: Final = 200
"""Jobs of one message."""
TURN: Final = 32
"""Hives or workers looked at in one go, less than a millisecond; then others have their turn."""

_Part = TypeVar("_Part", hive_pb2.Hive, worker_pb2.Worker)


class ClusterView:
    """What one viewer knows. A viewer that is slow misses steps in between, never the latest state."""

    def __init__(self, cluster: Cluster, jobs: JobTable, clock: Clock) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._clock = clock
        self._hives: dict[str, bytes] = {}
        self._workers: dict[str, bytes] = {}
        self._seen: dict[str, Job] = {}
        self._looked: float | None = None

    async def look(self) -> telemetry_service_pb2.WatchClusterResponse:
        """Returns everything the first time, later what has changed since the look before."""
        now, cluster = self._clock.now(), self._cluster
        told = telemetry_service_pb2.WatchClusterResponse(full=self._looked is None, queue_depth=len(self._jobs.queue))
        self._look_at_jobs(told, now)
        hives: dict[str, bytes] = {}
        for number, hive in enumerate(cluster.list_hives(), start=1):
            _note(convert.hive(hive, cluster.claims_mb(hive.id)), self._hives, hives, told.hives.append)
            if number % TURN == 0:
                await asyncio.sleep(0)
        workers: dict[str, bytes] = {}
        for number, worker in enumerate(cluster.list_online_workers(), start=1):
            _note(convert.worker(worker, cluster, now), self._workers, workers, told.workers.append)
            if number % TURN == 0:
                await asyncio.sleep(0)
        told.removed_hive_ids.extend(self._hives.keys() - hives.keys())
        told.removed_worker_ids.extend(self._workers.keys() - workers.keys())
        self._hives, self._workers, self._looked = hives, workers, now
        return told

    def _look_at_jobs(self, told: telemetry_service_pb2.WatchClusterResponse, now: float) -> None:
        seen = {live.job.id: live.job for live in self._jobs.in_memory()}
        changed = [job for job in seen.values() if self._seen.get(job.id) is not job]
        changed.sort(key=lambda job: -job.order)
        told.jobs.extend(convert.job(job, self._jobs.position(job.id, now)) for job in changed[:MOST_JOBS])
        if self._looked is not None and now > self._looked:
            made = sum(job.usage.completion_tokens for job in changed if job.resting and job.usage is not None)
            told.tokens_per_second = made / (now - self._looked)
        self._seen = seen


def _note(part: _Part, before: dict[str, bytes], now: dict[str, bytes], tell: Callable[[_Part], None]) -> None:
    """Keeps how a part looks, and tells it when it looked otherwise. What time alone changes is no change."""
    looks = type(part)()
    looks.CopyFrom(part)
    if isinstance(looks, worker_pb2.Worker):
        looks.ClearField("uptime")
        looks.ClearField("idle")
    now[part.id] = looks.SerializeToString(deterministic=True)
    if before.get(part.id) != now[part.id]:
        tell(part)

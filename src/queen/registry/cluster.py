"""The telemetry registry: the mirror of hives, workers and models. It answers what is there, never which one to use.

Three numbers of a device are kept apart: memory the queen has booked (claims), memory that is free now (reported), and
memory used by processes that are not rbee's (reported).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from queen.core import lifecycle
from queen.core.model import Hive, HiveState, ModelFile, Worker, WorkerSpec, WorkerState
from queen.core.ports import Touched
from queen.registry.catalogue import ModelCatalogue
from queen.registry.free_memory import FreeMemory
from queen.registry.ordered import put_in_order

DEGRADED_AFTER_S: Final = 3.0
OFFLINE_AFTER_S: Final = 10.0
NEWEST_SPEED_WEIGHT: Final = 0.3
"""Share of the newest job in a worker's average speed: the last few jobs make most of it."""

_EARLY_STATES: Final = (WorkerState.LOADING, WorkerState.READY)
_SERVING_STATES: Final = (WorkerState.READY, WorkerState.BUSY, WorkerState.DRAINING)


class Cluster:
    """Hives and workers as last reported, and the slots and memory the queen has promised of them.

    `on_change` is called after every change that could let a waiting job go on, `on_hive` with each hive that has gone
    online or offline. `min_residency_s`: how long a worker is not to be evicted after its start.
    """

    def __init__(
        self,
        on_change: Callable[[], None],
        on_hive: Callable[[Hive], None] = lambda _: None,
        *,
        min_residency_s: float = 0.0,
    ) -> None:
        self.min_residency_s = min_residency_s
        # These are kept in order of their keys, as they change far less often than they are asked for.
        self._hives: dict[str, Hive] = {}
        self._workers: dict[str, Worker] = {}
        self._by_model: defaultdict[str, dict[str, Worker]] = defaultdict(dict)
        self._by_hive: defaultdict[str, dict[str, Worker]] = defaultdict(dict)
        self._free_memory = FreeMemory()
        self._taken: defaultdict[str, set[str]] = defaultdict(set)
        self._idle_since: dict[str, float] = {}
        self._completed: defaultdict[str, int] = defaultdict(int)
        self._speed: dict[str, float] = {}
        self._pinned: set[str] = set()
        self._expected: set[str] = set()
        self._wake = on_change
        self._on_hive = on_hive
        self._changed: asyncio.Future[None] | None = None
        self._connected: dict[str, str] = {}
        self._watches: list[set[Touched]] = []
        self.models = ModelCatalogue()

    # What is there.

    def get_hive(self, hive_id: str) -> Hive | None:
        """Returns a hive by name, online or not."""
        return self._hives.get(hive_id)

    def list_hives(self) -> list[Hive]:
        """Returns all hives, by name."""
        return list(self._hives.values())

    def list_online_hives(self) -> list[Hive]:
        """Returns the hives that are heard of, by name."""
        return [hive for hive in self._hives.values() if hive.online]

    def awaits_hives(self) -> bool:
        """Returns whether a hive that was online when the queen before ended has not reported yet."""
        return any(hive.was_online and hive.state is HiveState.REGISTERED for hive in self._hives.values())

    def list_available_hives(self) -> list[Hive]:
        """Returns the healthy hives: those a worker can be started on, by name."""
        return [hive for hive in self._hives.values() if hive.state is HiveState.HEALTHY]

    def get_worker(self, worker_id: str) -> Worker | None:
        """Returns a worker of an online hive, with busy told from its taken slots."""
        return self._workers.get(worker_id)

    def list_online_workers(self) -> list[Worker]:
        """Returns the workers of online hives, by id."""
        return list(self._workers.values())

    def find_workers_with_model(self, model_ref: str) -> list[Worker]:
        """Returns the online workers that have a model loaded or are loading it, by id."""
        return list(self._by_model.get(model_ref, {}).values())

    def find_workers_on(self, hive_id: str) -> list[Worker]:
        """Returns the workers of an online hive, by id."""
        return list(self._by_hive.get(hive_id, {}).values())

    def find_idle_workers(self) -> list[Worker]:
        """Returns the workers that serve and run nothing: no slot taken and, since the last job, no GPU use."""
        return [worker for worker in self.list_online_workers() if self._is_idle(worker)]

    def find_workers_with_capacity(self, memory_mb: int) -> list[Worker]:
        """Returns the online workers on whose device at least this much GPU memory is free."""
        return [
            worker
            for worker in self.list_online_workers()
            if worker.total_vram_mb is not None and worker.total_vram_mb - (worker.vram_mb or 0) >= memory_mb
        ]

    def find_best_worker_for_model(self, model_ref: str) -> Worker | None:
        """Returns the first worker with a model and a free slot; no policy."""
        for worker in self.find_workers_with_model(model_ref):
            if worker.state is WorkerState.READY and self.slots_available(worker.id) > 0:
                return worker
        return None

    def find_file(self, model_ref: str, hive_id: str) -> ModelFile | None:
        """Returns a model's file as that hive names it; None where the hive has none."""
        return self.models.file_on(model_ref, hive_id)

    def watch(self) -> set[Touched]:
        """Returns a set that from now on gets whatever is touched, and has all there is; its owner empties it.

        There is no end to a watch: one is kept by what lives as long as the cluster.
        """
        touched: set[Touched] = {("hive", name) for name in self._hives} | {("worker", name) for name in self._workers}
        self._watches.append(touched)
        return touched

    # What the queen has promised.

    def slots_available(self, worker_id: str) -> int:
        """Returns how many slots of a worker no job has reserved."""
        worker = self._workers.get(worker_id)
        return 0 if worker is None else worker.slots_total - len(self._taken.get(worker_id, ()))

    def reserve(self, worker_id: str, job_id: str) -> None:
        """Takes a slot for a job; the applier has checked that one is free."""
        assert self.slots_available(worker_id) > 0, f"{worker_id} has no free slot"
        self._taken[worker_id].add(job_id)
        self._touch("worker", worker_id)
        self._derive_busy(worker_id)

    def release(self, worker_id: str, job_id: str, now: float) -> None:
        """Gives a job's slot back; safe to repeat."""
        taken = self._taken.get(worker_id)
        if taken is None or job_id not in taken:
            return
        taken.discard(job_id)
        if not taken:
            del self._taken[worker_id]
            self._idle_since[worker_id] = now
        self._touch("worker", worker_id)
        self._derive_busy(worker_id)
        self._on_change()

    def jobs_on(self, worker_id: str) -> frozenset[str]:
        """Returns the jobs that have a slot of a worker."""
        return frozenset(self._taken.get(worker_id, ()))

    def idle_since(self, worker_id: str) -> float | None:
        """Returns when a worker's last job ended; None while one runs or when none ever ran."""
        return None if worker_id in self._taken else self._idle_since.get(worker_id)

    def note_completed(self, worker_id: str, tokens_per_sec: float) -> None:
        """Counts a job a worker has completed, and how fast it was; 0 when that could not be told."""
        self._completed[worker_id] += 1
        self._touch("worker", worker_id)
        if tokens_per_sec:
            before = self._speed.get(worker_id, tokens_per_sec)
            self._speed[worker_id] = before + NEWEST_SPEED_WEIGHT * (tokens_per_sec - before)

    def avg_tokens_per_sec(self, worker_id: str) -> float | None:
        """Returns how fast a worker was over its recent jobs, the newer the weightier; None before the first."""
        return self._speed.get(worker_id)

    def jobs_completed(self, worker_id: str) -> int:
        """Returns how many jobs a worker has completed."""
        return self._completed.get(worker_id, 0)

    def pin(self, worker_id: str, pinned: bool = True) -> None:
        """Protects a worker from eviction, or no longer."""
        (self._pinned.add if pinned else self._pinned.discard)(worker_id)
        self._touch("worker", worker_id)

    def is_pinned(self, worker_id: str) -> bool:
        """Returns whether a worker must not be evicted."""
        return worker_id in self._pinned

    def claims_mb(self, hive_id: str) -> dict[str, int]:
        """Returns memory booked for the workers of a hive, MB by device id."""
        return self._claims(hive_id, frozenset(WorkerState) - {WorkerState.FAILED})

    def loading_claims_mb(self, hive_id: str) -> dict[str, int]:
        """Returns memory booked for workers that do not show in free memory yet, MB by device id."""
        return self._claims(hive_id, frozenset({WorkerState.LOADING}))

    def _claims(self, hive_id: str, states: frozenset[WorkerState]) -> dict[str, int]:
        claims: defaultdict[str, int] = defaultdict(int)
        for worker in self._by_hive.get(hive_id, {}).values():
            if worker.state in states:
                for device_id in worker.spec.device_ids:
                    claims[device_id] += worker.spec.memory_mb
        return claims

    # What is heard.

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when a condition on the cluster holds; looked at after each change."""
        while not holds():
            if self._changed is None:
                self._changed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._changed)

    def connect(self, hive_id: str, instance_id: str) -> None:
        """Notes that a hive's report stream is open."""
        self._connected[hive_id] = instance_id

    def disconnect(self, hive_id: str, instance_id: str) -> None:
        """Notes that a hive's report stream has ended, unless another instance has taken over."""
        if self._connected.get(hive_id) == instance_id:
            del self._connected[hive_id]
            self._on_change()

    def connected_instance(self, hive_id: str) -> str | None:
        """Returns which instance of a hive has its report stream open; None when none has."""
        return self._connected.get(hive_id)

    def expect_worker(self, hive_id: str, spec: WorkerSpec) -> None:
        """Books a worker that is about to be started, so that its memory is promised once."""
        self._expected.add(spec.worker_id)
        self._put(Worker(spec.worker_id, hive_id, replace(spec, model_ref=self._canonical(spec.model_ref, hive_id))))

    def doubt(self, worker_id: str) -> None:
        """Notes that it is not sure what a worker runs, if it is there at all; it gets no jobs until `settle`."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            self._put(replace(worker, doubtful=True))

    def settle(self, worker_id: str) -> None:
        """Notes that a worker has told what it runs."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.doubtful:
            self._put(replace(worker, doubtful=False))
            self._on_change()

    def list_doubtful_workers(self, hive_id: str) -> list[Worker]:
        """Returns the workers of a hive that serve and have to tell what they run, by id."""
        return [
            worker
            for worker in self.list_online_workers()
            if worker.hive_id == hive_id and worker.doubtful and worker.state in _SERVING_STATES
        ]

    def forget_worker(self, worker_id: str) -> None:
        """Removes a worker that is no more."""
        worker = self._workers.pop(worker_id, None)
        self._expected.discard(worker_id)
        if worker is not None:
            self._by_model[worker.model_ref].pop(worker_id, None)
            self._by_hive[worker.hive_id].pop(worker_id, None)
            self._idle_since.pop(worker_id, None)
            self._completed.pop(worker_id, None)
            self._speed.pop(worker_id, None)
            self._pinned.discard(worker_id)
            self._touch("worker", worker_id)
        self._on_change()

    def set_hive_state(self, hive_id: str, state: HiveState) -> None:
        """Moves a hive along its lifecycle; an offline hive's workers leave."""
        hive = self._hives[hive_id]
        lifecycle.check_hive(hive.state, state)
        self._hives[hive_id] = moved = replace(hive, state=state)
        if moved.online is not hive.online:
            self._on_hive(moved)
        self._touch("hive", hive_id)
        if state is HiveState.OFFLINE:
            for worker in self.find_workers_on(hive_id):
                self.forget_worker(worker.id)
            self.models.set_files(hive_id, ())
        self._on_change()

    def register_hive(self, hive: Hive) -> None:
        """Adds or replaces a hive as registered, keeping where it stands."""
        known = self._hives.get(hive.id)
        put_in_order(self._hives, hive.id, hive if known is None else replace(hive, state=known.state))
        self._touch("hive", hive.id)

    def introduced(self, hive_id: str, changes: Mapping[str, Any]) -> None:
        """Applies what a hive says of itself. It is there only with its first report, which names its workers."""
        hive = replace(self._hives[hive_id], **changes)
        if "models" in changes:
            self.models.set_files(hive_id, hive.models)
        self._hives[hive_id] = hive
        if "devices" in changes and self._free_memory.has_risen(hive):
            self._on_change()
        self._touch("hive", hive_id)

    def heard(self, hive_id: str, now: float, changes: Mapping[str, Any]) -> None:
        """Applies the changed fields of a hive's report; the hive is healthy from now on."""
        self.introduced(hive_id, {**changes, "last_report_time": now})
        if self._hives[hive_id].state is not HiveState.HEALTHY:
            self.set_hive_state(hive_id, HiveState.HEALTHY)

    def heard_worker(self, hive_id: str, worker_id: str, now: float, changes: Mapping[str, Any]) -> None:
        """Applies the changed fields of one worker."""
        spec = changes.get("spec")
        if spec is not None:
            changes = {**changes, "spec": replace(spec, model_ref=self._canonical(spec.model_ref, hive_id))}
        known = self._workers.get(worker_id)
        if known is not None and known.state is not WorkerState.LOADING and changes.get("state") in _EARLY_STATES:
            # Sampled before it said ready, or before the queen began to drain it; and hives do not know of slots.
            changes = {**changes, "state": known.state}
        # One that nobody here has asked for runs, for all one knows, what an earlier queen gave it.
        before = known or Worker(worker_id, hive_id, changes.get("spec") or WorkerSpec(worker_id, ""), doubtful=True)
        worker = replace(before, sample_time=now, **changes)
        lifecycle.check_worker(before.state, worker.state)
        if worker.state is not WorkerState.LOADING:
            self._expected.discard(worker_id)
        self._put(worker)
        if worker.state is not before.state or known is None:
            self._on_change()

    def keep_workers(self, hive_id: str, worker_ids: frozenset[str]) -> None:
        """Removes the workers of a hive that its full report does not name, unless it is being asked to start them."""
        for worker in self.find_workers_on(hive_id):
            if worker.id not in worker_ids and worker.id not in self._expected:
                self.forget_worker(worker.id)

    def next_silence(self) -> float | None:
        """Returns when the next hive would be degraded or offline if it stayed silent; None when none is online."""
        limits = {HiveState.HEALTHY: DEGRADED_AFTER_S, HiveState.DEGRADED: OFFLINE_AFTER_S}
        return min(
            (
                hive.last_report_time + limits[hive.state]
                for hive in self._hives.values()
                if hive.state in limits and hive.last_report_time is not None
            ),
            default=None,
        )

    def expire(self, now: float) -> list[Hive]:
        """Moves silent hives on to degraded and offline; returns those that changed, as they are now."""
        changed = []
        for hive in self.list_online_hives():
            silence = now - (hive.last_report_time or 0.0)
            if silence >= OFFLINE_AFTER_S:
                self.set_hive_state(hive.id, HiveState.OFFLINE)
            elif silence >= DEGRADED_AFTER_S and hive.state is HiveState.HEALTHY:
                self.set_hive_state(hive.id, HiveState.DEGRADED)
            else:
                continue
            changed.append(self._hives[hive.id])
        return changed

    # Inside.

    def _touch(self, kind: Literal["hive", "worker"], name: str) -> None:
        for watch in self._watches:
            watch.add((kind, name))

    def _on_change(self) -> None:
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None
        self._wake()

    def _canonical(self, model_ref: str, hive_id: str) -> str:
        return self.models.canonical(model_ref, hive_id)

    def _put(self, worker: Worker) -> None:
        old = self._workers.get(worker.id)
        if old is not None and old.model_ref != worker.model_ref:
            self._by_model[old.model_ref].pop(worker.id, None)
        for index in (self._workers, self._by_model[worker.model_ref], self._by_hive[worker.hive_id]):
            put_in_order(index, worker.id, worker)
        self._touch("worker", worker.id)
        self._derive_busy(worker.id)

    def _derive_busy(self, worker_id: str) -> None:
        worker = self._workers.get(worker_id)
        if worker is None or worker.state not in (WorkerState.READY, WorkerState.BUSY):
            return
        state = WorkerState.READY if self.slots_available(worker_id) > 0 else WorkerState.BUSY
        if state is not worker.state:
            worker = replace(worker, state=state)
            self._workers[worker_id] = self._by_model[worker.model_ref][worker_id] = worker
            self._by_hive[worker.hive_id][worker_id] = worker

    def _is_idle(self, worker: Worker) -> bool:
        if worker.state is not WorkerState.READY or worker.id in self._taken:
            return False
        newer = worker.sample_time > self._idle_since.get(worker.id, 0.0)
        return not (newer and (worker.gpu_util_pct or 0.0) > 0.0)

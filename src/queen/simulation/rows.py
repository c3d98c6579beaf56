"""The state of a simulated queen as the rows a policy sees: what has changed since it was last asked, no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from queen.core import feasibility
from queen.core.model import Job
from queen.policy.inprocess import RowChange
from queen.simulation.cluster_file import CPU, Machine
from queen.simulation.stage import Stage

HEARTBEAT_S: Final = 1.0
"""How old what machines say may get in the rows: hives report once a second."""


class StageRows:
    """Tells the rows of a stage. Called with the queue and the time, it yields what is different now."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._machines = {machine.name: machine for machine in stage.plan.machines}
        self._jobs: set[str] = set()
        self._heard: float | None = None

    def __call__(self, queue: Sequence[Job], now: float) -> Iterator[RowChange]:
        """Yields what has changed: kind of row, its id, its fields; None for fields: the row is gone."""
        if self._heard is None:
            yield from self._models()
        if self._heard is None or now - self._heard >= HEARTBEAT_S:
            self._heard = now
            for name in self._machines:
                yield "pools", name, {"last_report_ms": _ms(now)}
        changes = self._stage.changes
        for rows, changed in (
            (self._pool, changes.machines),
            (self._worker, changes.workers),
            (self._tenant, changes.tenants),
        ):
            for name in changed:
                yield rows(name)
            changed.clear()
        yield from self._queue(queue)

    def _models(self) -> Iterator[RowChange]:
        for model in self._stage.plan.models.values():
            file = model.file
            row = {
                "name": file.name,
                "family": file.family or None,
                "quantization": file.quantization or None,
                "vram_required_mb": feasibility.memory_required_mb(file),
                "context_length": file.context_length,
                "file_size_bytes": file.file_size_bytes,
            }
            yield "models", file.model_ref, row

    def _pool(self, name: str) -> RowChange:
        stage, machine = self._stage, self._machines[name]
        hive = stage.cluster.get_hive(name)
        assert hive is not None, "machines of a simulation are online"
        claims = stage.cluster.claims_mb(name)
        gpus = [
            {
                "id": device.id,
                "pool_id": name,
                "device_name": device.name,
                "backend": device.backend,
                "vram_total": device.memory_total_mb,
                "vram_allocated": claims.get(device.id, 0),
                "vram_free": device.memory_free_mb,
                "vram_foreign": 0,
            }
            for device in hive.devices
            if device.id != CPU
        ]
        row = {
            "status": hive.state.value,
            "cached_models": [stage.plan.models[one].file.model_ref for one in machine.models],
            "gpus": gpus,
            "ram_free_mb": hive.ram_free_mb,
            "ram_total_mb": next((one.memory_mb for one in machine.devices if one.id == CPU), None),
            "labels": dict(machine.labels),
            "geo": _geo(machine),
        }
        return "pools", name, row

    def _worker(self, worker_id: str) -> RowChange:
        cluster, plan = self._stage.cluster, self._stage.plan
        worker = cluster.get_worker(worker_id)
        if worker is None:
            return "workers", worker_id, None
        machine = self._machines[worker.hive_id]
        free = cluster.slots_available(worker_id)
        idle_since = worker.start_time if free == worker.slots_total else None
        if idle_since is not None:
            idle_since = cluster.idle_since(worker_id) or idle_since
        row: dict[str, Any] = {
            "pool_id": worker.hive_id,
            "status": worker.state.value,
            "model": worker.model_ref,
            "backend": worker.backend or None,
            "device": worker.spec.device_ids[0],
            "gpu_ids": [device for device in worker.spec.device_ids if device != CPU],
            "rss_mb": worker.rss_mb,
            "vram_mb": worker.vram_mb,
            "total_vram_mb": worker.total_vram_mb,
            "slots_total": worker.slots_total,
            "slots_available": free,
            "jobs_completed": cluster.jobs_completed(worker_id),
            "avg_tokens_per_sec": cluster.avg_tokens_per_sec(worker_id),
            "pinned": cluster.is_pinned(worker_id),
            "cost_per_token": machine.cost_per_token,
            "start_ms": _ms(worker.start_time),
            "idle_since_ms": None if idle_since is None else _ms(idle_since),
            "memory_claimed_mb": worker.spec.memory_mb,
            "min_residency_until_ms": _ms(worker.start_time + plan.minimum_residency_s),
            "labels": dict(machine.labels),
            "geo": _geo(machine),
        }
        return "workers", worker_id, row

    def _tenant(self, tenant_id: str) -> RowChange:
        stage = self._stage
        row = {
            "name": tenant_id,
            "weight": stage.weights.get(tenant_id, 1.0),
            "concurrent_jobs": stage.running[tenant_id],
            "tokens_counter": stage.shares.served(tenant_id),
        }
        return "tenants", tenant_id, row

    def _queue(self, queue: Sequence[Job]) -> Iterator[RowChange]:
        ids = {job.id for job in queue}
        for job_id in sorted(self._jobs - ids):
            yield "jobs", job_id, None
        for job in queue:
            if job.id not in self._jobs:
                yield "jobs", job.id, self._job(job)
        self._jobs = ids

    def _job(self, job: Job) -> dict[str, Any]:
        request = self._stage.requests[job.id]
        return {
            "tenant_id": job.tenant_id,
            "session_id": job.session_id or None,
            "model": job.model_ref,
            "type": job.type.value,
            "priority": job.priority.value,
            "seed": job.seed,
            "max_tokens": request.max_tokens,
            "prompt_tokens": request.prompt_tokens,
            "retry_count": 0,
            "order": job.order,
            "submit_ms": _ms(job.submit_time),
            "deadline_at_ms": None if job.detached else _ms(job.submit_time + job.timeout_s),
            "session_last_worker": self._stage.last_worker.get(job.session_id) if job.session_id else None,
        }


def _geo(machine: Machine) -> dict[str, Any] | None:
    geo = {"latitude": machine.latitude, "longitude": machine.longitude, "region": machine.region or None}
    return {name: value for name, value in geo.items() if value is not None} or None


def _ms(seconds: float) -> int:
    return int(seconds * 1000)

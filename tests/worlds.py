"""Small clusters for tests of the queen's rules: values only, no processes."""

from __future__ import annotations

from queen.core.model import Device, Hive, HiveState, Job, ModelFile, Worker, WorkerSpec, WorkerState
from queen.registry.cluster import Cluster

MODEL = "file:/models/small.gguf"


def model_file(name: str = "small", size_mb: int = 100, folder: str = "/models", defect: str = "") -> ModelFile:
    return ModelFile(
        model_ref=f"file:{folder}/{name}.gguf",
        name=name,
        context_length=2048,
        file_size_bytes=size_mb * 2**20,
        kv_bytes_per_token=1024,
        defect=defect,
    )


def job(job_id: str = "job-1", order: int = 1, model_ref: str = MODEL, **facts: object) -> Job:
    return Job(job_id, order, "small", model_ref, submit_time=float(facts.pop("submit_time", 0.0)), **facts)


class World:
    """A cluster that counts how often it would have woken the scheduler."""

    def __init__(self, min_residency_s: float = 0.0) -> None:
        self.wakes = 0
        self.cluster = Cluster(self._woken, min_residency_s=min_residency_s)

    def _woken(self) -> None:
        self.wakes += 1

    def add_hive(
        self,
        hive_id: str = "mill",
        *,
        free_mb: int = 4096,
        total_mb: int | None = None,
        gpus: int = 0,
        models: tuple[ModelFile, ...] = (),
    ):
        memory = {"memory_total_mb": total_mb or free_mb, "memory_free_mb": free_mb}
        devices = tuple(Device(f"gpu{n}", "GPU", "cuda", **memory) for n in range(gpus))
        cpu = Device("cpu", "CPU", "cpu", **memory)
        self.cluster.register_hive(Hive(hive_id))
        self.cluster.heard(hive_id, 0.0, {"devices": (*devices, cpu), "models": models, "address": "h:1"})

    def add_worker(
        self,
        worker_id: str = "w1",
        hive_id: str = "mill",
        *,
        slots: int = 1,
        state: WorkerState = WorkerState.READY,
        model_ref: str = MODEL,
    ) -> Worker:
        spec = WorkerSpec(worker_id, model_ref, slots=slots, device_ids=("cpu",), memory_mb=200)
        changes = {"spec": spec, "state": state, "address": "w:1", "slots_total": slots}
        self.cluster.heard_worker(hive_id, worker_id, 0.0, changes)
        self.cluster.settle(worker_id)
        worker = self.cluster.get_worker(worker_id)
        assert worker is not None
        return worker


__all__ = ["MODEL", "HiveState", "World", "job", "model_file"]


class Records:
    """A store of what was decided."""

    def __init__(self):
        self.decisions = []

    def save_job(self, saved):
        pass

    def save_request(self, job_id, spec):
        pass

    def drop_request(self, job_id):
        pass

    def save_decision(self, decision):
        self.decisions.append(decision)

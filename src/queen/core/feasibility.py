"""What can run where: whether a worker can take a job, and where a worker for a model would fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from queen.core.model import Candidate, Device, Hive, HiveState, Job, ModelFile, Worker, WorkerSpec, WorkerState

DEFAULT_SLOTS: Final = 4
DEFAULT_CONTEXT_LENGTH: Final = 8192
"""Longest context a slot gets unless asked for more, tokens: a long trained one would eat the memory."""

OVERHEAD_MB: Final = 96
"""Memory of a worker beside weights and KV cache, MB: interpreter, llama.cpp and its compute buffers.
Measured as the resident size of a worker with the bundled 4 MB model, rounded up."""


def context_of(model: ModelFile, wanted: int = 0) -> int:
    """Returns the tokens each slot of a new worker holds: what was wanted, else the model's own, capped; at least 1."""
    return wanted or min(model.context_length or DEFAULT_CONTEXT_LENGTH, DEFAULT_CONTEXT_LENGTH)


def memory_required_mb(model: ModelFile, slots: int = DEFAULT_SLOTS, context_length: int = 0) -> int:
    """Returns the memory a worker of a model needs, MB: weights, 16-bit KV cache of all slots, overhead."""
    kv_bytes = model.kv_bytes_per_token * context_of(model, context_length) * slots
    return (model.file_size_bytes + kv_bytes) // 2**20 + OVERHEAD_MB


def worker_reject_reason(job: Job, worker: Worker, slots_available: int) -> str:
    """Returns why a worker cannot take a job now; "" when it can."""
    if worker.model_ref != job.model_ref:
        return "has another model"
    if worker.state is WorkerState.LOADING:
        return "still loads the model"
    if worker.state not in (WorkerState.READY, WorkerState.BUSY):
        return f"is {worker.state}"
    if worker.doubtful:
        return "has to tell what it runs first"
    if slots_available <= 0:
        return f"all {worker.slots_total} slots are taken"
    return ""


def find_device(hive: Hive, memory_mb: int, claimed_mb: dict[str, int]) -> tuple[Device | None, str]:
    """Returns the device of a hive where a worker fits, or None and why not. `claimed_mb` is by device id.

    A machine with GPUs is never fallen back from to its processor.
    """
    gpus = [device for device in hive.devices if device.id != "cpu"]
    places = gpus or list(hive.devices)
    if not places:
        return None, "reports no device"
    room: list[tuple[int, Device]] = []
    for device in places:
        free = device.memory_free_mb if device.memory_free_mb is not None else device.memory_total_mb
        # Claims of workers that still load are not yet seen in the free memory; the caller passes only those.
        room.append(((free if free is not None else memory_mb) - claimed_mb.get(device.id, 0), device))
    most, best = max(room, key=lambda pair: (pair[0], pair[1].id))
    if most < memory_mb:
        return None, f"needs {memory_mb:,} MB, {best.id} has {max(most, 0):,} MB free"
    return best, ""


def hive_reject_reason(hive: Hive) -> str:
    """Returns why no worker can be started on a hive now; "" when one can."""
    if hive.state is HiveState.HEALTHY:
        return ""
    return f"hive is {hive.state}"


def eligible(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Returns the candidates nothing speaks against."""
    return [candidate for candidate in candidates if not candidate.reject_reason]


def spec_for(
    worker_id: str, model: ModelFile, device: Device, *, slots: int = DEFAULT_SLOTS, context_length: int = 0
) -> WorkerSpec:
    """Returns how to start a worker of a model on a device, with its memory booked."""
    return WorkerSpec(
        worker_id=worker_id,
        model_ref=model.model_ref,
        engine="synthetic" if model.model_ref.startswith("synthetic:") else "llamacpp",
        slots=slots,
        context_length=context_of(model, context_length),
        device_ids=(device.id,),
        memory_mb=memory_required_mb(model, slots, context_length),
    )

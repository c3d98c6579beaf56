"""What can run where: whether a worker can take a job, and where a worker for a model would fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from queen.core.model import Candidate, Device, Hive, HiveState, Job, ModelFile, Worker, WorkerSpec, WorkerState

DEFAULT_SLOTS: Final = 4
DEFAULT_CONTEXT_LENGTH: Final = 8192
"""Longest context a slot gets unless asked for more, tokens: a long trained one would eat the memory."""

OVERHEAD_MB: Final = 96
"""Memory of a worker beside weights and KV cache, MB: interpreter, llama.cpp and its compute buffers.
Measured as the resident size of a worker with the bundled 4 MB model, rounded up."""

MOST_NAMED: Final = 32
"""Candidates a decision names; the rest is summed up by reason. Decisions are kept for every job, and naming 64 makes a
placement a tenth dearer (bench/scheduling.py) and 5 kB on disk."""
MOST_REASONS: Final = 16


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
    return "" if slots_available > 0 else all_taken(worker)


def all_taken(worker: Worker) -> str:
    """Returns the reason why a worker with no free slot takes no job."""
    return f"all {worker.slots_total} slots are taken"


def find_device(hive: Hive, memory_mb: int, claimed_mb: dict[str, int]) -> tuple[Device | None, str]:
    """Returns the device of a hive where a worker fits, or None and why not. `claimed_mb` is by device id.

    A machine with GPUs is never fallen back from to its processor.
    """
    places = places_of(hive)
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


def places_of(hive: Hive) -> list[Device]:
    """Returns the devices of a hive that workers live on: its GPUs, or its processor where it has none."""
    return [device for device in hive.devices if device.id != "cpu"] or list(hive.devices)


def could_hold(hive: Hive, memory_mb: int) -> bool:
    """Returns whether a device has so much memory in all, whatever is on it now; one that does not tell might."""
    return any(device.memory_total_mb is None or device.memory_total_mb >= memory_mb for device in places_of(hive))


def never_fits(model: str, memory_mb: int, holders: Iterable[Hive], online: Iterable[Hive]) -> str:
    """Returns the sentence that a model fits on no device of the hives that hold it, naming the largest.

    One of the `online` ones that could hold it and only lacks the file is named too.
    """
    sizes = [(device.memory_total_mb or 0, hive.id, device.id) for hive in holders for device in places_of(hive)]
    said = f"{model} fits on no machine that has it: it needs {memory_mb:,} MB, "
    said += "the largest device is {1} {2} with {0:,} MB".format(*max(sizes)) if sizes else "and they report no device"
    other = next((hive.id for hive in online if could_hold(hive, memory_mb)), None)
    return said if other is None else f"{said}; {other} could hold it but does not have its file"


def in_the_way(hive: Hive, memory_mb: int, workers: Iterable[Worker]) -> str:
    """Returns what keeps a worker from a hive that could hold it. Names no figure that moves from second to second."""
    if reason := hive_reject_reason(hive):
        return f"{hive.id}: {reason}"
    holders: dict[str, list[str]] = {}
    for worker in workers:
        for device_id in worker.spec.device_ids:
            holders.setdefault(device_id, []).append(f"{worker.id} ({worker.spec.memory_mb:,} MB)")
    devices = [one for one in places_of(hive) if one.memory_total_mb is None or one.memory_total_mb >= memory_mb]
    device = max(devices, key=lambda one: (one.memory_total_mb or 0, one.id))
    size = "" if device.memory_total_mb is None else f" of {device.memory_total_mb:,} MB"
    return f"{hive.id} {device.id}{size} is held by {', '.join(holders.get(device.id, ())) or 'other programs'}"


def hive_reject_reason(hive: Hive) -> str:
    """Returns why no worker can be started on a hive now; "" when one can."""
    if hive.state is HiveState.HEALTHY:
        return ""
    return f"hive is {hive.state}"


def eligible(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Returns the candidates nothing speaks against."""
    return [candidate for candidate in candidates if not candidate.reject_reason]


def named(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Returns the first candidates as they are and the rest summed up by reason."""
    rest = Counter(candidate.reject_reason for candidate in candidates[MOST_NAMED:])
    return (*candidates[:MOST_NAMED], *alike(rest))


def alike(reasons: Mapping[str, int]) -> list[Candidate]:
    """Returns a candidate for each reason that stands for as many as have it; the rarest reasons become one."""
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    most, others = ordered[:MOST_REASONS], sum(count for _, count in ordered[MOST_REASONS:])
    if others:
        most.append(("for other reasons", others))
    return [Candidate("", reject_reason=reason, alike=count) for reason, count in most if count]


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

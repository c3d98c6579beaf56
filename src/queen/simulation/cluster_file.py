"""The cluster a simulation runs on, read from YAML: machines, devices, models, speeds and what they cost.

`policies/clusters/` has examples; README.md there describes every key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from queen.core import feasibility
from queen.core.model import ModelFile
from queen.simulation.documents import Document, Section

CPU: Final = "cpu"
BACKENDS: Final = ("cpu", "cuda", "rocm", "metal")
MAX_MACHINES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model is on a kind of device: seconds to load, tokens per second of one stream alone."""

    load_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its speeds by device kind."""

    file: ModelFile
    speeds: Mapping[str, Speed]


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device of a machine. Up to `full_speed_streams` streams decode at full speed; more share that."""

    id: str
    kind: str
    backend: str
    memory_mb: int
    full_speed_streams: float


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Workers that are ready when the simulation begins."""

    model: str
    device_id: str
    slots: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: its devices, the models on its disk, what it costs while workers are on it."""

    name: str
    devices: tuple[DevicePlan, ...]
    models: tuple[str, ...]
    workers: tuple[WorkerPlan, ...]
    labels: Mapping[str, str]
    geo: Mapping[str, float | str]
    cost_per_hour: float
    cost_per_token: float | None
    speeds: Mapping[tuple[str, str], Speed]

    def speed(self, model: str, kind: str) -> Speed:
        """Returns how fast a model on its disk is on one of its devices."""
        return self.speeds[model, kind]


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """Everything a cluster file says."""

    name: str
    minimum_residency_s: float
    models: Mapping[str, Model]
    machines: tuple[Machine, ...]


def read_cluster(source: str) -> ClusterPlan:
    """Returns the cluster a YAML text describes; raises `Invalid` naming every fault with its line."""
    document = Document(source, "cluster file")
    name = document.text("name", "cluster")
    residency_s = document.span_s("minimum_residency", 0.0)
    models = _Models()
    for section in document.sections("models"):
        models.read(section)
    if not models.by_name:
        document.fault("at least one model", "models")
    machines: dict[str, Machine] = {}
    for section in document.sections("machines"):
        for machine in _machines(section, models.by_name):
            if machine.name in machines:
                section.fault(f"another name; there is a machine '{machine.name}' already", "name")
            machines[machine.name] = machine
        if len(machines) > MAX_MACHINES:
            section.fault(f"at most {MAX_MACHINES:,} machines")
            break
    if not machines:
        document.fault("at least one machine", "machines")
    document.close()
    document.finish()
    return ClusterPlan(name, residency_s, models.by_name, tuple(machines.values()))


@dataclass(slots=True)
class _Models:
    by_name: dict[str, Model] = field(default_factory=dict)

    def read(self, section: Section) -> None:
        name = section.text("name")
        load_s = section.span_s("load_time", 10.0)
        if name in self.by_name:
            section.fault(f"another name; there is a model '{name}' already", "name")
        speeds = {}
        by_kind = section.section("speeds")
        for kind in by_kind.names() if by_kind else ():
            below = by_kind.section(kind) if by_kind else None
            if below is not None:
                speeds[kind] = _speed(below, load_s)
        self.by_name[name] = Model(_file(section, name), speeds)
        section.close()


def _speed(section: Section, load_s: float) -> Speed:
    speed = Speed(
        section.span_s("load_time", load_s),
        section.number("prefill", least=0.001),
        section.number("decode", least=0.001),
    )
    section.close()
    return speed


def _file(section: Section, name: str) -> ModelFile:
    """Returns the model's file; a given memory of a worker is brought about by the size of its KV cache."""
    file_mb = section.size_mb("file_size")
    context = section.whole("context_length", feasibility.DEFAULT_CONTEXT_LENGTH, least=1)
    least_mb = file_mb + feasibility.OVERHEAD_MB
    kv_bytes = 0
    if section.has("memory"):
        memory_mb = section.size_mb("memory")
        if memory_mb < least_mb:
            section.fault(f"at least {least_mb} MB, the file and {feasibility.OVERHEAD_MB} MB beside it", "memory")
        tokens = min(context, feasibility.DEFAULT_CONTEXT_LENGTH) * feasibility.DEFAULT_SLOTS
        kv_bytes = math.ceil(max(0, memory_mb - least_mb) * 2**20 / tokens)
    return ModelFile(
        model_ref=section.text("ref", f"file:/models/{name}.gguf"),
        name=name,
        family=section.text("family", ""),
        context_length=context,
        quantization=section.text("quantization", ""),
        file_size_bytes=file_mb * 2**20,
        kv_bytes_per_token=kv_bytes,
    )


def _machines(section: Section, models: Mapping[str, Model]) -> list[Machine]:
    name = section.text("name")
    count = section.whole("count", 1, least=1, most=MAX_MACHINES)
    labels = section.labels("labels")
    geo = _geo(section)
    cost_per_hour = section.number("cost_per_hour", 0.0)
    cost_per_token = section.number("cost_per_token") if section.has("cost_per_token") else None
    devices = _devices(section)
    speeds = _speeds(section, models, devices)
    held = _held(section, models, devices, speeds)
    workers = _workers(section, models, held, devices)
    section.close()
    names = [name] if count == 1 else [f"{name}-{number:0{len(str(count))}}" for number in range(1, count + 1)]
    return [Machine(one, devices, held, workers, labels, geo, cost_per_hour, cost_per_token, speeds) for one in names]


def _geo(section: Section) -> dict[str, float | str]:
    below = section.section("geo")
    geo: dict[str, float | str] = {}
    if below is None:
        return geo
    for name, most in (("latitude", 90.0), ("longitude", 180.0)):
        if below.has(name):
            geo[name] = below.number(name, least=-most, most=most)
    if below.has("region"):
        geo["region"] = below.text("region")
    below.close()
    return geo


def _devices(machine: Section) -> tuple[DevicePlan, ...]:
    devices: list[DevicePlan] = []
    for section in machine.sections("devices"):
        kind = section.text("kind")
        backend = section.word("backend", BACKENDS, "cpu" if kind == CPU else "cuda")
        memory_mb = section.size_mb("memory")
        streams = section.number("full_speed_streams", least=1) if section.has("full_speed_streams") else math.inf
        for _ in range(section.whole("count", 1, least=1, most=64)):
            gpus = sum(device.id != CPU for device in devices)
            device_id = CPU if backend == "cpu" else f"gpu{gpus}"
            if any(device.id == device_id for device in devices):
                section.fault("one processor a machine", "kind")
            devices.append(DevicePlan(device_id, kind, backend, memory_mb, streams))
        section.close()
    if not devices:
        machine.fault("at least one device", "devices")
    return tuple(devices)


def _speeds(
    machine: Section, models: Mapping[str, Model], devices: tuple[DevicePlan, ...]
) -> dict[tuple[str, str], Speed]:
    """Returns the speeds on a machine by model and device kind: its own where it has some, else the kind's."""
    kinds = {device.kind for device in devices}
    speeds = {(name, kind): model.speeds[kind] for name, model in models.items() for kind in kinds & set(model.speeds)}
    own = machine.section("speeds")
    for name in own.names() if own else ():
        section = own.section(name) if own else None
        if own is None or section is None:
            continue
        if name not in models:
            own.unknown(name, name, tuple(models), "model")
        speed = _speed(section, 10.0)
        speeds.update({(name, kind): speed for kind in kinds})
    return speeds


def _held(
    machine: Section,
    models: Mapping[str, Model],
    devices: tuple[DevicePlan, ...],
    speeds: Mapping[tuple[str, str], Speed],
) -> tuple[str, ...]:
    """Returns the models on a machine's disk: those named, else all whose speed is known on all its devices."""
    used = [device for device in devices if device.id != CPU] or devices
    known = [name for name in models if all((name, device.kind) in speeds for device in used)]
    named = machine.texts("models")
    for name in named:
        if name not in models:
            machine.unknown("models", name, tuple(models), "model")
        elif name not in known:
            lacking = next(device.kind for device in used if (name, device.kind) not in speeds)
            machine.fault(f"a speed of '{name}' on '{lacking}', below the model or the machine", "models")
    held = tuple(name for name in named if name in known) if named else tuple(known)
    if not held and not named:
        kinds = ", ".join(sorted({device.kind for device in used}))
        machine.fault(f"a model that has speeds on '{kinds}'", "devices")
    return held


def _workers(
    machine: Section, models: Mapping[str, Model], held: tuple[str, ...], devices: tuple[DevicePlan, ...]
) -> tuple[WorkerPlan, ...]:
    workers: list[WorkerPlan] = []
    free_mb = {device.id: device.memory_mb for device in devices}
    for section in machine.sections("workers"):
        model = section.text("model")
        device_id = section.text("device", next(iter(free_mb), CPU))
        slots = section.whole("slots", feasibility.DEFAULT_SLOTS, least=1, most=1024)
        pinned = section.word("pinned", ("true", "false"), "false") == "true"
        count = section.whole("count", 1, least=1, most=1024)
        if model not in held:
            section.unknown("model", model, held, "model on this machine")
        elif device_id not in free_mb:
            section.unknown("device", device_id, tuple(free_mb), "device")
        else:
            needed_mb = feasibility.memory_required_mb(models[model].file, slots) * count
            if needed_mb > free_mb[device_id]:
                section.fault(f"to fit: they need {needed_mb:,} MB, {device_id} has {free_mb[device_id]:,} MB free")
            free_mb[device_id] -= needed_mb
        workers.extend([WorkerPlan(model, device_id, slots, pinned)] * count)
        section.close()
    return tuple(workers)

"""What changed between two snapshots, in the terms of the contract's reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final

from hive.core.model import Device, ModelFile, Snapshot, Worker

_WORKER_FIELDS: Final = tuple(field.name for field in fields(Worker) if field.name != "worker_id")


@dataclass(frozen=True, slots=True)
class WorkerChange:
    """One worker's fields that changed, and the names of those that are not known any more."""

    worker_id: str
    changed: Mapping[str, Any]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """The content of one report. `models` None: unchanged. `full`: what is not named here is gone."""

    full: bool
    devices: tuple[Device, ...]
    workers: tuple[WorkerChange, ...]
    removed_worker_ids: tuple[str, ...]
    models: tuple[ModelFile, ...] | None
    disk_free_bytes: int | None
    ram_free_mb: int | None


def change_between(before: Snapshot | None, after: Snapshot) -> Change:
    """Returns what a report must say so that a reader who has `before` then has `after`; all of it without `before`.

    What a delta cannot say, such as that a device has gone, makes the report full.
    """
    if before is None or not _is_sayable(before, after):
        return _full(after)
    known = {worker.worker_id: worker for worker in before.workers}
    changes = [_worker_change(known.pop(worker.worker_id, None), worker) for worker in after.workers]
    devices = {device.id: device for device in before.devices}
    return Change(
        full=False,
        devices=tuple(device for device in after.devices if devices.get(device.id) != device),
        workers=tuple(change for change in changes if change.changed or change.absent),
        removed_worker_ids=tuple(known),
        models=None if before.models == after.models else after.models,
        disk_free_bytes=after.disk_free_bytes if after.disk_free_bytes != before.disk_free_bytes else None,
        ram_free_mb=after.ram_free_mb if after.ram_free_mb != before.ram_free_mb else None,
    )


def _full(after: Snapshot) -> Change:
    return Change(
        full=True,
        devices=after.devices,
        workers=tuple(_worker_change(None, worker) for worker in after.workers),
        removed_worker_ids=(),
        models=after.models,
        disk_free_bytes=after.disk_free_bytes,
        ram_free_mb=after.ram_free_mb,
    )


def _is_sayable(before: Snapshot, after: Snapshot) -> bool:
    return (
        {device.id for device in before.devices} <= {device.id for device in after.devices}
        and (before.disk_free_bytes is None or after.disk_free_bytes is not None)
        and (before.ram_free_mb is None or after.ram_free_mb is not None)
    )


def _worker_change(before: Worker | None, after: Worker) -> WorkerChange:
    changed: dict[str, Any] = {}
    absent: list[str] = []
    for name in _WORKER_FIELDS:
        old, new = None if before is None else getattr(before, name), getattr(after, name)
        if new is None and old is not None:
            absent.append(name)
        elif new != old:
            changed[name] = new
    return WorkerChange(after.worker_id, MappingProxyType(changed), tuple(absent))

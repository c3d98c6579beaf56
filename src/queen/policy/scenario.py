"""Small clusters written down by hand: rows from the fields that policies see, for cases and for fuzzing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from queen.policy.language import Kind, Program, Rows
from wire.errors import FieldFault

_SECTIONS: Final[Mapping[str, tuple[Rows, str]]] = {
    "models": ("models", "model"),
    "tenants": ("tenants", "tenant"),
    "pools": ("pools", "pool"),
    "workers": ("workers", "worker"),
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Rows by kind and id, the queue's order, and the time, milliseconds since 1970."""

    now_ms: int
    rows: Mapping[Rows, Mapping[str, Row]]
    queue: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def fill(self, program: Program) -> None:
        """Puts everything into a program that has no rows yet."""
        for rows, by_id in self.rows.items():
            for row_id in sorted(by_id):
                program.put(rows, row_id, by_id[row_id])
        program.put("config", "", self.config)
        program.queue(self.queue)


@cache
def kinds() -> Mapping[str, Kind]:
    """Returns the fields of everything policies see."""
    return Program().vocabulary().kinds


class Reader:
    """Reads clusters and jobs written by hand, in the names policies use, and gathers every fault."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self.faults: list[FieldFault] = []

    def scenario(self, cluster: Mapping[str, Any], jobs: list[Any], path: str = "") -> Scenario:
        """Returns a cluster with jobs queued in the order given. What is not said has the usual value.

        Workers are ready with one free slot, pools healthy with every model on disk; pools and models that are only
        mentioned are there.
        """
        rows: dict[Rows, dict[str, Row]] = {"models": {}, "tenants": {}, "pools": {}, "workers": {}, "jobs": {}}
        for section in cluster:
            if section not in _SECTIONS and section != "config":
                self._unknown(f"{path}cluster.{section}", section, [*_SECTIONS, "config"])
        for section, (target, kind) in _SECTIONS.items():
            key = "model_ref" if kind == "model" else "id"
            for place, written in enumerate(_list(cluster.get(section))):
                row = self._row(kind, written, f"{path}cluster.{section}[{place}]")
                rows[target][str(row.pop(key, f"{kind}-{place + 1}"))] = row
        for place, written in enumerate(jobs):
            row = self._row("job", written, f"{path}jobs[{place}]")
            rows["jobs"][str(row.pop("id", f"job-{place + 1}"))] = row
        _complete(rows, self._now_ms)
        return Scenario(self._now_ms, rows, tuple(rows["jobs"]), dict(cluster.get("config") or {}))

    def _row(self, kind: str, written: Any, path: str) -> Row:
        if not isinstance(written, Mapping):
            self.faults.append(FieldFault(path, f"a map of the fields of a {kind}, got {written!r}"))
            return {}
        known = kinds()[kind]
        names = {*known.fields, *known.raw, *known.aliases}
        row: Row = {}
        for name, value in written.items():
            if name not in names:
                self._unknown(f"{path}.{name}", str(name), sorted(names))
                continue
            first = known.aliases.get(name, name)
            convert = _FROM_VIEW.get((kind, first))
            if convert is None:
                row[first] = value
            elif isinstance(value, int | float | Mapping):
                row.update(convert(value, self._now_ms))
            else:
                self.faults.append(FieldFault(f"{path}.{name}", f"a number or a map, got {value!r}"))
        if kind == "pool":
            row["gpus"] = [self._row("gpu", gpu, f"{path}.gpus[{n}]") for n, gpu in enumerate(_list(row.get("gpus")))]
        return row

    def _unknown(self, path: str, name: str, names: list[str]) -> None:
        near = difflib.get_close_matches(name, names, 1)
        self.faults.append(FieldFault(path, f"a known field{f'; did you mean {near[0]}?' if near else ''}"))


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _before(name: str, unit_ms: float = 1) -> Callable[[Any, int], Row]:
    return lambda value, now_ms: {name: now_ms - round(value * unit_ms)}


# What policies see computed from times, and how rows say it.
_FROM_VIEW: Final[Mapping[tuple[str, str], Callable[[Any, int], Row]]] = {
    ("job", "wait_time_ms"): _before("submit_ms"),
    ("job", "queued_at"): lambda value, _: {"submit_ms": value},
    ("job", "deadline"): lambda value, now_ms: {"deadline_at_ms": now_ms + value},
    ("job", "user"): lambda value, _: {"user_geo": value.get("geo", {})},
    ("worker", "idle_ms"): _before("idle_since_ms"),
    ("worker", "uptime_s"): _before("start_ms", 1000),
    ("pool", "heartbeat_age_ms"): _before("last_report_ms"),
}


def _complete(rows: dict[Rows, dict[str, Row]], now_ms: int) -> None:
    for worker in rows["workers"].values():
        worker.setdefault("status", "ready")
        worker.setdefault("slots_total", 1)
        worker.setdefault("in_flight", worker["slots_total"] - worker.get("slots_available", worker["slots_total"]))
        worker.setdefault("slots_available", max(0, worker["slots_total"] - worker["in_flight"]))
        if worker["status"] == "ready" and worker["slots_available"] == 0 and worker["slots_total"] > 0:
            worker["status"] = "busy"
        if "pool_id" in worker:
            rows["pools"].setdefault(str(worker["pool_id"]), {"gpus": []})
        if "model" in worker:
            rows["models"].setdefault(str(worker["model"]), {})
    for order, job in enumerate(rows["jobs"].values(), start=1):
        job.setdefault("order", order)
        job.setdefault("type", "text-gen")
        job.setdefault("priority", "interactive")
        job.setdefault("submit_ms", now_ms)
        if "model" in job:
            rows["models"].setdefault(str(job["model"]), {})
    for pool_id, pool in rows["pools"].items():
        pool.setdefault("status", "healthy")
        pool.setdefault("cached_models", sorted(rows["models"]))
        for gpu in pool["gpus"]:
            gpu.setdefault("pool_id", pool_id)
            gpu.setdefault("vram_free", gpu.get("vram_total"))

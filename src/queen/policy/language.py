"""A Lua state with the prelude, the queen's state as rows, and one policy loaded.

Both the sandbox process and the offline tools (validate, test, simulate) run policies by this. Nothing of Python can be
reached from Lua: only plain values go in, and only decisions, texts and numbers come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

from lupa import lua54

from queen.policy import prelude

MAX_MEMORY_MB: Final = 64
DEADLINE_MS: Final = 50.0

Rows = Literal["jobs", "workers", "pools", "tenants", "models", "metrics", "config"]


@dataclass(frozen=True, slots=True)
class PolicyError:
    """What is wrong with a policy: a text with file, line and source line, and the frames it happened in."""

    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Decided:
    """One checked decision. `action` is dispatch, wait, start_worker, evict or reject; absent fields are None."""

    action: str
    job_id: str | None = None
    worker_id: str | None = None
    model_ref: str | None = None
    pool_id: str | None = None
    gpu_id: str | None = None
    reason: str | None = None
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """What a policy said of a candidate: why it does not get the job, or its score. A place has no `worker_id`."""

    job_id: str
    worker_id: str | None = None
    pool_id: str | None = None
    reason: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line a policy logged; `level` is debug, info, warn or error."""

    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A number a policy emitted."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call came to. With an `error` there are no decisions.

    `undecided` jobs were not looked at because the cycle had used its time. `answer` is what should_admit or
    should_retry said; None when the policy has no such function or left it open.
    """

    decisions: tuple[Decided, ...] = ()
    error: PolicyError | None = None
    explained: tuple[Explained, ...] = ()
    logs: tuple[LogLine, ...] = ()
    dropped_logs: int = 0
    metrics: tuple[Metric, ...] = ()
    undecided: int = 0
    answer: bool | None = None
    answer_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """The fields of one thing policies see; `aliases` maps second names to first ones, `raw` are further ones."""

    fields: tuple[str, ...]
    raw: tuple[str, ...]
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Helper:
    """What a helper takes: kinds and Lua types by commas, `|` for or, `?` for what may be left out."""

    group: str
    signature: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Everything a policy can name. `names` are all globals, `lua` those of Lua itself, `libraries` their members."""

    kinds: Mapping[str, Kind]
    helpers: Mapping[str, Helper]
    methods: frozenset[str]
    names: frozenset[str]
    lua: frozenset[str]
    libraries: Mapping[str, frozenset[str]]


class Program:
    """A policy ready to decide. State persists between calls and is patched; decisions do not change it.

    `max_memory_mb` bounds the heap of state and policy together. `explains` False: nobody reads what policies say of
    candidates, and `Outcome.explained` stays empty.
    """

    def __init__(self, *, max_memory_mb: int = MAX_MEMORY_MB, explains: bool = True) -> None:
        self._lua = lua54.LuaRuntime(
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
            attribute_filter=_deny,
            max_memory=max_memory_mb * 2**20,
        )
        for name, source in prelude.sources():
            self._lua.execute(source, name=f"=prelude/{name}", mode="t")
        names = self._lua.globals()
        names.rbee.unexplained = not explains
        self._put, self._remove, self._queue = names.rbee_put, names.rbee_remove, names.rbee_queue
        self._load, self._load_platform, self._unload = names.rbee_load, names.rbee_load_platform, names.rbee_unload
        self._decide, self._decide_platform = names.rbee_decide, names.rbee_decide_platform
        self._call, self._entry_points = names.rbee_call, names.rbee_entry_points

    def load(self, source: str, name: str) -> PolicyError | None:
        """Loads a policy in place of the one before, which stays when something is wrong; returns what."""
        return _failure(self._guarded(self._load, source, name))

    def unload(self) -> None:
        """Forgets the loaded policy; the platform policy decides."""
        self._unload()

    def load_platform(self, source: str) -> PolicyError | None:
        """Loads the platform policy: what platform.schedule runs, and what decides while no policy is loaded."""
        return _failure(self._guarded(self._load_platform, source))

    def entry_points(self) -> frozenset[str]:
        """Returns which entry points the loaded policy defines, the platform policy while none is loaded."""
        return frozenset(self._entry_points().values())

    def put(self, rows: Rows, row_id: str, changes: Mapping[str, Any], absent: Sequence[str] = ()) -> None:
        """Merges fields into a row, made if it is new; `absent` fields become nil. In order of ids it is quickest.

        Values are texts, numbers, booleans, and lists and maps of them. Metrics and config have the id "".
        """
        table = self._lua.table_from({**changes, "__absent": list(absent)} if absent else changes, recursive=True)
        self._put(rows, row_id, table)

    def remove(self, rows: Rows, row_id: str) -> None:
        """Removes a row; one that is not there is no error."""
        self._remove(rows, row_id)

    def queue(self, job_ids: Sequence[str]) -> None:
        """Sets the queue order; ids without a row are left out."""
        self._queue(self._lua.table_from(list(job_ids)))

    def decide(self, now_ms: int, seed: int, deadline_ms: float = DEADLINE_MS) -> Outcome:
        """Returns what the loaded policy decides about the queue; the platform policy if none is loaded."""
        return _outcome(self._guarded(self._decide, now_ms, seed, deadline_ms))

    def decide_platform(self, now_ms: int, seed: int, deadline_ms: float = DEADLINE_MS) -> Outcome:
        """Returns what the platform policy decides about the queue."""
        return _outcome(self._guarded(self._decide_platform, now_ms, seed, deadline_ms))

    def call(
        self, name: str, args: Mapping[str, Any], now_ms: int, seed: int, deadline_ms: float = DEADLINE_MS
    ) -> Outcome:
        """Returns what should_admit, should_retry or on_idle says. `args`: job_id, attempt, error (text or map)."""
        table = self._lua.table_from(args, recursive=True)
        return _outcome(self._guarded(self._call, name, table, now_ms, seed, deadline_ms))

    def vocabulary(self) -> Vocabulary:
        """Returns everything a policy can name."""
        found = self._lua.globals().rbee_vocabulary()
        return Vocabulary(
            kinds={
                name: Kind(tuple(kind.fields.values()), tuple(kind.raw.values()), dict(kind.aliases))
                for name, kind in found.kinds.items()
            },
            helpers={name: Helper(**dict(helper)) for name, helper in found.helpers.items()},
            methods=frozenset(found.methods.values()),
            names=frozenset(found.names.values()),
            lua=frozenset(found.lua.values()),
            libraries={name: frozenset(names.values()) for name, names in found.libraries.items()},
        )

    @property
    def memory_used_bytes(self) -> int:
        """Size of the heap, bytes."""
        return int(self._lua.get_memory_used(total=True))

    def _guarded(self, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except lua54.LuaMemoryError:
            self._lua.gccollect()
            return "policy exceeded its memory"


def _deny(_obj: object, _name: object, _setting: bool) -> NoReturn:
    raise AttributeError("nothing of Python is reachable from policies")


def _failure(problem: str | None) -> PolicyError | None:
    return None if problem is None else PolicyError(problem)


def _outcome(report: Any) -> Outcome:
    if isinstance(report, str):
        return Outcome(error=PolicyError(report))
    found = dict(report)
    error = found.get("error")
    return Outcome(
        decisions=tuple(Decided(**row) for row in _rows(found.get("decisions"))),
        error=PolicyError(error, found.get("traceback") or "") if error is not None else None,
        explained=tuple(Explained(**row) for row in _rows(found.get("explained"))),
        logs=tuple(LogLine(**row) for row in _rows(found.get("logs"))),
        dropped_logs=found["dropped_logs"],
        metrics=tuple(Metric(**row) for row in _rows(found.get("metrics"))),
        undecided=found.get("undecided", 0),
        answer=found.get("answer"),
        answer_reason=found.get("answer_reason"),
    )


def _rows(table: Any) -> list[dict[str, Any]]:
    return [] if table is None else [dict(row) for row in table.values()]

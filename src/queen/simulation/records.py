"""What a run leaves behind: what became of each job, and levels over time by worker, device and queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from queen.core.model import Decision, Failure, JobState
from queen.scheduler.policy import PolicyStanding
from queen.simulation.cluster_file import ClusterPlan
from queen.simulation.workload import Request


@dataclass(slots=True)
class Level:
    """A count that goes up and down. `above_zero_s` and `area_s` (its integral) hold up to the last change."""

    value: int = 0
    since: float = 0.0
    above_zero_s: float = 0.0
    area_s: float = 0.0
    changes: list[tuple[float, int]] = field(default_factory=list)

    def add(self, change: int, now: float) -> None:
        """Changes the count at a time not before the last one."""
        if self.value:
            self.above_zero_s += now - self.since
            self.area_s += self.value * (now - self.since)
        self.since = now
        self.value += change
        self.changes.append((now, self.value))


@dataclass(slots=True)
class DeviceRecord:
    """What happened on one device: workers that hold memory of it, jobs that run on it."""

    hive_id: str
    device_id: str
    kind: str
    gpu: bool
    workers: Level = field(default_factory=Level)
    jobs: Level = field(default_factory=Level)


@dataclass(slots=True)
class WorkerRecord:
    """What happened to one worker. `ready` and `end` are None as long as it loads, and lives.

    `started`: a decision started it; the others are there when the run begins.
    """

    worker_id: str
    device: DeviceRecord
    model: str
    slots: int
    memory_mb: int
    start: float
    started: bool
    ready: float | None = None
    end: float | None = None
    end_reason: str = ""
    jobs: Level = field(default_factory=Level)
    completed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What became of one request. Times in seconds; None where it did not come so far.

    `contended`: it was given to a worker while at least two tenants had jobs waiting. `decision` is the newest one.
    """

    id: str
    request: Request
    state: JobState
    hive_id: str = ""
    worker_id: str = ""
    device_kind: str = ""
    dispatch_time: float | None = None
    first_token_time: float | None = None
    end_time: float | None = None
    failure: Failure | None = None
    contended: bool = False
    decision: Decision | None = None

    @property
    def wait_s(self) -> float | None:
        """How long it waited in the queue."""
        return None if self.dispatch_time is None else self.dispatch_time - self.request.arrival

    @property
    def first_token_s(self) -> float | None:
        """How long after its submission the first token came."""
        return None if self.first_token_time is None else self.first_token_time - self.request.arrival


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a run left behind. `weights` are the tenants' in fair shares; `refused` counts the applier's no.

    `machines` is the number of workers on each machine; `standing` says whether a Lua policy failed.
    """

    plan: ClusterPlan
    policy: str
    policy_version: str
    begin: float
    end: float
    jobs: tuple[JobOutcome, ...]
    workers: tuple[WorkerRecord, ...]
    devices: tuple[DeviceRecord, ...]
    queue: Level
    machines: Mapping[str, Level]
    weights: Mapping[str, float]
    cycles: int
    refused: Mapping[str, int]
    standing: PolicyStanding | None

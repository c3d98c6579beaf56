"""The nouns of the queen as plain values. Times are seconds since 1970 UTC, spans seconds, memory MB (2^20 bytes)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands; see docs/states.md."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


RESTING_STATES = frozenset({JobState.COMPLETE, JobState.FAILED, JobState.CANCELLED})


class Priority(StrEnum):
    """How urgent a job is."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class JobType(StrEnum):
    """What a job asks of a model, in the words policies use."""

    TEXT_GEN = "text-gen"
    EMBEDDING = "embedding"


class WorkerState(StrEnum):
    """Where a worker stands; see docs/states.md."""

    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    FAILED = "failed"


class HiveState(StrEnum):
    """Where a hive stands; see docs/states.md."""

    REGISTERED = "registered"
    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    OFFLINE = "offline"


class Action(StrEnum):
    """What a decision does."""

    DISPATCH = "dispatch"
    WAIT = "wait"
    START_WORKER = "start_worker"
    EVICT = "evict"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job or an attempt failed; `code` is the google.rpc.Code its caller gets."""

    reason: str
    message: str
    code: int
    retriable: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a job on one worker."""

    number: int
    worker_id: str
    hive_id: str
    dispatch_time: float
    end_time: float | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one job, each counted once."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StageLimits:
    """Longest times of a job, in all and by stage, seconds; None: the total alone counts.

    `by_caller`: the total is what its caller's own deadline left.
    """

    total_s: float = 300.0
    queue_s: float | None = None
    start_s: float = 300.0
    first_token_s: float | None = None
    stall_s: float = 60.0
    by_caller: bool = False


@dataclass(frozen=True, slots=True)
class Asks:
    """What a job asks for as policies may know it, never its prompt. `prompt_tokens` is an estimate.

    `prefix_hash` is of the prompt's beginning; `user_geo` has latitude, longitude and region where they are known.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    prompt_hash: str = ""
    prefix_hash: str = ""
    prompt_tokens: int | None = None
    user_geo: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A job without its prompt. `order` is its place among all jobs ever accepted."""

    id: str
    order: int
    model: str
    model_ref: str
    submit_time: float
    request_id: str = ""
    state: JobState = JobState.QUEUED
    type: JobType = JobType.TEXT_GEN
    priority: Priority = Priority.INTERACTIVE
    tenant_id: str = ""
    session_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    detached: bool = False
    no_failover: bool = False
    timeout_s: float = 300.0
    first_token_time: float | None = None
    end_time: float | None = None
    attempts: tuple[Attempt, ...] = ()
    usage: Usage | None = None
    finish_reason: str = ""
    failure: Failure | None = None
    trace_id: str = ""
    seed: int | None = None
    asks: Asks = field(default_factory=Asks)

    @property
    def facts(self) -> dict[str, str]:
        """What a log line about it carries beside its text."""
        return {"job_id": self.id, "trace_id": self.trace_id}

    @property
    def resting(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in RESTING_STATES

    @property
    def queued_since(self) -> float:
        """When it entered the queue the last time: by its submission, or when its newest attempt had failed."""
        ended = self.attempts[-1].end_time if self.attempts else None
        return self.submit_time if ended is None else ended

    @property
    def attempt(self) -> Attempt:
        """The newest attempt; the job must have been dispatched."""
        return self.attempts[-1]


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or a machine's processor. None means not known, never 0."""

    id: str
    name: str
    backend: str
    uuid: str = ""
    compute_capability: str = ""
    memory_total_mb: int | None = None
    memory_free_mb: int | None = None
    memory_foreign_mb: int | None = None
    utilization_percent: float | None = None
    temperature_celsius: float | None = None
    power_draw_watts: float | None = None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file on one machine. Numbers are 0 where it does not say; `defect` is "" when it can be loaded."""

    model_ref: str
    name: str
    family: str = ""
    parameter_count: int = 0
    context_length: int = 0
    quantization: str = ""
    file_size_bytes: int = 0
    modify_time: float = 0.0
    block_count: int = 0
    kv_bytes_per_token: int = 0
    defect: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How a worker is to be started. `context_length` 0 is the model's own."""

    worker_id: str
    model_ref: str
    engine: str = "llamacpp"
    slots: int = 4
    context_length: int = 0
    device_ids: tuple[str, ...] = ()
    memory_mb: int = 0
    engine_options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """How a worker's process ended; a negative code is the signal that killed it."""

    exit_code: int
    last_lines: tuple[str, ...]
    exit_time: float


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as its hive reports it. The queen's own knowledge of it (slots taken, pins) is kept beside it.

    `doubtful`: the queen is not sure what it runs: it is new to her, or a stream to it broke off.
    """

    id: str
    hive_id: str
    spec: WorkerSpec
    state: WorkerState = WorkerState.LOADING
    address: str = ""
    backend: str = ""
    pid: int = 0
    slots_total: int = 0
    context_length: int = 0
    cpu_pct: float | None = None
    rss_mb: int | None = None
    gpu_util_pct: float | None = None
    vram_mb: int | None = None
    total_vram_mb: int | None = None
    start_time: float = 0.0
    sample_time: float = 0.0
    exit: WorkerExit | None = None
    doubtful: bool = False

    @property
    def model_ref(self) -> str:
        """Reference of the model it has loaded."""
        return self.spec.model_ref


@dataclass(frozen=True, slots=True)
class Hive:
    """A machine's agent as the queen knows it; devices and models as it last reported them.

    `was_online`: it was heard of when the queen before this one ended.
    `geo` has latitude, longitude (degrees) and region where they are known.
    """

    id: str
    state: HiveState = HiveState.REGISTERED
    address: str = ""
    managed: bool = False
    instance_id: str = ""
    platform: str = ""
    version: str = ""
    pid: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    models: tuple[ModelFile, ...] = ()
    disk_free_bytes: int | None = None
    ram_free_mb: int | None = None
    last_report_time: float | None = None
    was_online: bool = False
    geo: Mapping[str, float | str] = field(default_factory=dict)
    cost_per_token: float | None = None

    @property
    def online(self) -> bool:
        """Whether it is heard of: healthy or degraded."""
        return self.state in (HiveState.HEALTHY, HiveState.DEGRADED)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker, or a machine as a place for a new worker, that was considered; "" as reason means eligible.

    `alike` above 0: it stands for so many that are not named, of one reason; hive and worker are "".
    """

    hive_id: str
    worker_id: str = ""
    reject_reason: str = ""
    score: float | None = None
    alike: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a scheduler wants done about one job. It takes effect only when the applier finds nothing against it."""

    job_id: str
    action: Action
    reason: str
    worker_id: str = ""
    hive_id: str = ""
    spec: WorkerSpec | None = None
    candidates: tuple[Candidate, ...] = ()
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of a job: whether it may come in, or be tried again, and why ("" when it does not say).

    `policy` and `policy_version` are who says so.
    """

    yes: bool = True
    reason: str = ""
    policy: str = ""
    policy_version: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A proposal with who made it, when, how long it took, and why the applier refused it ("" when it took effect)."""

    id: str
    proposal: Proposal
    policy: str
    policy_version: str
    decide_time: float
    duration_s: float
    refusal: str = ""

"""What the queen's parts ask of each other. Implementations live in the other rooms; core knows only these shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal, Protocol

from queen.core.model import Asks, Decision, Hive, Job, JobState, ModelFile, Proposal, Verdict, Worker
from queen.core.tenants import Load, Tenant, TenantUsage
from queen.core.versions import PolicyActivation, PolicyVersion

Touched = tuple[Literal["hive", "worker"], str]
"""What changed, by id: seen, heard of anew, given a job, gone."""


class ModelsView(Protocol):
    """Which models there are. `revision` is another after each change."""

    revision: int

    def list_models(self) -> list[tuple[str, dict[str, ModelFile]]]:
        """Returns (reference, files by hive) of all models held somewhere, by name."""
        ...


class ClusterView(Protocol):
    """What is there, as last reported; answers queries and decides nothing."""

    @property
    def models(self) -> ModelsView:
        """Which models there are."""
        ...

    @property
    def min_residency_s(self) -> float:
        """How long a worker is not to be evicted after its start, seconds."""
        ...

    def watch(self) -> set[Touched]:
        """Returns a set that from now on gets whatever is touched, and has all there is; its owner empties it."""
        ...

    def get_hive(self, hive_id: str) -> Hive | None:
        """Returns a hive by name, online or not."""
        ...

    def get_worker(self, worker_id: str) -> Worker | None:
        """Returns a worker of an online hive."""
        ...

    def list_online_hives(self) -> list[Hive]:
        """Returns the hives that are heard of, by name."""
        ...

    def list_online_workers(self) -> list[Worker]:
        """Returns the workers of online hives, by id."""
        ...

    def find_workers_with_model(self, model_ref: str) -> list[Worker]:
        """Returns the online workers that have a model loaded or are loading it, by id."""
        ...

    def find_workers_on(self, hive_id: str) -> list[Worker]:
        """Returns the workers of an online hive, by id."""
        ...

    def slots_available(self, worker_id: str) -> int:
        """Returns how many slots of a worker no job has reserved."""
        ...

    def idle_since(self, worker_id: str) -> float | None:
        """Returns when a worker's last job ended; None while one runs or when none ever ran."""
        ...

    def jobs_completed(self, worker_id: str) -> int:
        """Returns how many jobs a worker has completed."""
        ...

    def avg_tokens_per_sec(self, worker_id: str) -> float | None:
        """Returns how fast a worker was over its recent jobs; None before the first."""
        ...

    def is_pinned(self, worker_id: str) -> bool:
        """Returns whether a worker must not be evicted."""
        ...

    def find_file(self, model_ref: str, hive_id: str) -> ModelFile | None:
        """Returns a model's file as that hive names it; None where the hive has none."""
        ...

    def loading_claims_mb(self, hive_id: str) -> dict[str, int]:
        """Returns memory booked for workers that do not show in free memory yet, MB by device id."""
        ...


class TenantsView(Protocol):
    """Who shares the cluster, and what each has of it."""

    def find(self, tenant_id: str) -> Tenant | None:
        """Returns a tenant by its id."""
        ...

    def load(self, tenant_id: str, now: float) -> Load:
        """Returns what a tenant has now."""
        ...


class JobScheduler(Protocol):
    """Answers which worker serves which job. It only proposes.

    `name` and `version` are those of the policy that decided last; `fallback`: why it was not the active one, else "".
    """

    name: str
    version: str
    fallback: str

    async def decide(self, queue: Sequence[Job], cluster: ClusterView, now: float) -> list[Proposal]:
        """Returns at most one proposal per job; a job without one waits. `queue` is in queue order."""
        ...


class PolicyInCharge(Protocol):
    """What the policy that decides is asked beside its decisions. `queue` is in queue order.

    It is asked only what it `answers`, so that a policy without opinions costs nothing. One that fails says yes, and
    has nothing to propose.
    """

    def answers(self, entry_point: str) -> bool:
        """Returns whether it has an entry point: "should_admit", "should_retry" or "on_idle"."""
        ...

    async def should_admit(self, job: Job, queue: Sequence[Job], cluster: ClusterView, now: float) -> Verdict:
        """Returns whether a job may join the queue; it is not in `queue` yet."""
        ...

    async def should_retry(
        self, job: Job, queue: Sequence[Job], cluster: ClusterView, now: float, error: str
    ) -> Verdict:
        """Returns whether a job may be tried again. `error` is the reason of its newest attempt's failure."""
        ...

    async def on_idle(self, queue: Sequence[Job], cluster: ClusterView, now: float) -> list[Proposal]:
        """Returns starts and evictions for a time when nothing can be given to a worker.

        A proposal to wait, about no job, says when to ask again.
        """
        ...


class RetryAdvice(Protocol):
    """Whether a policy lets a job be tried again."""

    def answers(self, entry_point: str) -> bool:
        """Returns whether there is anybody to ask: "should_retry"."""
        ...

    async def may_try_again(self, job: Job, error: str) -> Verdict:
        """Returns what should_retry says of a job whose newest attempt failed, `error` being the failure's reason."""
        ...


class Dispatcher(Protocol):
    """Runs a job that was given to a worker."""

    def dispatch(self, job_id: str, worker: Worker) -> None:
        """Starts running a job whose slot is reserved; returns at once."""
        ...


class WorkerStarter(Protocol):
    """Starts workers, and stops those that are evicted; concurrent wishes for one model share one start."""

    def start_for(self, proposal: Proposal) -> None:
        """Starts the worker a proposal asks for, on behalf of its job if it names one; returns at once."""
        ...

    def evict(self, proposal: Proposal) -> None:
        """Stops the idle worker a proposal names, in order; returns at once."""
        ...

    def tell_waiting(self, job_id: str) -> None:
        """Tells a waiting job that a worker is being started for its model, if one is and it was not told."""
        ...


class Journal(Protocol):
    """Where changes are written. Writes return when they are accepted."""

    def save_job(self, job: Job) -> None:
        """Writes a job's newest state."""
        ...

    def save_request(self, job_id: str, spec: bytes) -> None:
        """Keeps what a job asks for until the job ends."""
        ...

    def drop_request(self, job_id: str) -> None:
        """Forgets what a job asked for, unless it is to be kept as long as the job."""
        ...

    def save_output(self, job_id: str, first_sequence: int, frames: Sequence[bytes]) -> None:
        """Keeps a job's events, serialised; the first has that sequence. Replaces what was kept before."""
        ...

    def drop_output(self, job_id: str) -> None:
        """Forgets a job's events."""
        ...

    def save_decision(self, decision: Decision) -> None:
        """Writes a decision."""
        ...


class Store(Journal, Protocol):
    """What survives the queen. `flush` returns when what was accepted before is on disk."""

    def save_hive(self, hive: Hive) -> None:
        """Writes a hive as registered, and whether it is online."""
        ...

    def save_policy(self, policy: PolicyVersion) -> None:
        """Writes a version of a policy."""
        ...

    def save_activation(self, activation: PolicyActivation) -> None:
        """Writes who is in charge from now on, or suspended."""
        ...

    def check_writable(self) -> None:
        """Raises `Unreachable` STORAGE_UNAVAILABLE while writes fail."""
        ...

    async def flush(self) -> None:
        """Returns when everything saved before is on disk; raises `Unreachable` STORAGE_UNAVAILABLE when it cannot."""
        ...

    async def get_job(self, job_id: str) -> Job | None:
        """Returns a job as last written."""
        ...

    async def find_job(self, request_id: str) -> Job | None:
        """Returns the job a request id was used for."""
        ...

    async def find_jobs(self, request_ids: Collection[str]) -> dict[str, Job]:
        """Returns the jobs request ids were used for, by these; unknown ones are left out."""
        ...

    async def list_jobs(
        self, *, states: Collection[JobState], tenant_id: str, model: str, before_order: int | None, limit: int
    ) -> list[Job]:
        """Returns jobs newest first, those accepted before `before_order`. Empty filters let all pass."""
        ...

    async def get_output(self, job_id: str) -> tuple[int, list[bytes]] | None:
        """Returns the sequence of the first event kept of a job, and the events from there; None when none are kept."""
        ...

    async def list_decisions(self, job_id: str, limit: int) -> list[Decision]:
        """Returns a job's decisions, oldest first."""
        ...

    async def find_decisions(
        self, *, job_id: str, policy: str, before: tuple[float, str] | None, limit: int
    ) -> list[Decision]:
        """Returns decisions newest first, those made before a (time, id). Empty filters let all pass."""
        ...

    def save_tenant(self, tenant: Tenant) -> None:
        """Writes a tenant."""
        ...

    def save_usage(self, tenant_id: str, day: int, usage: TenantUsage) -> None:
        """Writes what a tenant used on a day, replacing what was known of it. Days count from 1970, UTC."""
        ...

    async def list_tenants(self) -> list[Tenant]:
        """Returns the tenants as last written, by id."""
        ...

    async def usage_of(self, first_day: int, last_day: int) -> dict[str, TenantUsage]:
        """Returns what each tenant used from one day to another, both included."""
        ...

    async def served(self) -> dict[str, int]:
        """Returns each tenant's counter of fair shares as last written."""
        ...

    async def load_unfinished(self, read: Callable[[bytes], Asks]) -> list[tuple[Job, bytes]]:
        """Returns the jobs that were not at rest with what they ask for, in the order they were accepted.

        `read` tells of that what policies may know.
        """
        ...

    async def last_order(self) -> int:
        """Returns the highest `order` ever given; 0 for an empty store."""
        ...

    async def list_policies(self, name: str = "") -> list[PolicyVersion]:
        """Returns all versions of all policies, or of one, by name and time."""
        ...

    async def list_activations(self) -> list[PolicyActivation]:
        """Returns who was put in charge or suspended, oldest first."""
        ...

    async def list_hives(self) -> list[Hive]:
        """Returns the registered hives, by name; `was_online` is as last saved."""
        ...

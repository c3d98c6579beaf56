"""What is counted and measured of jobs, decisions and workers, once for each: nothing is done when a token passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from queen.core.model import Attempt, Decision, Job, JobState, JobType
from queen.metrics.instruments import OTHER, Bounded, Counter, Histogram, Instrument
from queen.registry.catalogue import ModelCatalogue
from wire.errors import RbeeError

MOST_MODELS: Final = 200
MOST_POLICIES: Final = 100
MOST_REASONS: Final = 200
"""Models, policies and reasons told apart; what comes beyond is "other". Reasons are the code's own, some 60."""

SYNTHETIC: Final = "synthetic"
"""The model label of all synthetic models: anybody may name one."""

MODEL: Final = "gen_ai.request.model"
TENANT: Final = "rbee.tenant.id"
PRIORITY: Final = "rbee.job.priority"
POLICY: Final = "rbee.policy"
ERROR: Final = "error.type"

# The buckets that OpenTelemetry's GenAI conventions advise.
_FIRST_S: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_BETWEEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_WHOLE_S: Final = tuple(round(0.01 * 2**step, 2) for step in range(14))
_TOKENS: Final = tuple(float(4**step) for step in range(14))
# Waits last up to the longest job's 1800 s, decisions and pauses of the loop around the 50 ms a policy has.
_WAIT_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
SHORT_S: Final = (0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class CountedJob(Protocol):
    """A job that something happened to."""

    @property
    def job(self) -> Job:
        """The job as it is now."""
        ...


class ModelNames:
    """Model labels: the names of models that hives hold; `SYNTHETIC`, and `OTHER` for all else."""

    def __init__(self, models: ModelCatalogue) -> None:
        self._models = models
        self._named: dict[str, str] = {}
        self._bounded = Bounded(MOST_MODELS)

    def __call__(self, model_ref: str) -> str:
        """Returns the label of a model; it stays the same when no hive holds the model any more."""
        known = self._named.get(model_ref)
        if known is not None:
            return known
        if model_ref.startswith("synthetic:"):
            return SYNTHETIC
        name = self._models.name_of(model_ref)
        if name == model_ref or (label := self._bounded(name)) == OTHER:
            return OTHER
        self._named[model_ref] = label
        return label


class JobMetrics:
    """Counts what happens. `model_name` is the label of a model reference; `on` False: nobody looks, so nothing counts.

    Tenants are those that were created: a job of another does not come in.
    """

    def __init__(self, model_name: Callable[[str], str], *, on: bool = True) -> None:
        self._on = on
        self._model = model_name
        self._policy = Bounded(MOST_POLICIES)
        self._reason = Bounded(MOST_REASONS)
        self._admitted = Counter("rbee.jobs.admitted", "{job}", "Jobs that were let into the queue", PRIORITY, TENANT)
        self._refused = Counter("rbee.jobs.refused", "{job}", "Jobs that were not let in, by reason", ERROR)
        self._ended = Counter(
            "rbee.jobs.ended", "{job}", "Jobs that came to rest, by state and reason", "rbee.job.state", ERROR, TENANT
        )
        self._wait = Histogram(
            "rbee.queue.wait", "s", "Stays in the queue that ended with a dispatch", PRIORITY, TENANT, bounds=_WAIT_S
        )
        self._decision = Histogram(
            "rbee.decision.duration",
            "s",
            "Time of a scheduling cycle for each job in it, of decisions that were news",
            POLICY,
            bounds=SHORT_S,
        )
        self._decided = Counter(
            "rbee.decisions", "{decision}", "Decisions about jobs that were news", POLICY, "rbee.decision.action"
        )
        self._vetoed = Counter(
            "rbee.decisions.refused", "{decision}", "Decisions about jobs that the applier refused", POLICY
        )
        self._fallback = Counter(
            "rbee.decisions.fallback", "{decision}", "Decisions that the active policy did not make, by why", ERROR
        )
        self._dispatched = Counter(
            "rbee.dispatches", "{attempt}", "Attempts on workers that ended, by outcome", "rbee.dispatch.outcome"
        )
        self._first = Histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "From a job's submission to its first token, the queue included",
            MODEL,
            bounds=_FIRST_S,
        )
        self._between = Histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            "Time between two tokens of an answer, its mean once for each",
            MODEL,
            bounds=_BETWEEN_S,
        )
        self._whole = Histogram(
            "gen_ai.server.request.duration", "s", "From a job's submission to its end", MODEL, ERROR, bounds=_WHOLE_S
        )
        self._usage = Histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens of a job", MODEL, "gen_ai.token.type", bounds=_TOKENS
        )
        self._tokens = Counter("rbee.tokens", "{token}", "Tokens in and out", TENANT, "gen_ai.token.type")
        self._starts = Counter(
            "rbee.worker.starts", "{worker}", "Starts of workers that ended, by reason where they failed", MODEL, ERROR
        )
        self._evictions = Counter("rbee.worker.evictions", "{worker}", "Workers stopped to make room", MODEL)

    @property
    def instruments(self) -> list[Instrument]:
        """All of them."""
        return [one for one in vars(self).values() if isinstance(one, Counter | Histogram)]

    # --- at the door ---

    def admitted(self, job: Job) -> None:
        """Counts a job that was let in."""
        if self._on:
            self._admitted.add(1, job.priority.value, job.tenant_id)

    def refused(self, error: RbeeError) -> None:
        """Counts a job that was not."""
        if self._on:
            self._refused.add(1, self._reason(error.reason))

    # --- in the queue ---

    def decided(self, _: CountedJob, decision: Decision, fallback: str) -> None:
        """Counts a decision about a job; `fallback`: why the active policy did not make it, "" when it did."""
        if not self._on:
            return
        policy = self._policy(decision.policy)
        self._decision.record(decision.duration_s, policy)
        self._decided.add(1, policy, decision.proposal.action.value)
        if decision.refusal:
            self._vetoed.add(1, policy)
        if fallback:
            self._fallback.add(1, self._reason(fallback))

    def moved(self, live: CountedJob, before: Job) -> None:
        """Counts what is over now that a job is what it is, and was `before`."""
        if not self._on:
            return
        job = live.job
        if len(job.attempts) > len(before.attempts) and before.state is JobState.QUEUED:
            waited = max(0.0, job.attempt.dispatch_time - before.queued_since)
            self._wait.record(waited, job.priority.value, job.tenant_id)
        if job.first_token_time is not None and before.first_token_time is None:
            self._first.record(max(0.0, job.first_token_time - job.submit_time), self._model(job.model_ref))
        if before.attempts and before.attempts[-1].end_time is None and job.attempt.end_time is not None:
            self._dispatched.add(1, self._outcome(job, job.attempt))
        if job.resting:
            self._rested(job)

    def _outcome(self, job: Job, attempt: Attempt) -> str:
        """Returns "complete", "cancelled", or the reason of an attempt's failure."""
        return job.state.value if attempt.failure is None else self._reason(attempt.failure.reason)

    def _rested(self, job: Job) -> None:
        model, error = self._model(job.model_ref), "" if job.failure is None else self._reason(job.failure.reason)
        end, usage = job.end_time or job.submit_time, job.usage
        self._ended.add(1, job.state.value, error, job.tenant_id)
        self._whole.record(max(0.0, end - job.submit_time), model, error or _cancelled(job))
        if usage is None:
            return
        for kind, tokens in (("input", usage.prompt_tokens), ("output", usage.completion_tokens)):
            self._usage.record(tokens, model, kind)
            self._tokens.add(tokens, job.tenant_id, kind)
        if job.first_token_time is not None and usage.completion_tokens > 1 and job.type is JobType.TEXT_GEN:
            spent = max(0.0, end - job.first_token_time)
            self._between.record(spent / (usage.completion_tokens - 1), model)

    # --- workers ---

    def worker_started(self, model_ref: str, error: RbeeError | None = None) -> None:
        """Counts a start that came to its end; `error`: why it failed."""
        if self._on:
            self._starts.add(1, self._model(model_ref), "" if error is None else self._reason(error.reason))

    def evicted(self, model_ref: str) -> None:
        """Counts a worker that has to make room."""
        if self._on:
            self._evictions.add(1, self._model(model_ref))


def _cancelled(job: Job) -> str:
    return "JOB_CANCELLED" if job.state is JobState.CANCELLED else ""

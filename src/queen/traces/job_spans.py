"""The spans of jobs, made of what is known of them once a step is over: the queue, an attempt, the whole life.

Their ids are made of the job's: a queen who takes a job over goes on with the trace the one before had begun, and a
step that both record is one and the same. Nothing is kept while a job waits, and nothing is done when a token passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Protocol

from opentelemetry.context import Context

from queen.core.model import Candidate, Decision, Job, JobState
from wire import telemetry
from wire.errors import RbeeError
from wire.spans import Kind, Link, Recorder, Span, nanoseconds

MOST_CANDIDATES: Final = 32
"""Candidates told of one decision; `rbee why` names the others."""

QUEEN: Final = "queen-rbee"
"""The program whose spans these are."""

CANCELLED: Final = "JOB_CANCELLED"


class TracedJob(Protocol):
    """A job and what its caller said of the trace: the span it is a part of (0: none), and whether it is sampled."""

    @property
    def job(self) -> Job:
        """The job as it is now."""
        ...

    @property
    def parent_span(self) -> int:
        """Id of the caller's span."""
        ...

    @property
    def sampled(self) -> bool:
        """Whether the trace is exported in any case."""
        ...


def infer_context(live: TracedJob) -> Context:
    """Returns the context of what is done for a job as a whole."""
    return telemetry.within(_trace(live.job), _id(live.job, telemetry.SPAN_INFER), sampled=live.sampled)


def attempt_context(live: TracedJob) -> Context:
    """Returns the context of a job's newest attempt: the worker's spans are its children."""
    span_id = _id(live.job, telemetry.SPAN_ATTEMPT, live.job.attempt.number)
    return telemetry.within(_trace(live.job), span_id, sampled=live.sampled)


class JobSpans:
    """Records what happens to jobs. `on` False: nothing is recorded, for nobody keeps or collects it."""

    def __init__(self, recorder: Recorder, *, on: bool = True) -> None:
        assert recorder.roots is not None, "traces may begin at the queen"
        self._recorder = recorder
        self._sampler = recorder.roots
        self._on = on

    # --- at the door ---

    def joined(self) -> tuple[int, int, bool]:
        """Returns the trace a new job belongs to: that of its caller, else a new one; its parent; whether sampled."""
        caller = telemetry.current()
        number = caller.trace_id if caller.is_valid else telemetry.new_trace_id()
        parent = caller.span_id if caller.is_valid else 0
        return number, parent, self._sampler.samples(number, caller)

    def samples(self, trace_id: str) -> bool:
        """Tells whether the trace of a job of an earlier queen is sampled: as if it began here."""
        return self._sampler.samples(int(trace_id or "0", 16))

    def now_ns(self) -> int:
        """Returns the time as spans have it."""
        return self._recorder.now_ns()

    def admitted(self, live: TracedJob, begun_ns: int) -> None:
        """Records how long a job was looked at before it was let in. One that was there before is left alone."""
        if self._on and nanoseconds(live.job.submit_time) >= begun_ns:
            self._sink(self._step(live, telemetry.SPAN_ADMISSION, begun_ns, nanoseconds(live.job.submit_time)))

    def refused(self, model: str, begun_ns: int, error: RbeeError) -> None:
        """Records a job that was not let in. It has no id, so only who collects, or its caller, can look for it."""
        if not self._on:
            return
        number, parent, sampled = self.joined()
        whole = self._span(telemetry.SPAN_INFER, number, telemetry.new_span_id(), parent, begun_ns, sampled=sampled)
        whole.kind = "server"
        admission = self._span(
            telemetry.SPAN_ADMISSION, number, telemetry.new_span_id(), whole.span_id, begun_ns, sampled=sampled
        )
        for span in (admission, whole):
            span.attributes["rbee.model"] = model
            span.end_ns = self.now_ns()
            span.fail(error.reason)
            self._sink(span)

    # --- in the queue ---

    def decided(self, live: TracedJob, decision: Decision, fallback: str) -> None:
        """Records a decision about a job; `fallback`: why the active policy did not make it, "" when it did."""
        if not self._on or not live.job.trace_id:
            return
        proposal, begun = decision.proposal, nanoseconds(decision.decide_time)
        span = self._child(live, telemetry.SPAN_DECIDE, telemetry.new_span_id(), begun)
        span.end_ns = begun + nanoseconds(decision.duration_s)
        span.attributes |= {
            "rbee.policy": decision.policy,
            "rbee.policy.version": decision.policy_version,
            "rbee.decision.action": proposal.action.value,
            "rbee.decision.reason": proposal.reason,
            "rbee.worker.id": proposal.worker_id,
            "rbee.hive.id": proposal.hive_id,
            "rbee.candidates": tuple(map(_verdict, proposal.candidates[:MOST_CANDIDATES])),
            "rbee.candidates.count": len(proposal.candidates),
        }
        if fallback:
            span.kept = True
            span.attributes["rbee.decision.fallback"] = fallback
        if decision.refusal:
            span.attributes["rbee.decision.refusal"] = decision.refusal
            span.fail("DECISION_REFUSED")
        self._sink(span)

    def moved(self, live: TracedJob, before: Job) -> None:
        """Records the steps that are over now that a job is what it is, and was `before`."""
        job = live.job
        if not self._on or not job.trace_id:
            return
        if before.state is JobState.QUEUED and job.state is JobState.DISPATCHED:
            self._sink(self._queue(live, len(job.attempts)))
        elif before.state is JobState.QUEUED and job.resting and not _is_open(before):
            self._sink(self._queue(live, len(job.attempts) + 1))
        if job.attempts and not _is_open(job) and _is_open(before):
            self._sink(self._attempt(live, len(job.attempts)))
        if job.resting:
            self._sink(self._infer(live))

    def open(self, live: TracedJob) -> Iterator[Span]:
        """Yields the steps of a job that are not over."""
        job = live.job
        if job.resting or not job.trace_id:
            return
        yield self._infer(live)
        yield self._attempt(live, len(job.attempts)) if _is_open(job) else self._queue(live, len(job.attempts) + 1)

    # --- steps ---

    def _infer(self, live: TracedJob) -> Span:
        job = live.job
        begun = nanoseconds(job.submit_time)
        span_id = _id(job, telemetry.SPAN_INFER)
        span = self._span(
            telemetry.SPAN_INFER, _trace(job), span_id, live.parent_span, begun, sampled=live.sampled, kind="server"
        )
        span.attributes = {
            telemetry.JOB_ID: job.id,
            "rbee.job.state": job.state.value,
            "rbee.model": job.model,
            "rbee.tenant.id": job.tenant_id,
            "rbee.job.priority": job.priority.value,
            "rbee.job.detached": job.detached,
            "rbee.job.attempts": len(job.attempts),
        }
        if job.first_token_time is not None:
            span.attributes["rbee.time_to_first_token"] = max(0.0, job.first_token_time - job.submit_time)
        if job.usage is not None:
            span.attributes["gen_ai.usage.input_tokens"] = job.usage.prompt_tokens
            span.attributes["gen_ai.usage.output_tokens"] = job.usage.completion_tokens
        return _ended(span, job.end_time, _ended_badly(job))

    def _queue(self, live: TracedJob, number: int) -> Span:
        """Returns the stay in the queue before an attempt, counted from 1; the last may be before none."""
        job, attempts = live.job, live.job.attempts
        begun = job.submit_time if number == 1 else attempts[number - 2].end_time or job.submit_time
        given = number <= len(attempts)
        span = self._step(live, telemetry.SPAN_QUEUE, nanoseconds(begun), 0, number)
        end = attempts[number - 1].dispatch_time if given else job.end_time
        return _ended(span, end, "" if given else _ended_badly(job))

    def _attempt(self, live: TracedJob, number: int) -> Span:
        job, attempt = live.job, live.job.attempts[number - 1]
        span = self._step(live, telemetry.SPAN_ATTEMPT, nanoseconds(attempt.dispatch_time), 0, number)
        span.attributes |= {"rbee.worker.id": attempt.worker_id, "rbee.hive.id": attempt.hive_id}
        span.kind = "client"
        if number > 1:
            goes_on = job.first_token_time is not None and job.first_token_time <= attempt.dispatch_time
            before = _id(job, telemetry.SPAN_ATTEMPT, number - 1)
            span.links = (Link(before, "failover" if goes_on else "retry"),)
        error = attempt.failure.reason if attempt.failure is not None else _ended_badly(job)
        return _ended(span, attempt.end_time, error)

    def _step(self, live: TracedJob, name: str, begun_ns: int, end_ns: int, number: int = 0) -> Span:
        span = self._child(live, name, _id(live.job, name, number), begun_ns)
        span.end_ns = end_ns
        if number:
            span.attributes["rbee.attempt"] = number
        return span

    def _child(self, live: TracedJob, name: str, span_id: int, begun_ns: int) -> Span:
        """Returns a span about one job alone, part of its whole life."""
        job = live.job
        parent = _id(job, telemetry.SPAN_INFER)
        span = self._span(name, _trace(job), span_id, parent, begun_ns, sampled=live.sampled)
        span.attributes[telemetry.JOB_ID] = job.id
        return span

    def _span(
        self, name: str, trace: int, span_id: int, parent: int, begun_ns: int, *, sampled: bool, kind: Kind = ""
    ) -> Span:
        program = self._recorder.program
        return Span(trace, span_id, parent, name, begun_ns, sampled=sampled, kind=kind, program=program)

    def _sink(self, span: Span) -> None:
        self._recorder.sink(span)


def _id(job: Job, step: str, number: int = 0) -> int:
    """Returns the id of a job's span, the same in every queen."""
    return _hashed(f"{job.id}/{step}/{number}")


@lru_cache(maxsize=1024)  # a job's whole life is every step's parent
def _hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) or 1


def _trace(job: Job) -> int:
    return int(job.trace_id or "0", 16)


def _is_open(job: Job) -> bool:
    """Tells whether a job's newest attempt has not ended."""
    return bool(job.attempts) and job.attempts[-1].end_time is None


def _ended(span: Span, end: float | None, error: str) -> Span:
    if end is not None:
        span.end_ns = max(span.start_ns, nanoseconds(end))
    if error:
        span.fail(error)
    return span


def _ended_badly(job: Job) -> str:
    """Returns the reason of a job that did not end well, "" of all others."""
    if job.failure is not None:
        return job.failure.reason
    return CANCELLED if job.state is JobState.CANCELLED else ""


def _verdict(candidate: Candidate) -> str:
    who = (
        f"{candidate.alike} more" if candidate.alike else candidate.worker_id or f"a new worker on {candidate.hive_id}"
    )
    if candidate.reject_reason:
        return f"{who}: {candidate.reject_reason}"
    return f"{who}: eligible" if candidate.score is None else f"{who}: score {candidate.score:g}"

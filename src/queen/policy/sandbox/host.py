"""The queen's sandbox: one process that decides, one that stands in for it, warm, when it is lost."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Final

from queen.policy.failure import MOST_UNASKED, PolicyFailed, Source, cause_of
from queen.policy.language import Decided, Explained, LogLine, Metric, Outcome
from queen.policy.rows import Change, Rows
from queen.policy.sandbox.process import SandboxLost, SandboxProcess
from queen.policy.sandbox.record import FlightRecord
from rbee.v1 import decision_pb2
from rbee.v1 import sandbox_pb2 as pb

log = logging.getLogger(__name__)

SOFT_MS: Final = 50
"""Processor time a policy gets for a call (policy.md "Safety")."""
HARD_S: Final = 0.15
"""When a process that does not answer is killed: the soft limit, the last job's own soft limit, and some to answer."""
TRUSTED_MS: Final = 2000
TRUSTED_S: Final = 5.0
"""Limits of the platform policy and of taking in the state, which are the queen's own."""
AT_ONCE: Final = 200
"""Changes sent with a request; where there are more they go ahead in portions, which neither count as the policy's time
nor keep the queen from other things for long."""
_ACTIONS: Final = {
    number: decision_pb2.DecisionAction.Name(number).removeprefix("DECISION_ACTION_").lower()
    for number in decision_pb2.DecisionAction.values()
    if number
}


class PolicyHost:
    """Keeps a sandbox in step with `rows` and asks it.

    A sandbox in which a policy failed is replaced at once by the stand-in, which gets the same state and the platform
    policy, and the policy itself when it is asked again. All tasks live in `group`; `close` ends both processes.
    `replaced` counts the sandboxes lost, `last_duration_us` is what the newest request took inside.
    """

    def __init__(
        self, *, platform: str, rows: Rows, group: asyncio.TaskGroup, record: FlightRecord | None = None
    ) -> None:
        self._platform = platform
        self.rows = rows
        self._group = group
        self._record = record
        self._policy: Source | None = None
        self._loaded: Source | None = None
        self._current: SandboxProcess | None = None
        self._stand_in: asyncio.Task[SandboxProcess | None] | None = None
        self._busy = asyncio.Lock()
        self._closed = False
        self.replaced = 0
        self.last_duration_us = 0

    @property
    def pid(self) -> int | None:
        """Process id of the sandbox that decides; None before the first request."""
        return None if self._current is None else self._current.pid

    @property
    def alive(self) -> bool:
        """Whether the sandbox that decides still runs, as far as is known."""
        return self._current is not None and self._current.alive

    @property
    def protections(self) -> tuple[str, ...]:
        """What the sandbox says holds of it."""
        return () if self._current is None else self._current.protections

    async def start(self) -> None:
        """Returns when a sandbox is ready with the state and the platform policy; another is started meanwhile."""
        async with self._busy:
            await self._ready()

    async def close(self) -> None:
        """Ends both processes; returns when they are gone. Nothing is decided any more."""
        async with self._busy:
            self._closed = True
            for process in (self._current, await self._take_stand_in()):
                if process is not None:
                    process.kill()
                    await process.ended()
            self._current = None

    async def load(self, policy: Source | None) -> frozenset[str]:
        """Loads a policy in place of the one before, None for the platform policy alone; returns its entry points.

        Raises `PolicyFailed` with what is wrong; the one before stays then.
        """
        async with self._busy:
            entry_points = await self._load(policy)
            self._policy = policy
            return entry_points

    async def decide(self, now_ms: int, seed: int, *, most: int) -> Outcome:
        """Returns what the loaded policy decides about the queue, the platform policy while none is loaded.

        Raises `PolicyFailed`; more than `most` decisions are one way to fail.
        """
        trusted = self._policy is None
        asked = pb.SandboxDecide(now_ms=now_ms, seed=seed, deadline_ms=TRUSTED_MS if trusted else SOFT_MS)
        return await self._answered(pb.SandboxRequest(decide=asked), TRUSTED_S if trusted else HARD_S, most)

    async def decide_platform(self, now_ms: int, seed: int, *, most: int) -> Outcome:
        """Returns what the platform policy decides about the queue; raises `PolicyFailed`."""
        asked = pb.SandboxDecide(now_ms=now_ms, seed=seed, deadline_ms=TRUSTED_MS, platform=True)
        return await self._answered(pb.SandboxRequest(decide=asked), TRUSTED_S, most)

    async def call(
        self, name: str, now_ms: int, seed: int, *, job_id: str = "", attempt: int = 0, error: str = ""
    ) -> Outcome:
        """Returns what should_admit, should_retry or on_idle says. The job's row is there. Raises `PolicyFailed`."""
        trusted = self._policy is None
        asked = pb.SandboxCall(name=name, now_ms=now_ms, seed=seed, job_id=job_id, attempt=attempt, error=error)
        asked.deadline_ms = TRUSTED_MS if trusted else SOFT_MS
        return await self._answered(pb.SandboxRequest(call=asked), TRUSTED_S if trusted else HARD_S, MOST_UNASKED)

    async def _answered(self, request: pb.SandboxRequest, limit_s: float, most: int) -> Outcome:
        async with self._busy:
            await self._ready()
            platform = request.HasField("decide") and request.decide.platform
            if not platform and self._loaded is not self._policy:
                await self._load(self._policy)
            outcome = await self._ask(request, limit_s)
            if outcome.error:
                self._replace()
                raise PolicyFailed(cause_of(outcome.error), outcome.error)
            if len(outcome.decisions) > most:
                self._replace()
                raise PolicyFailed(
                    "flood", f"policy made {len(outcome.decisions):,} decisions where {most:,} can be of use"
                )
            return _outcome(outcome)

    async def _load(self, policy: Source | None) -> frozenset[str]:
        await self._ready()
        load = pb.SandboxLoad(name=policy.name, source=policy.text) if policy else pb.SandboxLoad()
        outcome = await self._ask(pb.SandboxRequest(load=load), HARD_S)
        if outcome.error:
            raise PolicyFailed(cause_of(outcome.error), outcome.error)
        self._loaded = policy
        return frozenset(outcome.entry_points)

    async def _ready(self) -> None:
        """Returns when there is a sandbox with the state up to a few changes, and the platform policy."""
        if self._current is not None and not self._current.alive:
            self._replace()
        if self._current is not None:
            return
        if self._closed:
            raise PolicyFailed("crash", "the sandbox is closed")
        process = await self._take_stand_in()
        if process is None or not process.alive:
            process = await _started()
        if process is None:
            raise PolicyFailed("crash", "no sandbox could be started; see the queen's log")
        self._current, self._loaded = process, None
        self._stand_in = self._group.create_task(_started(), name="stand-in sandbox")
        await self._send_ahead(self.rows.everything())
        outcome = await self._ask(pb.SandboxRequest(load=pb.SandboxLoad(platform_source=self._platform)), TRUSTED_S)
        if outcome.error:
            raise PolicyFailed("error", f"the platform policy cannot be loaded: {outcome.error}")

    async def _take_stand_in(self) -> SandboxProcess | None:
        waiting, self._stand_in = self._stand_in, None
        return None if waiting is None else await waiting

    async def _ask(self, request: pb.SandboxRequest, limit_s: float) -> pb.SandboxOutcome:
        changes = self.rows.take()
        if len(changes) > AT_ONCE:
            await self._send_ahead(changes)
        elif changes:
            request.changes = _written(changes)
        return await self._send(request, limit_s)

    async def _send_ahead(self, changes: list[Change]) -> None:
        for start in range(0, len(changes), AT_ONCE):
            await self._send(pb.SandboxRequest(changes=_written(changes[start : start + AT_ONCE])), TRUSTED_S)

    async def _send(self, request: pb.SandboxRequest, limit_s: float) -> pb.SandboxOutcome:
        assert self._current is not None, "it was made ready"
        try:
            outcome = await self._current.ask(request, limit_s)
        except SandboxLost as lost:
            self._replace()
            raise PolicyFailed(lost.cause, lost.message) from None
        except asyncio.CancelledError:
            self._replace()  # its answer would be taken for that of the next request
            raise
        self.last_duration_us = outcome.duration_us
        if self._record is not None:
            self._record.add(request, outcome)
        return outcome

    def _replace(self) -> None:
        if self._current is not None:
            self._current.kill()
            self._current = None
            self.replaced += 1


async def _started() -> SandboxProcess | None:
    try:
        return await SandboxProcess.start()
    except (SandboxLost, OSError) as error:
        log.error("a policy sandbox could not be started: %s", error)
        return None


def _written(changes: list[Change]) -> bytes:
    return json.dumps(changes, separators=(",", ":")).encode()


def _outcome(reply: pb.SandboxOutcome) -> Outcome:
    return Outcome(
        decisions=tuple(_decided(one) for one in reply.decisions),
        explained=tuple(
            Explained(
                one.job_id,
                one.worker_id or None,
                one.pool_id or None,
                one.reason or None,
                one.score if one.HasField("score") else None,
            )
            for one in reply.explained
        ),
        logs=tuple(LogLine(line.level, line.message) for line in reply.logs),
        dropped_logs=reply.logs_dropped,
        metrics=tuple(Metric(one.name, one.value) for one in reply.metrics),
        undecided=reply.undecided,
        answer=reply.answer if reply.HasField("answer") else None,
        answer_reason=reply.answer_reason or None,
    )


def _decided(one: pb.SandboxDecision) -> Decided:
    return Decided(
        _ACTIONS[one.action],
        job_id=one.job_id or None,
        worker_id=one.worker_id or None,
        model_ref=one.model_ref or None,
        pool_id=one.pool_id or None,
        gpu_id=one.gpu_id or None,
        reason=one.reason or None,
        retry_after_ms=one.retry_after_ms if one.HasField("retry_after_ms") else None,
    )

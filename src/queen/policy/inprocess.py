"""A scheduler that runs a policy in this very process: for simulations, where nobody waits and the policy is the user's own.

The process is the sandbox: whoever runs strangers' policies this way gives it limits of its own.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from queen.core import feasibility
from queen.core.model import Action, Candidate, Device, Job, Proposal, WorkerSpec
from queen.core.ports import ClusterView
from queen.policy.language import Decided, Explained, Outcome, Program, Rows

DEADLINE_MS: Final = 2000.0
"""Processor time of one decision. Much more than the 50 ms a queen allows, so that a slow machine changes no result."""

SUSPEND_AFTER: Final = 3
SUSPEND_WITHIN_S: Final = 300.0
"""So many failures within so many seconds suspend a policy (policy.md, Safety)."""

RowChange = tuple[Rows, str, dict[str, Any] | None]
"""Kind of row, its id, and its fields; None: the row goes."""


class ProgramScheduler:
    """Asks a loaded program. `changes` tells what is different in the queen's state since it was last asked.

    A failing policy is answered for by the platform policy, at once; `failures` keeps what went wrong.
    """

    def __init__(
        self,
        program: Program,
        *,
        name: str,
        version: str,
        changes: Callable[[Sequence[Job], float], Iterable[RowChange]],
        new_id: Callable[[str], str],
        seed: int,
    ) -> None:
        self.name = name
        self.version = version
        self.failures: list[str] = []
        self._program = program
        self._changes = changes
        self._new_id = new_id
        self._seed = seed
        self._queue: list[str] = []
        self._failed_at: deque[float] = deque(maxlen=SUSPEND_AFTER)

    async def decide(self, queue: Sequence[Job], cluster: ClusterView, now: float) -> list[Proposal]:
        """Returns what the policy decides about the queue, as proposals."""
        self._update(queue, now)
        outcome = self._outcome(now)
        return _Translation(queue, cluster, outcome.explained, self._new_id).proposals(outcome.decisions)

    def _update(self, queue: Sequence[Job], now: float) -> None:
        program = self._program
        for kind, row_id, fields in self._changes(queue, now):
            if fields is None:
                program.remove(kind, row_id)
            else:
                absent = [name for name, value in fields.items() if value is None]
                present = {name: value for name, value in fields.items() if value is not None} if absent else fields
                program.put(kind, row_id, present, absent)
        ids = [job.id for job in queue]
        if ids != self._queue:
            program.queue(ids)
            self._queue = ids

    def _outcome(self, now: float) -> Outcome:
        now_ms = int(now * 1000)
        self._seed += 1
        outcome = self._program.decide(now_ms, self._seed, DEADLINE_MS)
        if outcome.error is None:
            return outcome
        self.failures.append(outcome.error.message)
        self._failed_at.append(now)
        if len(self._failed_at) == SUSPEND_AFTER and now - self._failed_at[0] <= SUSPEND_WITHIN_S:
            self._program.unload()
        return self._program.decide_platform(now_ms, self._seed, DEADLINE_MS)


class _Translation:
    """One cycle's decisions as proposals about its jobs."""

    def __init__(
        self,
        queue: Sequence[Job],
        cluster: ClusterView,
        explained: Sequence[Explained],
        new_id: Callable[[str], str],
    ) -> None:
        self._queue = queue
        self._cluster = cluster
        self._new_id = new_id
        self._candidates: defaultdict[str, list[Candidate]] = defaultdict(list)
        for one in explained:
            worker = cluster.get_worker(one.worker_id) if one.worker_id else None
            hive_id = worker.hive_id if worker else one.pool_id or ""
            said = Candidate(hive_id, one.worker_id or "", one.reason or "", one.score)
            self._candidates[one.job_id].append(said)

    def proposals(self, decisions: Sequence[Decided]) -> list[Proposal]:
        found: list[Proposal] = []
        for decided in decisions:
            found += self._waits(decided, found) if self._waits_for_all(decided) else [self._proposal(decided)]
        return found

    def _waits_for_all(self, decided: Decided) -> bool:
        return decided.action == Action.WAIT and decided.job_id is None

    def _waits(self, decided: Decided, before: Sequence[Proposal]) -> list[Proposal]:
        """Returns a wait of each job nothing else was decided about."""
        about = {proposal.job_id for proposal in before}
        return [self._wait(job.id, decided) for job in self._queue if job.id not in about]

    def _wait(self, job_id: str, decided: Decided) -> Proposal:
        after_s = None if decided.retry_after_ms is None else decided.retry_after_ms / 1000
        reason = decided.reason or "the policy lets it wait"
        return Proposal(job_id, Action.WAIT, reason, candidates=self._said(job_id), retry_after_s=after_s)

    def _proposal(self, decided: Decided) -> Proposal:
        action, job_id, reason = Action(decided.action), decided.job_id or "", decided.reason or "the policy says so"
        if action is Action.WAIT:
            return self._wait(job_id, decided)
        if action is Action.START_WORKER:
            return self._start(decided, reason)
        worker = self._cluster.get_worker(decided.worker_id) if decided.worker_id else None
        hive_id = worker.hive_id if worker else ""
        return Proposal(job_id, action, reason, decided.worker_id or "", hive_id, None, self._said(job_id))

    def _start(self, decided: Decided, reason: str) -> Proposal:
        hive_id, model_ref = decided.pool_id or "", decided.model_ref or ""
        job_id = decided.job_id or next((job.id for job in self._queue if job.model_ref == model_ref), "")
        spec = self._spec(hive_id, model_ref, decided.gpu_id)
        worker_id = spec.worker_id if spec else ""
        return Proposal(job_id, Action.START_WORKER, reason, worker_id, hive_id, spec, self._said(job_id))

    def _spec(self, hive_id: str, model_ref: str, device_id: str | None) -> WorkerSpec | None:
        hive, file = self._cluster.get_hive(hive_id), self._cluster.find_file(model_ref, hive_id)
        if hive is None or file is None:
            return None
        need_mb = feasibility.memory_required_mb(file)
        device: Device | None = next((one for one in hive.devices if one.id == device_id), None)
        if device is None:
            device, _ = feasibility.find_device(hive, need_mb, self._cluster.loading_claims_mb(hive_id))
        return None if device is None else feasibility.spec_for(self._new_id(hive_id), file, device)

    def _said(self, job_id: str) -> tuple[Candidate, ...]:
        return tuple(self._candidates.get(job_id, ()))

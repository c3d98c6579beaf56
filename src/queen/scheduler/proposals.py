"""From what a policy decided to proposals: checked against what is there, with the candidates that were considered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from queen.core import feasibility
from queen.core.model import Action, Candidate, Job, Proposal, Worker, WorkerSpec
from queen.core.ports import ClusterView
from queen.policy.failure import PolicyFailed
from queen.policy.language import Decided, Explained, Outcome

EXPLAINED_JOBS: Final = 100
"""Jobs of a cycle whose candidates are told; in a longer queue nobody reads the rest, and telling takes long."""
EXPLAINED_WORKERS: Final = 50


class Round:
    """The decisions of one cycle as proposals: at most one per job, and exactly one for those in the queue.

    `explains` False: without the candidates, which nobody will read.
    """

    def __init__(
        self,
        queue: Sequence[Job],
        cluster: ClusterView,
        new_id: Callable[[str], str],
        outcome: Outcome,
        *,
        explains: bool = True,
    ) -> None:
        self._jobs = {job.id: job for job in queue}
        self._cluster = cluster
        self._new_id = new_id
        self._outcome = outcome
        self._given: Counter[str] = Counter()
        self._workers: dict[str, list[Worker]] = {}
        self._told = 0 if explains else EXPLAINED_JOBS
        self._explained: dict[str, list[Candidate]] = {}
        for one in outcome.explained:
            self._explained.setdefault(one.job_id, []).append(self._candidate(one))

    def proposals(self) -> list[Proposal]:
        """Returns them in the order they are to be applied; raises `PolicyFailed` for one about what is not there."""
        proposals, wait_all = self._decided()
        seen = {proposal.job_id for proposal in proposals}
        waiting = (self._waiting(job, wait_all) for job in self._jobs.values() if job.id not in seen)
        return [*proposals, *waiting]

    def unasked(self) -> list[Proposal]:
        """Returns the starts and evictions that nobody asked for, and, about no job, when to be asked again.

        Raises `PolicyFailed` for one about what is not there, and for a decision about a job's own fate.
        """
        proposals, wait_all = self._decided()
        for proposal in proposals:
            if proposal.action in (Action.DISPATCH, Action.REJECT):
                raise PolicyFailed("error", f"on_idle made a {proposal.action} decision; it starts and evicts only")
        return proposals if wait_all is None else [*proposals, self._proposal(wait_all)]

    def _decided(self) -> tuple[list[Proposal], Decided | None]:
        """Returns what was decided about jobs and workers, and the wait of all others."""
        proposals, seen = [], set[str]()
        wait_all: Decided | None = None
        for decided in self._outcome.decisions:
            if decided.job_id is not None and decided.job_id not in self._jobs:
                raise _bad(decided, f"names job {decided.job_id}, which is not in the queue")
            if decided.action == Action.WAIT and decided.job_id is None:
                wait_all = wait_all or decided
                continue
            proposal = self._proposal(decided)
            if proposal.job_id in seen:
                continue  # the first decision about a job counts
            if proposal.job_id:
                seen.add(proposal.job_id)
            proposals.append(proposal)
        return proposals, wait_all

    def _proposal(self, decided: Decided) -> Proposal:
        action = Action(decided.action)
        job = self._jobs.get(decided.job_id or "")
        if action is Action.START_WORKER:
            return self._start(decided, job)
        worker_id = decided.worker_id or ""
        hive_id = ""
        if worker_id:
            worker = self._cluster.get_worker(worker_id)
            if worker is None:
                raise _bad(decided, f"names worker {worker_id}, which is not there")
            hive_id = worker.hive_id
        if action is Action.REJECT and job is None:
            raise _bad(decided, "names no job")
        candidates = self._candidates(job) if job else ()
        if action is Action.DISPATCH:
            self._given[worker_id] += 1
        reason = decided.reason or f"the policy says {decided.action}"
        retry_after_s = None if decided.retry_after_ms is None else decided.retry_after_ms / 1000
        return Proposal(job.id if job else "", action, reason, worker_id, hive_id, None, candidates, retry_after_s)

    def _waiting(self, job: Job, decided: Decided | None) -> Proposal:
        if decided is not None:
            return self._proposal(replace(decided, job_id=job.id))
        if self._outcome.undecided:
            reason = "the policy had used its time before it came to this job"
            return Proposal(job.id, Action.WAIT, reason, candidates=self._candidates(job), retry_after_s=0.0)
        reason = "the policy left it waiting"
        return Proposal(job.id, Action.WAIT, reason, candidates=self._candidates(job))

    def _start(self, decided: Decided, job: Job | None) -> Proposal:
        hive_id, model_ref = decided.pool_id or "", decided.model_ref or ""
        if job is None:
            # Told as about the first job that waits for the model; without one it is a preload.
            job = next((one for one in self._jobs.values() if one.model_ref == model_ref), None)
        if self._cluster.get_hive(hive_id) is None:
            raise _bad(decided, f"names pool {hive_id}, which is not there")
        spec = self._spec(hive_id, model_ref, decided.gpu_id or "")
        reason = decided.reason or f"the policy starts {model_ref} on {hive_id}"
        candidates = self._candidates(job) if job else ()
        worker_id = spec.worker_id if spec else ""
        return Proposal(job.id if job else "", Action.START_WORKER, reason, worker_id, hive_id, spec, candidates)

    def _spec(self, hive_id: str, model_ref: str, device_id: str) -> WorkerSpec | None:
        """Returns how to start it; None when the hive holds no such model or device, which the applier refuses."""
        hive, file = self._cluster.get_hive(hive_id), self._cluster.find_file(model_ref, hive_id)
        if hive is None or file is None:
            return None
        if device_id:
            device = next((one for one in hive.devices if one.id == device_id), None)
        else:
            need = feasibility.memory_required_mb(file)
            device, _ = feasibility.find_device(hive, need, self._cluster.loading_claims_mb(hive_id))
            device = device or next(iter(hive.devices), None)  # too full: the applier says so
        return None if device is None else feasibility.spec_for(self._new_id(hive_id), file, device)

    def _candidates(self, job: Job) -> tuple[Candidate, ...]:
        """Returns what the policy explained about a job, else what speaks against each worker of its model."""
        explained = self._explained.get(job.id)
        if explained is not None:
            return tuple(explained)
        self._told += 1
        if self._told > EXPLAINED_JOBS:
            return ()
        workers = self._workers.get(job.model_ref)
        if workers is None:
            workers = self._workers[job.model_ref] = self._cluster.find_workers_with_model(job.model_ref)
        return tuple(
            Candidate(one.hive_id, one.id, self._reject_reason(job, one)) for one in workers[:EXPLAINED_WORKERS]
        )

    def _reject_reason(self, job: Job, worker: Worker) -> str:
        free = self._cluster.slots_available(worker.id) - self._given[worker.id]
        return feasibility.worker_reject_reason(job, worker, free)

    def _candidate(self, one: Explained) -> Candidate:
        hive_id = one.pool_id or ""
        if one.worker_id and not hive_id:
            worker = self._cluster.get_worker(one.worker_id)
            hive_id = worker.hive_id if worker else ""
        return Candidate(hive_id, one.worker_id or "", one.reason or "", one.score)


def _bad(decided: Decided, what: str) -> PolicyFailed:
    return PolicyFailed("error", f"a {decided.action} decision {what}")

"""The scheduler without a policy: the first idle worker that has the model, else a new worker where it fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from queen.core import feasibility
from queen.core.model import (
    Action,
    Candidate,
    Hive,
    Job,
    ModelFile,
    Proposal,
    Worker,
    WorkerSpec,
    WorkerState,
)
from queen.core.ports import ClusterView


class SimpleScheduler:
    """First come, first served; workers in order of their ids. `new_id` gives the ids of workers to start."""

    name = "simple"
    version = ""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id

    async def decide(self, queue: Sequence[Job], cluster: ClusterView, now: float) -> list[Proposal]:
        """Returns one proposal per job: dispatch, start a worker, wait or reject."""
        return _Round(cluster, self._new_id).run(queue)


class _Round:
    """One pass over the queue, with what it has already given away."""

    def __init__(self, cluster: ClusterView, new_id: Callable[[str], str]) -> None:
        self._cluster = cluster
        self._new_id = new_id
        self._given: Counter[str] = Counter()
        self._starting: dict[str, str] = {}  # model -> hive
        self._full: dict[tuple[str, str], Proposal] = {}  # model -> why jobs with it wait: nothing is given back

    def run(self, queue: Sequence[Job]) -> list[Proposal]:
        return [self._waiting_too(job) or self._decide(job) for job in queue]

    def _waiting_too(self, job: Job) -> Proposal | None:
        """Returns what an earlier job got that waits for the same model; None when none does."""
        before = self._full.get((job.model_ref, job.model))
        return before and Proposal(job.id, before.action, before.reason, candidates=before.candidates)

    def _decide(self, job: Job) -> Proposal:
        workers = self._cluster.find_workers_with_model(job.model_ref)
        candidates = tuple(Candidate(worker.hive_id, worker.id, self._reject_reason(job, worker)) for worker in workers)
        for candidate in feasibility.eligible(candidates):
            self._given[candidate.worker_id] += 1
            reason = f"first idle worker with {job.model}"
            return Proposal(job.id, Action.DISPATCH, reason, candidate.worker_id, candidate.hive_id, None, candidates)
        alive = [w for w in workers if w.state not in (WorkerState.FAILED, WorkerState.DRAINING)]
        if alive:
            loading = all(worker.state is WorkerState.LOADING for worker in alive)
            reason = f"{alive[0].id} still loads {job.model}" if loading else f"all slots with {job.model} are taken"
            wait = Proposal(job.id, Action.WAIT, reason, candidates=candidates)
            self._full[job.model_ref, job.model] = wait
            return wait
        if (hive_id := self._starting.get(job.model_ref)) is not None:
            return Proposal(job.id, Action.WAIT, f"a worker with {job.model} is being started on {hive_id}")
        return self._place(job, candidates)

    def _reject_reason(self, job: Job, worker: Worker) -> str:
        return feasibility.worker_reject_reason(
            job, worker, self._cluster.slots_available(worker.id) - self._given[worker.id]
        )

    def _place(self, job: Job, workers: tuple[Candidate, ...]) -> Proposal:
        places: list[Candidate] = []
        held = False
        for hive in self._cluster.list_online_hives():
            file = self._cluster.find_file(job.model_ref, hive.id)
            if file is None:
                places.append(Candidate(hive.id, reject_reason=f"does not have {job.model}"))
                continue
            held = True
            spec, reason = self._fit(hive, file)
            places.append(Candidate(hive.id, reject_reason=reason))
            if spec is not None:
                self._starting[job.model_ref] = hive.id
                why = f"no worker has {job.model}; it fits on {hive.id} {spec.device_ids[0]}"
                return Proposal(job.id, Action.START_WORKER, why, spec.worker_id, hive.id, spec, (*workers, *places))
        rejected = "; ".join(f"{place.hive_id} {place.reject_reason}" for place in places) or "no hive is online"
        # A model no online hive holds may come back with its hive; one that fits nowhere will not fit later.
        action = Action.REJECT if held else Action.WAIT
        reason = f"no machine can run {job.model}: {rejected}"
        return Proposal(job.id, action, reason, candidates=(*workers, *places))

    def _fit(self, hive: Hive, file: ModelFile) -> tuple[WorkerSpec | None, str]:
        """Returns how to start a worker of a model on a hive, or None and why not."""
        if reason := feasibility.hive_reject_reason(hive):
            return None, reason
        need = feasibility.memory_required_mb(file)
        device, reason = feasibility.find_device(hive, need, self._cluster.loading_claims_mb(hive.id))
        return (None, reason) if device is None else (feasibility.spec_for(self._new_id(hive.id), file, device), "")

"""The scheduler without a policy: the first idle worker that has the model, else a new worker where it fits."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from queen.core import feasibility, tenants
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
from queen.core.ports import ClusterView, TenantsView
from queen.core.tenants import Load

_ENDING: Final = (WorkerState.FAILED, WorkerState.DRAINING)


class SimpleScheduler:
    """First come, first served; workers in order of their ids. `new_id` gives the ids of workers to start.

    Jobs that their tenants' quotas hold up are passed over. `shared`: the tenants, None where nobody has a quota.
    A job that waits on for the same reason gets the same proposal, not another that is equal: in a long queue most do.
    """

    name = "simple"
    version = ""
    fallback = ""

    def __init__(self, new_id: Callable[[str], str], shared: TenantsView | None = None) -> None:
        self._new_id = new_id
        self._shared = shared
        self._waiting: dict[str, Proposal] = {}

    async def decide(self, queue: Sequence[Job], cluster: ClusterView, now: float) -> list[Proposal]:
        """Returns one proposal per job: dispatch, start a worker, wait or reject."""
        quotas = _Quotas(self._shared, now)
        proposals = _Round(cluster, self._new_id, self._waiting, quotas).run(queue)
        self._waiting = {one.job_id: one for one in proposals if one.action is Action.WAIT}
        return proposals


class _Quotas:
    """What the tenants have left in one round, with what it has already given away."""

    def __init__(self, shared: TenantsView | None, now: float) -> None:
        self._shared = shared
        self._now = now
        self._loads: dict[str, Load] = {}

    def refusal(self, job: Job, memory_mb: int, worker_id: str = "") -> str:
        """Returns why a job's tenant may not have a worker of so much memory; "" when it may, and has its job then.

        No `worker_id`: the worker is to be started.
        """
        tenant = None if self._shared is None else self._shared.find(job.tenant_id)
        if self._shared is None or tenant is None or not tenant.quota.bounds_running:
            return ""
        load = self._loads.get(tenant.id) or self._shared.load(tenant.id, self._now)
        if not worker_id:
            return tenants.waits_for_others(tenant, load) or tenants.vram_refusal(tenant, load, memory_mb)
        reason = tenants.dispatch_refusal(job, tenant, load, worker_id, memory_mb)
        if not reason:
            held = {**load.vram_mb, worker_id: memory_mb}
            self._loads[tenant.id] = Load(load.jobs + 1, held, load.tokens + tenants.tokens_of(job))
        return reason


class _Choices:
    """The workers with one model in one round: looked at once, their free slots counted down as they are given away."""

    def __init__(self, job: Job, cluster: ClusterView) -> None:
        self.alive: Worker | None = None
        self.all_load = True
        self.named: list[Candidate] = []
        self._rest: Counter[str] = Counter()
        self._free: deque[tuple[int, Worker]] = deque()  # (its index among all, the worker)
        self._slots: dict[str, int] = {}
        for index, worker in enumerate(cluster.find_workers_with_model(job.model_ref)):
            if worker.state is WorkerState.BUSY and not worker.doubtful:
                reason = feasibility.all_taken(worker)  # what is most often so in a cluster at work is found cheaply
            else:
                slots = cluster.slots_available(worker.id)
                reason = feasibility.worker_reject_reason(job, worker, slots)
                if not reason:
                    self._free.append((index, worker))
                    self._slots[worker.id] = slots
            if worker.state not in _ENDING:
                self.alive = self.alive or worker
                self.all_load &= worker.state is WorkerState.LOADING
            if index < feasibility.MOST_NAMED - 1:  # the last name is the chosen one's
                self.named.append(Candidate(worker.hive_id, worker.id, reason))
            else:
                self._rest[reason] += 1
        self._sum()

    @property
    def next(self) -> Worker | None:
        """The worker that is taken next; None when none has a free slot."""
        return self._free[0][1] if self._free else None

    def take(self) -> tuple[Worker, tuple[Candidate, ...]] | None:
        """Returns the first worker with a free slot, which is then taken, and the candidates; None when all are."""
        if not self._free:
            return None
        index, worker = self._free[0]
        chosen = () if index < len(self.named) else (Candidate(worker.hive_id, worker.id),)
        candidates = (*self.named, *chosen, *self.summed)
        self._slots[worker.id] -= 1
        if not self._slots[worker.id]:
            self._free.popleft()
            taken = feasibility.all_taken(worker)
            if chosen:
                self._rest[""] -= 1
                self._rest[taken] += 1
                self._sum()
            else:
                self.named[index] = Candidate(worker.hive_id, worker.id, taken)
        return worker, candidates

    def _sum(self) -> None:
        self.summed = feasibility.alike(self._rest)
        self.candidates = (*self.named, *self.summed)


class _Round:
    """One pass over the queue, with what it has already given away. `before`: the proposals to wait of the last one."""

    def __init__(
        self, cluster: ClusterView, new_id: Callable[[str], str], before: Mapping[str, Proposal], quotas: _Quotas
    ) -> None:
        self._quotas = quotas
        self._before = before
        self._cluster = cluster
        self._new_id = new_id
        self._choices: dict[str, _Choices] = {}
        self._starting: dict[str, str] = {}  # model -> hive
        self._nowhere: dict[str, tuple[Action, str, tuple[Candidate, ...]]] = {}  # model -> why it is not started

    def run(self, queue: Sequence[Job]) -> list[Proposal]:
        return [self._decide(job) for job in queue]

    def _decide(self, job: Job) -> Proposal:
        model_ref = job.model_ref
        choices = self._choices.get(model_ref)
        if choices is None:
            choices = self._choices[model_ref] = _Choices(job, self._cluster)
        worker = choices.next
        if worker is not None and (over := self._quotas.refusal(job, worker.spec.memory_mb, worker.id)):
            return self._not_now(job, Action.WAIT, over, choices.candidates)
        if (taken := choices.take()) is not None:
            worker, candidates = taken
            reason = f"first idle worker with {job.model}"
            return Proposal(job.id, Action.DISPATCH, reason, worker.id, worker.hive_id, None, candidates)
        if choices.alive is not None:
            loads = choices.all_load
            reason = f"{choices.alive.id} still loads {job.model}" if loads else f"all slots with {job.model} are taken"
            return self._not_now(job, Action.WAIT, reason, choices.candidates)
        if (hive_id := self._starting.get(model_ref)) is not None:
            return self._not_now(job, Action.WAIT, f"a worker with {job.model} is being started on {hive_id}", ())
        if model_ref not in self._nowhere:
            return self._place(job, choices.candidates)
        return self._not_now(job, *self._nowhere[model_ref])

    def _not_now(self, job: Job, action: Action, reason: str, candidates: tuple[Candidate, ...]) -> Proposal:
        before = self._before.get(job.id)
        if before is not None and before.reason == reason and before.action is action:
            return before
        return Proposal(job.id, action, reason, candidates=candidates)

    def _place(self, job: Job, workers: tuple[Candidate, ...]) -> Proposal:
        places: list[Candidate] = []
        holders: list[tuple[Hive, int]] = []
        for hive in self._cluster.list_online_hives():
            file = self._cluster.find_file(job.model_ref, hive.id)
            if file is None:
                places.append(Candidate(hive.id, reject_reason=f"does not have {job.model}"))
                continue
            holders.append((hive, feasibility.memory_required_mb(file)))
            if over := self._quotas.refusal(job, holders[-1][1]):
                return self._not_now(job, Action.WAIT, over, (*workers, *feasibility.named(places)))
            spec, reason = self._fit(hive, file)
            places.append(Candidate(hive.id, reject_reason=reason))
            if spec is not None:
                self._starting[job.model_ref] = hive.id
                why = f"no worker has {job.model}; it fits on {hive.id} {spec.device_ids[0]}"
                candidates = (*workers, *feasibility.named(places[:-1]), places[-1])
                return Proposal(job.id, Action.START_WORKER, why, spec.worker_id, hive.id, spec, candidates)
        action, reason = self._why_nowhere(job, holders)
        found = self._nowhere[job.model_ref] = action, reason, (*workers, *feasibility.named(places))
        return self._not_now(job, *found)

    def _why_nowhere(self, job: Job, holders: list[tuple[Hive, int]]) -> tuple[Action, str]:
        """Returns whether a job waits for room or is refused because there will never be any, and why."""
        if not holders:  # it may come back with its hive
            return Action.WAIT, f"no online hive has {job.model}"
        possible = [(hive, need) for hive, need in holders if feasibility.could_hold(hive, need)]
        if not possible:
            held_by, online = [hive for hive, _ in holders], self._cluster.list_online_hives()
            never = feasibility.never_fits(job.model, holders[0][1], held_by, online)
            return Action.REJECT, f"INSUFFICIENT_VRAM: {never}"
        reasons = [feasibility.in_the_way(*one, self._cluster.find_workers_on(one[0].id)) for one in possible[:3]]
        need = f"no room for {job.model} yet, it needs {possible[0][1]:,} MB"
        return Action.WAIT, f"{need}: {'; '.join(reasons)}"

    def _fit(self, hive: Hive, file: ModelFile) -> tuple[WorkerSpec | None, str]:
        """Returns how to start a worker of a model on a hive, or None and why not."""
        if reason := feasibility.hive_reject_reason(hive):
            return None, reason
        need = feasibility.memory_required_mb(file)
        device, reason = feasibility.find_device(hive, need, self._cluster.loading_claims_mb(hive.id))
        return (None, reason) if device is None else (feasibility.spec_for(self._new_id(hive.id), file, device), "")

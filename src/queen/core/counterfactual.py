"""The smallest change that would have let a job run sooner or elsewhere, as far as what is known tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from queen.core import feasibility
from queen.core.model import Action, Decision, Device, Hive, Job, JobState, Worker, WorkerState
from queen.core.ports import ClusterView, TenantsView
from wire.words import span

_TAKEN = ("slots are taken", "is given to a job before this one")


class Rethought:
    """A job's decisions thought over again against the cluster as it is now.

    `decisions` are about the job, oldest first. `name_of` gives the short names of models.
    """

    def __init__(
        self,
        job: Job,
        decisions: Sequence[Decision],
        cluster: ClusterView,
        shared: TenantsView,
        name_of: Callable[[str], str],
        now: float,
    ) -> None:
        self._job = job
        self._cluster = cluster
        self._shared = shared
        self._name_of = name_of
        self._now = now
        self._blocked = [one for one in decisions if one.refusal or one.proposal.action is not Action.DISPATCH]

    def change(self) -> str:
        """Returns the sentence; "" when nothing held the job up or no change is known. Cheaper changes come first."""
        if not self._blocked:
            return ""
        # What held it up first decides: a quota, a slot or a place that was not missing changes nothing.
        decision = self._blocked[-1] if self._job.state is JobState.QUEUED else self._blocked[0]
        for look in (self._quota, self._slot, self._warm, self._eviction, self._memory):
            if sentence := look(decision):
                return sentence
        return ""

    @property
    def _would(self) -> str:
        return "would start at once" if self._job.state is JobState.QUEUED else "would have started at once"

    def _quota(self, decision: Decision) -> str:
        """A job that its tenant's quota holds up, by the words of `core.tenants` and of the policy library."""
        tenant = self._shared.find(self._job.tenant_id)
        if tenant is None:
            return ""
        said = decision.refusal or decision.proposal.reason
        most, change = tenant.quota.max_concurrent_jobs, f"rbee tenant set {tenant.id}"
        if said.startswith(f"tenant {tenant.id} runs ") and most is not None:
            return f"{self._would} had tenant {tenant.id} room for one more running job: {change} --max-jobs {most + 1}"
        if said.startswith(f"tenant {tenant.id} uses "):
            return f"{self._would} with more memory for tenant {tenant.id}: {change} --max-vram SIZE"
        if said.startswith(f"tenant {tenant.id} has "):
            return f"{self._would} with more tokens a day for tenant {tenant.id}: {change} --max-tokens-daily N"
        return ""

    def _slot(self, decision: Decision) -> str:
        full = [one for one in decision.proposal.candidates if one.reject_reason.endswith(_TAKEN)]
        named = next((one.worker_id for one in full if one.worker_id), "")
        if named:
            return f"{self._would} with one more slot on {named}"
        if full or decision.proposal.reason.startswith("all slots with "):
            return f"{self._would} with one more slot on a worker with {self._job.model}"
        return ""

    def _warm(self, decision: Decision) -> str:
        """A job that waited for a worker to load its model."""
        loading = next(
            (one for one in decision.proposal.candidates if one.reject_reason.startswith("still loads")), None
        )
        if decision.proposal.action is not Action.START_WORKER and loading is None:
            return ""
        which = loading.worker_id if loading is not None else f"a worker with {self._job.model}"
        sooner = ""
        if self._job.attempts:
            sooner = f" {span(self._job.attempts[0].dispatch_time - decision.decide_time)} sooner"
        begin = "would have started" if self._job.attempts else self._would
        return f"{begin}{sooner} had {which} been running before: rbee worker spawn {self._job.model}"

    def _eviction(self, decision: Decision) -> str:
        best: tuple[int, Hive, list[Worker]] | None = None
        for hive in self._cluster.list_online_hives():
            for victims in self._victims(hive, decision):
                if best is None or len(victims) < best[0]:
                    best = len(victims), hive, victims
        if best is None:
            return ""
        _, hive, victims = best
        names = " and ".join(self._described(one) for one in victims)
        verb = "would run" if self._job.state is JobState.QUEUED else "would have run"
        return f"{verb} on {hive.id} had {names}, been evicted"

    def _victims(self, hive: Hive, decision: Decision) -> Iterator[list[Worker]]:
        """Yields, for each device of a hive that has the model, the idle workers that would make room, fewest first."""
        file = self._cluster.find_file(self._job.model_ref, hive.id)
        if file is None or feasibility.hive_reject_reason(hive):
            return
        need, claims = feasibility.memory_required_mb(file), self._cluster.loading_claims_mb(hive.id)
        for device in feasibility.places_of(hive):
            if device.memory_free_mb is None or (device.memory_total_mb or need) < need:
                continue
            room, victims = device.memory_free_mb - claims.get(device.id, 0), []
            for worker in sorted(self._idle_on(hive, device, decision), key=lambda one: -one.spec.memory_mb):
                if room >= need:
                    break
                victims.append(worker)
                room += worker.spec.memory_mb
            if victims and room >= need:
                yield victims

    def _idle_on(self, hive: Hive, device: Device, decision: Decision) -> Iterator[Worker]:
        """Yields the workers on a device that run nothing, and ran nothing when it was decided."""
        for worker in self._cluster.find_workers_on(hive.id):
            idle = self._cluster.slots_available(worker.id) == worker.slots_total
            if worker.state is not WorkerState.READY or not idle or device.id not in worker.spec.device_ids:
                continue
            if self._since(worker) <= decision.decide_time:
                yield worker

    def _since(self, worker: Worker) -> float:
        since = self._cluster.idle_since(worker.id)
        return worker.start_time if since is None else since

    def _described(self, worker: Worker) -> str:
        pinned = " and pinned" if self._cluster.is_pinned(worker.id) else ""
        since = self._since(worker)
        idle = f"idle {span(self._now - since)}" if since else "idle"
        return f"{self._name_of(worker.model_ref)}, {idle}{pinned}"

    def _memory(self, decision: Decision) -> str:
        """A model that no machine which has it can hold: how much is missing on the largest device."""
        if decision.proposal.action is not Action.REJECT:
            return ""
        needs = [
            (need - device.memory_total_mb, hive.id, device.id)
            for hive in self._cluster.list_online_hives()
            if (file := self._cluster.find_file(self._job.model_ref, hive.id)) is not None
            for need in (feasibility.memory_required_mb(file),)
            for device in feasibility.places_of(hive)
            if device.memory_total_mb is not None and device.memory_total_mb < need
        ]
        if not needs:
            return ""
        missing, hive_id, device_id = min(needs)
        return f"would have run on {hive_id} {device_id} with {missing:,} MB more memory"

"""A scheduler proposes, the applier disposes: each proposal is checked against the newest state."""

from __future__ import annotations

from queen.core import feasibility, tenants
from queen.core.model import Action, Job, JobState, Proposal, WorkerState
from queen.core.ports import ClusterView, TenantsView


def refusal(
    proposal: Proposal, job: Job | None, cluster: ClusterView, shared: TenantsView | None = None, now: float = 0.0
) -> str:
    """Returns why a proposal must not take effect; "" when nothing speaks against it.

    `job` is the newest state of the job it is about, None when there is no such job. Starts and evictions may be about
    no job at all. `shared`: the tenants, None where nobody has a quota.
    """
    if proposal.job_id or proposal.action not in (Action.START_WORKER, Action.EVICT):
        if job is None:
            return f"there is no job {proposal.job_id}"
        if job.state is not JobState.QUEUED:
            return f"the job is {job.state}, not queued"
        if proposal.action is Action.DISPATCH:
            return _dispatch_refusal(proposal, job, cluster) or _quota_refusal(proposal, job, cluster, shared, now)
    if proposal.action is Action.START_WORKER:
        return _start_refusal(proposal, job, cluster) or _quota_refusal(proposal, job, cluster, shared, now)
    if proposal.action is Action.EVICT:
        return _evict_refusal(proposal, cluster, now)
    return ""


def _dispatch_refusal(proposal: Proposal, job: Job, cluster: ClusterView) -> str:
    worker = cluster.get_worker(proposal.worker_id)
    if worker is None:
        return f"there is no worker {proposal.worker_id}"
    reason = feasibility.worker_reject_reason(job, worker, cluster.slots_available(worker.id))
    return f"worker {worker.id} {reason}" if reason else ""


def _quota_refusal(
    proposal: Proposal, job: Job | None, cluster: ClusterView, shared: TenantsView | None, now: float
) -> str:
    tenant = shared.find(job.tenant_id) if shared is not None and job is not None else None
    if shared is None or job is None or tenant is None or not tenant.quota.bounds_running:
        return ""
    load = shared.load(tenant.id, now)
    if proposal.action is Action.START_WORKER:
        return tenants.vram_refusal(tenant, load, proposal.spec.memory_mb if proposal.spec else 0)
    worker = cluster.get_worker(proposal.worker_id)
    return tenants.dispatch_refusal(job, tenant, load, proposal.worker_id, worker.spec.memory_mb if worker else 0)


def _start_refusal(proposal: Proposal, job: Job | None, cluster: ClusterView) -> str:
    hive, spec = cluster.get_hive(proposal.hive_id), proposal.spec
    if hive is None:
        return f"there is no hive {proposal.hive_id}"
    if spec is None:
        return f"hive {hive.id} does not have the model, or not the device"
    if reason := feasibility.hive_reject_reason(hive):
        return reason
    device, reason = feasibility.find_device(hive, spec.memory_mb, cluster.loading_claims_mb(hive.id))
    if device is None:
        return f"{hive.id} {reason}"
    model_ref = spec.model_ref if job is None else job.model_ref
    for worker in cluster.find_workers_with_model(model_ref):
        if worker.hive_id == hive.id and worker.state is WorkerState.LOADING:
            return f"worker {worker.id} still loads {model_ref} there"
    return ""


def _evict_refusal(proposal: Proposal, cluster: ClusterView, now: float) -> str:
    worker = cluster.get_worker(proposal.worker_id)
    if worker is None:
        return f"there is no worker {proposal.worker_id}"
    if worker.state not in (WorkerState.READY, WorkerState.BUSY):
        return f"worker {worker.id} is {worker.state}"
    if cluster.is_pinned(worker.id):
        return f"worker {worker.id} is pinned"
    if (left := worker.start_time + cluster.min_residency_s - now) > 0 and cluster.min_residency_s:
        return f"worker {worker.id} is to stay for {left:.0f} s more, its minimum residency"
    taken = worker.slots_total - cluster.slots_available(worker.id)
    return f"worker {worker.id} runs {taken} jobs" if taken else ""

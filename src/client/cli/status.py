"""`rbee status`: everything at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.call import collected, settings, with_queen
from client.cli.hive import print_devices, print_hives
from client.cli.worker import print_workers
from client.render import words
from client.render.table import as_dict, print_json

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import hive_pb2, job_pb2, policy_service_pb2, worker_pb2


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the queen knows."""

    is_serving: bool
    hives: list[hive_pb2.Hive]
    workers: list[worker_pb2.Worker]
    unfinished: list[job_pb2.Job]
    policies: policy_service_pb2.PolicyServiceGetStandingResponse

    def count(self, state: int) -> int:
        """Returns how many jobs are in a state."""
        return sum(job.state == state for job in self.unfinished)


def status(
    ctx: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Shows the queen, the policy that decides, hives, devices, workers and the queue."""
    cluster = with_queen(ctx, _look)
    from rbee.v1 import job_pb2

    queued = cluster.count(job_pb2.JOB_STATE_QUEUED)
    running = len(cluster.unfinished) - queued
    if as_json:
        print_json(
            {
                "queen": {"address": settings(ctx).queen, "serving": cluster.is_serving},
                "hives": [as_dict(hive) for hive in cluster.hives],
                "workers": [as_dict(worker) for worker in cluster.workers],
                "policy": as_dict(cluster.policies),
                "jobs": {"queued": queued, "running": running},
            }
        )
        return
    print(f"queen {'serves' if cluster.is_serving else 'is stopping'} at {settings(ctx).queen}")
    print(f"{words.plural(queued, 'job')} queued, {running} running")
    print("\n".join(policy_lines(cluster.policies)) + "\n")
    print_hives(cluster.hives)
    if cluster.hives:
        print()
        print_devices(cluster.hives)
        print()
        print_workers(cluster.workers)


def policy_lines(standing: policy_service_pb2.PolicyServiceGetStandingResponse) -> Iterator[str]:
    """Yields who decides, what is wrong with it, and what keeps it from doing harm."""
    policy = standing.policy
    if not standing.HasField("policy"):
        yield "no policy decides: the queen runs with --scheduler simple"
    elif policy.suspension:
        named = f"{policy.name} {policy.version}".rstrip()
        yield f"policy {named} is suspended, the platform policy decides: {policy.suspension}"
        yield f"  mend it and save it, or activate it again: rbee policy activate {policy.name}"
    else:
        yield f"policy {policy.name} {policy.version}".rstrip() + " decides"
    if standing.failures and standing.last_failure != policy.suspension:
        yield f"  {words.plural(standing.failures, 'failure')}, the newest: {standing.last_failure}"
    elif standing.last_failure and not policy.suspension:
        yield f"  {standing.last_failure}"
    for file in standing.faulty_files:
        yield f"policy file {file.file_name} is not used, the version before stays: {file.message}"
    if standing.protections:
        yield f"policies run in a sandbox: {', '.join(standing.protections)}"


async def _look(queen: Client) -> Cluster:
    from rbee.v1 import job_pb2

    unfinished = [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_DISPATCHED, job_pb2.JOB_STATE_RUNNING]
    return Cluster(
        await queen.is_serving(),
        await collected(queen.hives()),
        await collected(queen.workers()),
        await collected(queen.list_jobs(states=unfinished, page_size=1000)),
        await queen.policies.standing(),
    )

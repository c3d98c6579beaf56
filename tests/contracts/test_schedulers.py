"""What every JobScheduler must do, over every implementation; and what the simple one does beyond it."""

import asyncio

import pytest

from queen.core import applier
from queen.core.model import Action, WorkerState
from queen.policy import platform
from queen.policy.in_process import InProcessDecider
from queen.policy.rows import Rows
from queen.policy.sandbox.host import PolicyHost
from queen.scheduler.policy import PolicyScheduler
from queen.scheduler.simple import SimpleScheduler
from worlds import World, job, model_file


def new_id(hive: str) -> str:
    return f"{hive}-new"


@pytest.fixture(params=["simple", "platform policy", "platform policy in its sandbox"])
async def scheduler(request):
    if request.param == "simple":
        yield SimpleScheduler(new_id)
    elif request.param == "platform policy":
        yield PolicyScheduler(InProcessDecider(platform.source()), new_id)
    else:
        async with asyncio.TaskGroup() as group:
            host = PolicyHost(platform=platform.source(), rows=Rows(), group=group)
            yield PolicyScheduler(host, new_id)
            await host.close()


async def decide(scheduler, world, *jobs):
    return await scheduler.decide(jobs, world.cluster, 0.0)


async def test_no_proposal_of_one_round_is_refused(scheduler):
    world = World()
    world.add_hive(models=(model_file(),))
    world.add_worker("w1", slots=2)
    world.add_worker("w2", slots=1)
    queue = [job(f"job-{n}", n) for n in range(1, 6)]
    proposals = await decide(scheduler, world, *queue)
    given = [proposal for proposal in proposals if proposal.action is Action.DISPATCH]
    assert len(given) == 3
    for proposal in given:
        found = next(one for one in queue if one.id == proposal.job_id)
        assert applier.refusal(proposal, found, world.cluster) == ""
        world.cluster.reserve(proposal.worker_id, proposal.job_id)


async def test_every_job_gets_at_most_one_proposal_with_a_reason(scheduler):
    world = World()
    world.add_hive(models=(model_file(),))
    queue = [job(f"job-{n}", n) for n in range(1, 4)]
    proposals = await decide(scheduler, world, *queue)
    assert sorted(proposal.job_id for proposal in proposals) == [one.id for one in queue]
    assert all(proposal.reason for proposal in proposals)


async def test_the_same_state_gives_the_same_decision(scheduler):
    def build():
        world = World()
        world.add_hive("b", models=(model_file(),))
        world.add_hive("a", models=(model_file(),))
        world.add_worker("w2", "b")
        world.add_worker("w1", "a")
        return world

    assert await decide(scheduler, build(), job()) == await decide(scheduler, build(), job())


async def test_every_candidate_has_a_place_and_the_rejected_a_reason(scheduler):
    world = World()
    world.add_hive(models=(model_file(),))
    world.add_worker("w1")
    world.cluster.reserve("w1", "job-0")
    world.add_worker("w2")
    (proposal,) = await decide(scheduler, world, job())
    assert all(candidate.hive_id == "mill" for candidate in proposal.candidates)
    reasons = {candidate.worker_id: candidate.reject_reason for candidate in proposal.candidates}
    assert reasons == {"w1": "all 1 slots are taken", "w2": ""}
    assert proposal.worker_id == "w2"


async def test_one_worker_is_started_for_many_jobs_of_one_model():
    world = World()
    world.add_hive(models=(model_file(),))
    proposals = await decide(SimpleScheduler(lambda hive: f"{hive}-new"), world, job("a", 1), job("b", 2))
    assert [proposal.action for proposal in proposals] == [Action.START_WORKER, Action.WAIT]
    assert proposals[0].spec.worker_id == "mill-new"
    assert proposals[0].spec.model_ref == model_file().model_ref
    assert proposals[0].spec.memory_mb > 100


async def test_a_loading_worker_is_waited_for():
    world = World()
    world.add_hive(models=(model_file(),))
    world.add_worker(state=WorkerState.LOADING)
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.action is Action.WAIT
    assert "still loads" in proposal.reason


async def test_a_model_that_fits_nowhere_is_refused_with_every_machine_and_why():
    world = World()
    world.add_hive("small", free_mb=100, models=(model_file(size_mb=5000),))
    world.add_hive("empty", free_mb=9000)
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.action is Action.REJECT
    assert "empty does not have small" in proposal.reason
    assert "small needs 5" in proposal.reason
    assert "has 100 MB free" in proposal.reason


async def test_a_model_whose_hive_is_away_is_waited_for():
    world = World()
    world.add_hive("empty")
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.action is Action.WAIT
    assert "empty does not have small" in proposal.reason


async def test_a_machine_with_gpus_does_not_fall_back_to_its_processor():
    world = World()
    world.add_hive("gpu-box", free_mb=2000, gpus=1, models=(model_file(size_mb=3000),))
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.action is Action.REJECT
    world.add_hive("big", free_mb=9000, gpus=2, models=(model_file(size_mb=3000),))
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.hive_id == "big"
    assert proposal.spec.device_ids[0].startswith("gpu")

"""What every JobScheduler must do, over every implementation; and what the simple one does beyond it."""

import asyncio

import pytest

from queen.core import applier, feasibility
from queen.core.model import Action, Device, WorkerState
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


async def test_a_model_that_will_never_fit_is_refused_and_the_largest_device_named():
    world = World()
    world.add_hive("small", free_mb=100, models=(model_file(size_mb=5000),))
    world.add_hive("tiny", free_mb=50, models=(model_file(size_mb=5000),))
    world.add_hive("apart", free_mb=60)
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.action is Action.REJECT
    assert proposal.retry_after_s is None
    assert proposal.reason.endswith("it needs 5,104 MB, the largest device is small cpu with 100 MB")
    assert {one.hive_id: one.reject_reason for one in proposal.candidates} == {
        "small": "needs 5,104 MB, cpu has 100 MB free",
        "tiny": "needs 5,104 MB, cpu has 50 MB free",
        "apart": "does not have small",
    }
    world.add_hive("empty", free_mb=9000)
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.reason.endswith("; empty could hold it but does not have its file")


async def test_a_model_that_would_fit_waits_and_says_what_is_in_the_way():
    world = World()
    world.add_hive(free_mb=100, total_mb=5200, models=(model_file(size_mb=5000),))
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert (proposal.action, proposal.spec) == (Action.WAIT, None)
    assert proposal.reason.endswith("it needs 5,104 MB: mill cpu of 5,200 MB is held by other programs")
    world.add_worker("w1", model_ref="file:/models/other.gguf")
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.reason.endswith("is held by w1 (200 MB)")
    wakes = world.wakes
    roomy = Device("cpu", "CPU", "cpu", memory_total_mb=5200, memory_free_mb=5200)
    world.cluster.heard("mill", 1.0, {"devices": (roomy,)})
    assert world.wakes == wakes + 1, "room that has come is a reason to look again"
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.action is Action.START_WORKER


async def test_a_model_whose_hive_is_away_is_waited_for():
    world = World()
    world.add_hive("empty")
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert (proposal.action, proposal.reason) == (Action.WAIT, "no online hive has small")


async def test_of_very_many_candidates_few_are_named_and_the_chosen_always_is():
    world = World()
    world.add_hive(models=(model_file(),))
    for n in range(200):
        world.add_worker(f"w{n:03d}", slots=2)
    for n in range(150):
        world.cluster.reserve(f"w{n:03d}", f"a{n}")
        world.cluster.reserve(f"w{n:03d}", f"b{n}")
    queue = [job(f"job-{n}", n) for n in range(102)]
    proposals = await decide(SimpleScheduler(str), world, *queue)
    assert [one.worker_id for one in proposals[:100]] == [f"w{n:03d}" for n in range(150, 200) for _ in range(2)]
    for proposal in proposals:
        named = [one for one in proposal.candidates if not one.alike]
        assert len(named) <= feasibility.MOST_NAMED
        assert (proposal.action is Action.WAIT) or any(one.worker_id == proposal.worker_id for one in named)
    assert [one.alike for one in proposals[101].candidates if one.alike] == [200 - 31]
    assert {one.reject_reason for one in proposals[101].candidates} == {"all 2 slots are taken"}


async def test_a_machine_with_gpus_does_not_fall_back_to_its_processor():
    world = World()
    world.add_hive("gpu-box", free_mb=2000, gpus=1, models=(model_file(size_mb=3000),))
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.action is Action.REJECT
    world.add_hive("big", free_mb=9000, gpus=2, models=(model_file(size_mb=3000),))
    (proposal,) = await decide(SimpleScheduler(str), world, job())
    assert proposal.hive_id == "big"
    assert proposal.spec.device_ids[0].startswith("gpu")

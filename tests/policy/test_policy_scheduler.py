"""The policy scheduler: proposals from decisions, and what it does when a policy fails. No sandbox here."""

import asyncio

import pytest

from policy.sandboxes import scheduling
from queen.core.model import Action, Asks, Attempt, Verdict
from queen.core.tenants import Quota, Tenant
from queen.policy import platform
from queen.policy.failure import PolicyFailed, Source
from queen.policy.in_process import InProcessDecider
from queen.registry.tenants import TenantTable
from queen.scheduler.policy import PLATFORM, PolicyScheduler
from worlds import MODEL, World, job, model_file


class Nowhere:
    """A journal of tenants that keeps nothing."""

    def save_tenant(self, tenant):
        pass

    def save_usage(self, tenant_id, day, usage):
        pass


@pytest.fixture
def scheduler():
    return PolicyScheduler(InProcessDecider(platform.source()), lambda hive: f"{hive}-new")


@pytest.fixture
def world():
    made = World()
    made.add_hive(models=(model_file(),))
    made.add_worker("w1", slots=2)
    return made


async def active(scheduler, text, name="mine.lua"):
    await scheduler.activate(Source(name, text), "1")


async def test_the_active_policy_decides_and_is_named(scheduler, world):
    await active(
        scheduler, "function schedule_job(job, pools, workers) return dispatch(job, workers:first(), 'mine') end"
    )
    (proposal,) = await scheduler.decide([job()], world.cluster, 1.0)
    assert (proposal.action, proposal.worker_id, proposal.hive_id) == (Action.DISPATCH, "w1", "mill")
    assert proposal.reason == "mine"
    assert (scheduler.name, scheduler.version, scheduler.fallback) == ("mine.lua", "1", "")


async def test_a_failure_falls_to_the_platform_policy_in_the_same_cycle(scheduler, world):
    await active(scheduler, "function schedule(context) error('oh') end")
    (proposal,) = await scheduler.decide([job()], world.cluster, 1.0)
    assert (proposal.action, proposal.worker_id) == (Action.DISPATCH, "w1")
    assert (scheduler.name, scheduler.fallback) == (PLATFORM, "error")
    assert scheduler.standing.failures == 1
    assert scheduler.standing.last_failure.startswith("error: mine.lua:1: oh")


async def test_three_failures_suspend_until_it_is_activated_again(scheduler, world):
    calls = "function schedule(context) if context.now_ms < 10000 then error('oh') end return wait('mine') end"
    await active(scheduler, calls)
    for now in (1.0, 2.0, 3.0):
        await scheduler.decide([job()], world.cluster, now)
    assert scheduler.standing.suspended
    (proposal,) = await scheduler.decide([job()], world.cluster, 20.0)
    assert (proposal.action, scheduler.fallback) == (Action.DISPATCH, "suspended")
    await active(scheduler, calls)
    (proposal,) = await scheduler.decide([job()], world.cluster, 21.0)
    assert (proposal.action, proposal.reason) == (Action.WAIT, "mine")


async def test_a_policy_that_cannot_be_loaded_leaves_the_one_before(scheduler, world):
    await active(scheduler, "function schedule(context) return wait('first') end")
    with pytest.raises(PolicyFailed, match=r"bad.lua:1"):
        await active(scheduler, "function (", "bad.lua")
    (proposal,) = await scheduler.decide([job()], world.cluster, 1.0)
    assert proposal.reason == "first"
    assert scheduler.standing.name == "mine.lua"


async def test_a_wait_for_all_is_told_to_each_and_asks_again(scheduler, world):
    await active(scheduler, "function schedule(context) return wait('not now', 1500) end")
    proposals = await scheduler.decide([job("a", 1), job("b", 2)], world.cluster, 1.0)
    assert [(one.job_id, one.reason, one.retry_after_s) for one in proposals] == [
        ("a", "not now", 1.5),
        ("b", "not now", 1.5),
    ]


async def test_evictions_and_preloads_are_about_no_job(scheduler, world):
    await active(
        scheduler,
        f"""
        function schedule(context)
          return batch{{ evict("w1", "away"), start_worker{{ model_ref = "{MODEL}", pool_id = "mill" }} }}
        end
        """,
    )
    waiting = job(model_ref="file:/models/other.gguf")
    evict, start, wait = await scheduler.decide([waiting], world.cluster, 1.0)
    assert (evict.action, evict.job_id, evict.worker_id) == (Action.EVICT, "", "w1")
    assert (start.action, start.job_id, start.worker_id) == (Action.START_WORKER, "", "mill-new")
    assert start.spec.model_ref == MODEL
    assert (wait.action, wait.job_id) == (Action.WAIT, waiting.id)


async def test_what_a_policy_explains_is_told_as_candidates(scheduler, world):
    world.add_worker("w2")
    await active(
        scheduler,
        """
        function schedule_job(job, pools, workers)
          explain(workers:get("w1"), "too near the window")
          explain(workers:get("w2"), 3.5)
        end
        """,
    )
    (proposal,) = await scheduler.decide([job()], world.cluster, 1.0)
    told = [(one.worker_id, one.reject_reason, one.score) for one in proposal.candidates]
    assert told == [("w1", "too near the window", None), ("w2", "", 3.5)]


async def test_the_session_goes_where_it_was(scheduler, world):
    world.add_worker("w0", slots=2)
    world.add_worker("w2", slots=2)
    world.cluster.reserve("w0", "x")
    first = job("a", 1, session_id="s")
    (proposal,) = await scheduler.decide([first], world.cluster, 1.0)
    home = proposal.worker_id
    world.cluster.reserve(home, "a")
    (proposal,) = await scheduler.decide([job("b", 2, session_id="s")], world.cluster, 2.0)
    assert proposal.worker_id == home


async def test_what_a_policy_logs_is_bounded_and_cannot_forge_lines(scheduler, world, caplog):
    caplog.set_level("INFO")
    await active(
        scheduler, "function schedule(c) for i = 1, 90 do log_info('a\\nERROR queen: on fire') end return wait('x') end"
    )
    for now in (1.0, 1.2, 1.4):
        await scheduler.decide([job()], world.cluster, now)
    lines = [record.getMessage() for record in caplog.records if "on fire" in record.getMessage()]
    assert len(lines) == 20
    assert not any("\n" in line for line in lines)
    await scheduler.decide([job()], world.cluster, 2.5)
    assert len([record for record in caplog.records if "on fire" in record.getMessage()]) == 40


async def test_admission_and_retries_are_asked(scheduler, world):
    assert not scheduler.answers("should_admit")
    assert await scheduler.should_admit(job(), [], world.cluster, 1.0) == Verdict()
    await active(
        scheduler,
        """
        function schedule(context) end
        function should_admit(job, context)
          return job.max_tokens <= 10, ("%d wait, %d tokens are too many"):format(context.queue:count(), job.max_tokens)
        end
        function should_retry(job, attempt, error) return error ~= "ENGINE_FAILED", "attempt " .. attempt end
        """,
    )
    assert scheduler.answers("should_admit")
    assert not scheduler.answers("on_idle")
    queue = [job("a", 1), job("b", 2)]
    small, large = job(asks=Asks(max_tokens=5)), job(asks=Asks(max_tokens=50))
    assert (await scheduler.should_admit(small, queue, world.cluster, 1.0)).yes
    refused = Verdict(False, "2 wait, 50 tokens are too many", "mine.lua", "1")
    assert await scheduler.should_admit(large, queue, world.cluster, 1.0) == refused
    assert (await scheduler.should_admit(large, [], world.cluster, 1.0)).reason == "0 wait, 50 tokens are too many"
    tried = job(attempts=(Attempt(1, "w1", "mill", 0.0),))
    assert (await scheduler.should_retry(tried, queue, world.cluster, 1.0, "WORKER_LOST")).yes
    refused = Verdict(False, "attempt 1", "mine.lua", "1")
    assert await scheduler.should_retry(tried, queue, world.cluster, 1.0, "ENGINE_FAILED") == refused


async def test_a_failing_answer_lets_in(scheduler, world):
    await active(scheduler, "function schedule(c) end function should_admit(job, context) error('oh') end")
    assert (await scheduler.should_admit(job(), [], world.cluster, 1.0)).yes
    assert scheduler.standing.failures == 1


async def test_a_suspended_policy_is_asked_nothing(scheduler, world):
    await active(scheduler, "function schedule(c) end function should_admit(job, context) return false end")
    assert not (await scheduler.should_admit(job(), [], world.cluster, 1.0)).yes
    await scheduler.activate(Source("mine.lua", "function should_admit() return false end"), "1", suspended=True)
    assert not scheduler.answers("should_admit")
    assert (await scheduler.should_admit(job(), [], world.cluster, 1.0)).yes


async def test_idle_times_are_used(scheduler, world):
    assert await scheduler.on_idle([], world.cluster, 1.0) == []
    await active(
        scheduler,
        "function schedule(c) end function on_idle(context) return batch{ evict('w1', 'idle'), wait('', 60000) } end",
    )
    evict, wait = await scheduler.on_idle([job()], world.cluster, 1.0)
    assert (evict.action, evict.worker_id, evict.job_id) == (Action.EVICT, "w1", "")
    assert (wait.action, wait.job_id, wait.retry_after_s) == (Action.WAIT, "", 60.0)
    assert (scheduler.name, scheduler.version) == ("mine.lua", "1")


async def test_idle_times_are_not_for_jobs_own_fates(scheduler, world):
    await active(scheduler, "function schedule(c) end function on_idle(c) return dispatch(c.queue:first(), 'w1') end")
    assert await scheduler.on_idle([job()], world.cluster, 1.0) == []
    assert "on_idle made a dispatch decision" in scheduler.standing.last_failure


async def test_the_platform_policy_preloads_for_jobs_that_their_quota_holds_up(world):
    table = TenantTable(Nowhere(), world.cluster.get_worker)
    table.restore([Tenant("lab", quota=Quota(max_concurrent_jobs=0))], {}, 0, {})
    scheduler = PolicyScheduler(InProcessDecider(platform.source()), lambda hive: f"{hive}-new", tenants=table)
    await scheduler.activate(None)
    world.cluster.models.set_files("mill", (model_file(), model_file("other")))
    waiting = job(model_ref="file:/models/other.gguf", tenant_id="lab")
    (wait,) = await scheduler.decide([waiting], world.cluster, 1.0)
    assert (wait.action, wait.reason) == (Action.WAIT, "tenant lab runs 0 of 0 jobs")
    (start,) = await scheduler.on_idle([waiting], world.cluster, 1.0)
    assert (start.action, start.job_id, start.spec.model_ref) == (Action.START_WORKER, waiting.id, waiting.model_ref)


async def test_jobs_a_policy_had_no_time_for_are_decided_about_soon(scheduler, world):
    slow = "function schedule_job(job) local t = 0 for i = 1, 1e5 do t = t + i end return wait('thought') end"
    await active(scheduler, slow)
    proposals = await scheduler.decide([job(f"job-{n}", n) for n in range(500)], world.cluster, 1.0)
    assert proposals[0].reason == "thought"
    assert proposals[0].retry_after_s is None
    assert proposals[-1].reason == "the policy had used its time before it came to this job"
    assert proposals[-1].retry_after_s == 0.0


async def test_who_is_asked_about_is_there_whatever_is_decided_meanwhile():
    world = World()
    world.add_hive(models=(model_file(),))
    text = "function schedule(c) return wait('x') end function should_admit(job) return get_job(job.id) ~= nil end"
    async with scheduling() as (scheduler, _):
        await active(scheduler, text)
        asked = [scheduler.should_admit(job(f"new-{n}", n), [], world.cluster, 1.0) for n in range(20)]
        decided = [scheduler.decide([job(f"job-{n}", n)], world.cluster, 1.0) for n in range(20)]
        answers = await asyncio.gather(*(one for pair in zip(asked, decided, strict=True) for one in pair))
        assert all(one.yes for one in answers[::2])
        assert scheduler.standing.failures == 0

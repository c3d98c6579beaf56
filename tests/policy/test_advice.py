"""What a policy is asked about single jobs, by a real sandbox."""

import asyncio
from contextlib import asynccontextmanager
from itertools import count

import pytest

from policy.sandboxes import scheduling
from queen.core.model import Action, Attempt
from queen.policy.failure import Source
from queen.registry.jobs import JobTable, LiveJob
from queen.scheduler.advice import PolicyAdvice
from wire.clock import SystemClock
from worlds import Records, World, job

PICKY = """
function schedule(context) end
function should_admit(job, context)
  local t = 0
  for i = 1, 1e6 do t = t + i end
  return context.queue:count() < 2, context.queue:count() .. " wait"
end
function should_retry(job, attempt, error) return attempt < 2 end
"""


@asynccontextmanager
async def advising(text=PICKY):
    kept, world, numbers = Records(), World(), count(1)
    jobs = JobTable(kept, lambda: None)
    async with scheduling() as (scheduler, host), asyncio.TaskGroup() as group:
        await scheduler.activate(Source("picky", text), "1.0.0")
        advice = PolicyAdvice(
            scheduler,
            jobs=jobs,
            cluster=world.cluster,
            store=kept,
            clock=SystemClock(),
            new_id=lambda prefix: f"{prefix}-{next(numbers)}",
            group=group,
        )
        yield advice, jobs, kept, host, scheduler


async def test_who_is_refused_is_kept_as_a_decision():
    async with advising() as (advice, jobs, kept, _, _):
        assert advice.answers("should_admit")
        assert (await advice.may_come_in(job())).yes
        for number in (1, 2):
            jobs.add(LiveJob(job(f"job-{number}", number), b""))
        assert kept.decisions == []
        verdict = await advice.may_come_in(job("new", 3))
        assert (verdict.yes, verdict.reason) == (False, "2 wait")
        tried = [Attempt(number, "w1", "mill", 0.0, 1.0) for number in (1, 2)]
        assert (await advice.may_try_again(job("one", attempts=(tried[0],)), "WORKER_LOST")).yes
        assert not (await advice.may_try_again(job("two", attempts=(*tried,)), "WORKER_LOST")).yes
        told = [(one.proposal.job_id, one.proposal.action, one.proposal.reason, one.policy) for one in kept.decisions]
        assert told == [
            ("new", Action.REJECT, "not let in: 2 wait", "picky"),
            ("two", Action.REJECT, "not tried again after WORKER_LOST: it does not say why", "picky"),
        ]
        assert all(one.duration_s > 0 for one in kept.decisions)


async def test_a_caller_who_goes_away_while_the_policy_thinks_costs_no_sandbox():
    async with advising() as (advice, _, _, host, scheduler):
        sandbox = host.pid
        asking = [asyncio.create_task(advice.may_come_in(job(f"job-{number}", number))) for number in range(5)]
        await asyncio.wait(asking, timeout=0.002)
        for one in asking:
            one.cancel()
        assert (await advice.may_come_in(job("last", 9))).yes
        assert (host.pid, host.replaced, scheduler.standing.failures) == (sandbox, 0, 0)


async def test_without_a_policy_nobody_is_asked():
    async with advising("function schedule(context) end") as (advice, _, _, _, _):
        assert not advice.answers("should_admit")
        assert not advice.answers("should_retry")


@pytest.mark.parametrize(
    "hostile", ["while true do end", "('a'):rep(30000):find(('.-'):rep(30) .. 'b')", "error('no')"]
)
async def test_a_policy_that_fails_lets_all_in_and_is_suspended(hostile):
    text = f"function schedule(context) end function should_admit(job, context) {hostile} end"
    async with advising(text) as (advice, _, kept, _, scheduler):
        for _ in range(3):
            assert (await advice.may_come_in(job())).yes
        assert scheduler.standing.suspended
        assert not advice.answers("should_admit")
        assert kept.decisions == []

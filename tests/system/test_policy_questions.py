"""A real queen asks her policy beside its decisions: who may come in, who is tried again, what to do in idle times."""

import json

import psutil
import pytest

import rbee
from programs import rbee as keeper
from programs import running_queen, wait_for
from wire import errors

POLICY = """
function schedule(context) return platform.schedule(context) end

function should_admit(job, context)
  if job.labels.team == "rude" then return false, "PERMISSION_DENIED: ask nicely" end
  return (job.max_tokens or 0) <= 100000, ("%d tokens are too many"):format(job.max_tokens or 0)
end

function should_retry(job, attempt, error)
  if job.labels.team == "once" then return false, ("try %d ended with %s"):format(attempt, error) end
end

function on_idle(context)
  local done = context.workers:idle():filter(function(worker)
    return (worker.jobs_completed or 0) > 0 and not worker.pinned
  end):first()
  return done and evict(done, "has served")
end
"""
STEADY = {"model": "synthetic:steady", "prompt": "hello"}


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asking")
    (folder / "mine.lua").write_text(POLICY)
    with running_queen(folder, "--policy", str(folder / "mine.lua")) as queen:
        yield queen


async def spawn(client, slots=4):
    options = {"completion_tokens": "100", "tokens_per_second": "50", "first_token_ms": "0"}
    return await client.spawn_worker("synthetic:steady", engine="synthetic", slots=slots, engine_options=options)


async def test_who_may_not_come_in_is_told_why_on_every_way_in(asking):
    async with rbee.connect(asking.address) as client:
        with pytest.raises(errors.NoCapacity) as caught:
            await client.infer(**STEADY, max_tokens=100001).text()
        assert caught.value.reason == "NOT_ADMITTED"
        assert "policy mine.lua does not admit the job: 100001 tokens are too many" in caught.value.message
        with pytest.raises(errors.Denied, match="ask nicely") as denied:
            await client.submit(**STEADY, labels={"team": "rude"})
        assert denied.value.reason == "NOT_ADMITTED"
        again = ("b-2", {**STEADY, "max_tokens": 100002})
        refused, same = await client.submit_batch([again, again])
        assert [type(one) for one in (refused, same)] == [errors.NoCapacity] * 2
        assert "100002 tokens" in refused.message

        job_id = caught.value.metadata["job_id"]
        told = (await client.explain(job_id)).text
        assert "was given to no worker: it is failed" in told
        assert "policy mine.lua, in " in told
        assert "refused it: not let in: 100001 tokens are too many" in told
        assert "NOT_ADMITTED" in keeper(asking, "jobs", "show", job_id).stdout
        assert (await client.get_job(job_id)).failure.reason == "NOT_ADMITTED"


async def test_a_lost_attempt_is_tried_again_only_where_the_policy_lets_it(asking):
    async with rbee.connect(asking.address) as client:
        one = await spawn(client)
        once = client.infer(**STEADY, max_tokens=100, labels={"team": "once"})
        twice = client.infer(**STEADY, max_tokens=100)
        events = [anext(aiter(answer)) for answer in (once, twice)]
        for event in events:
            await event
        other = await spawn(client)
        psutil.Process(one.pid).kill()
        with pytest.raises(errors.Unreachable) as caught:
            await once.text()
        assert "policy mine.lua refused another try: try 1 ended with WORKER_LOST" in caught.value.message
        await twice.text()
        job = await client.get_job(twice.job_id)
        assert [attempt.worker_id for attempt in job.attempts] == [one.id, other.id]
        ended = await client.get_job(once.job_id)
        assert (len(ended.attempts), ended.failure.reason) == (1, "WORKER_LOST")
        told = (await client.explain(once.job_id)).text
        assert "refused it: not tried again after WORKER_LOST: try 1 ended with WORKER_LOST" in told


async def test_an_idle_time_is_used(asking):
    async with rbee.connect(asking.address) as client:
        await spawn(client)
        await client.infer(**STEADY, max_tokens=1).text()
        wait_for(lambda: "is evicted: has served" in asking.log, "the worker that has served goes")
        decisions = json.loads(keeper(asking, "status", "--json").stdout)["policy"]
        assert "last_failure" not in decisions or not decisions["last_failure"]
        assert "the platform policy decides" not in asking.log

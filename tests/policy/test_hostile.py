"""Policies that mean harm, each in a real sandbox: the queen goes on, the cause is named, the sandbox is back."""

import asyncio
import re
import time
from pathlib import Path

import pytest

from policy.sandboxes import scheduling
from queen.core import applier
from queen.core.model import Action
from queen.policy.failure import PolicyFailed, Source
from worlds import World, job, model_file

HOSTILE = sorted((Path(__file__).parent / "hostile").glob("*.lua"))
OTHER = "file:/models/other.gguf"


def test_there_are_many():
    assert len(HOSTILE) >= 40


def world():
    """One idle worker, one full, one pinned, one with another model."""
    made = World()
    made.add_hive(models=(model_file(),))
    for worker_id, model_ref in (("w1", None), ("w2", None), ("w3", OTHER), ("w4", OTHER)):
        made.add_worker(worker_id, slots=2, **({"model_ref": model_ref} if model_ref else {}))
    made.cluster.reserve("w2", "job-running")
    made.cluster.reserve("w2", "job-running-too")
    made.cluster.pin("w3")
    return made


class Pulse:
    """Beats on the event loop. `longest_s`: most processor time the loop spent on one thing between two beats."""

    def __init__(self):
        self.longest_s = 0.0

    async def beat(self):
        before = time.thread_time()
        while True:
            await asyncio.sleep(0.002)
            now = time.thread_time()
            self.longest_s = max(self.longest_s, now - before)
            before = now


def expected_of(source):
    return re.search(r"-- expect: (.*)", source.decode("latin-1"))[1].split()


@pytest.mark.parametrize("file", HOSTILE, ids=lambda file: file.stem)
async def test_a_hostile_policy_harms_nobody(file):
    expected = expected_of(file.read_bytes())
    place = world()
    queue = [job(f"job-{n}", n) for n in (1, 2, 3)]
    async with scheduling() as (scheduler, host), asyncio.TaskGroup() as beside:
        pulse = Pulse()
        beating = beside.create_task(pulse.beat())
        try:
            await scheduler.activate(Source(file.name, file.read_bytes().decode("latin-1")))
            loaded = ""
        except PolicyFailed as failure:
            loaded = failure.cause
        before = host.pid
        proposals = await scheduler.decide(queue, place.cluster, 1.0)
        beating.cancel()

        # What came of it is what was expected, and is named.
        failure = scheduler.standing.last_failure
        cause = failure.partition(":")[0]
        if loaded:
            assert "load" in expected
            assert loaded in expected, loaded
        elif failure:
            assert cause in expected, failure
            assert scheduler.name == "platform"
            if cause in ("timeout", "memory", "crash", "protocol"):
                assert host.pid != before, "it was in a fresh sandbox"
        else:
            assert {"harmless", "refused"} & set(expected), proposals
        assert not any("ESCAPED" in one.reason for one in proposals), proposals

        # Each job has one proposal; what the applier lets through harms nobody.
        assert sorted(one.job_id for one in proposals if one.job_id) == ["job-1", "job-2", "job-3"]
        refused = 0
        for one in proposals:
            about = next((each for each in queue if each.id == one.job_id), None)
            refusal = applier.refusal(one, about, place.cluster)
            refused += bool(refusal)
            if not refusal and one.action is Action.DISPATCH:
                assert one.worker_id == "w1"
                place.cluster.reserve("w1", one.job_id)
            assert refusal or one.action is not Action.EVICT
        if "refused" in expected:
            assert refused
        if failure or loaded:
            assert [one.worker_id for one in proposals[:2]] == ["w1", "w1"], "the platform policy decided, as always"
            assert refused == 0

        # Others were served meanwhile, and the policy is asked again in the next cycle.
        assert pulse.longest_s < 0.1
        if failure:
            # A delay of the sandbox's own comes each time; one that the machine's other programs cause does not.
            assert await any_of(3, lambda: back_within(0.5, scheduler, file, queue, place.cluster))


async def any_of(times, holds):
    for _ in range(times):
        if await holds():
            return True
    return False


async def back_within(limit_s, scheduler, file, queue, cluster):
    """Returns whether another policy decides this soon after the hostile one has failed once more."""
    await scheduler.activate(Source(file.name, file.read_bytes().decode("latin-1")))
    await scheduler.decide(queue, cluster, 2.0)
    begun = time.monotonic()
    await scheduler.activate(Source("good.lua", "function schedule(context) return wait('good') end"))
    again = await scheduler.decide(queue, cluster, 3.0)
    assert {one.reason for one in again} == {"good"}
    return time.monotonic() - begun < limit_s

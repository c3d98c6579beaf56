"""What a job is told about itself, and what would have changed it."""

from dataclasses import replace

import pytest

from queen.core import explain
from queen.core.counterfactual import Rethought
from queen.core.model import Action, Attempt, Candidate, Decision, Failure, JobState, Proposal
from queen.core.tenants import Quota, Tenant
from queen.registry.tenants import TenantTable
from worlds import World, job, model_file

BIG = model_file("big", 900)


class Nowhere:
    def save_tenant(self, _):
        pass


def decision(action, reason, *candidates, at=1.0, refusal="", worker="", policy="platform"):
    proposal = Proposal("job-1", action, reason, worker, "mill", candidates=candidates)
    return Decision("dec-1", proposal, policy, "", at, 0.0004, refusal)


def change(world, about, *decisions, tenants=(), now=100.0):
    shared = TenantTable(Nowhere(), world.cluster.get_worker)
    for tenant in tenants:
        shared.put(tenant)
    return Rethought(about, decisions, world.cluster, shared, world.cluster.models.name_of, now).change()


def waiting(**facts):
    return job(tenant_id="lab", **facts)


def ran(**facts):
    return replace(waiting(**facts), state=JobState.RUNNING, attempts=(Attempt(1, "w1", "mill", 6.0),))


def full_machine(**pins):
    """A machine of 1,300 MB with two workers of 200 MB, idle since 10 s and 20 s; a big model needs 996 MB and more."""
    world = World()
    world.add_hive(free_mb=900, total_mb=1300, models=(BIG, model_file()))
    for number in (1, 2):
        world.add_worker(f"w{number}")
        world.cluster.reserve(f"w{number}", "job-0")
        world.cluster.release(f"w{number}", "job-0", 10.0 * number)
        world.cluster.pin(f"w{number}", pinned=pins.get(f"w{number}", False))
    return world


def test_a_job_that_ran_at_once_has_nothing_to_change():
    done = decision(Action.DISPATCH, "least loaded", Candidate("mill", "w1"), worker="w1")
    assert change(World(), ran(), done) == ""
    assert change(World(), waiting()) == ""


@pytest.mark.parametrize("reason", ["all 2 slots are taken", "is given to a job before this one"])
def test_one_more_slot(reason):
    wait = decision(Action.WAIT, "all slots with small are taken", Candidate("mill", "mill-1", reason))
    assert change(World(), waiting(), wait) == "would start at once with one more slot on mill-1"
    assert change(World(), ran(), wait) == "would have started at once with one more slot on mill-1"
    unnamed = decision(Action.WAIT, "all slots with small are taken")
    assert change(World(), ran(), unnamed) == "would have started at once with one more slot on a worker with small"


def test_a_quota_that_holds_it_up_comes_before_a_slot():
    taken = Candidate("mill", "w1", "all 1 slots are taken")
    refused = decision(Action.DISPATCH, "first idle", taken, worker="w1", refusal="tenant lab runs 2 of 2 jobs")
    lab = Tenant("lab", quota=Quota(max_concurrent_jobs=2))
    found = change(World(), waiting(), refused, tenants=[lab])
    assert found == "would start at once had tenant lab room for one more running job: rbee tenant set lab --max-jobs 3"
    wait = decision(Action.WAIT, "tenant lab uses 300 of 400 MB")
    assert "--max-vram" in change(World(), waiting(), wait, tenants=[lab])
    wait = decision(Action.WAIT, "tenant lab has used 90 of 100 tokens today")
    assert "--max-tokens-daily" in change(World(), waiting(), wait, tenants=[lab])


def test_what_would_have_been_evicted():
    wait = decision(Action.WAIT, "big needs 997 MB and nothing that may be evicted makes room", at=30.0)
    about = waiting(model_ref=BIG.model_ref)
    found = change(full_machine(), about, wait, now=10.0 + 14 * 60)
    assert found == "would run on mill had small, idle 14 min, been evicted"
    assert "idle 14 min and pinned" in change(full_machine(w1=True), about, wait, now=10.0 + 14 * 60)
    assert change(full_machine(), ran(model_ref=BIG.model_ref), wait).startswith("would have run on mill had small")


def test_only_what_was_idle_then_and_still_is_would_have_been_evicted():
    about, world = waiting(model_ref=BIG.model_ref), full_machine()
    early = decision(Action.WAIT, "no room", at=5.0)
    assert change(world, about, early) == "", "both workers ran something when it was decided"
    middle = decision(Action.WAIT, "no room", at=15.0)
    assert change(world, about, middle) == "would run on mill had small, idle 90 s, been evicted"
    world.cluster.reserve("w1", "job-9")
    assert change(world, about, middle) == ""


def test_a_worker_that_had_to_load():
    start = decision(Action.START_WORKER, "no worker has small; it fits on mill", at=1.0)
    found = change(World(), ran(), start)
    assert (
        found == "would have started 5.0 s sooner had a worker with small been running before: rbee worker spawn small"
    )
    loads = decision(Action.WAIT, "w1 still loads small", Candidate("mill", "w1", "still loads the model"))
    assert change(World(), waiting(), loads).startswith("would start at once had w1 been running before")


def test_a_model_too_large_for_its_machine():
    world = World()
    world.add_hive(free_mb=500, models=(BIG,))
    refused = decision(Action.REJECT, "big fits on no machine that has it")
    failed = replace(waiting(model_ref=BIG.model_ref), state=JobState.FAILED, end_time=2.0)
    assert change(world, failed, refused).startswith("would have run on mill cpu with ")


def test_a_story_names_who_decided_what_when_and_why_not():
    story = replace(
        ran(),
        state=JobState.COMPLETE,
        first_token_time=11.0,
        end_time=12.0,
        attempts=(
            Attempt(1, "w1", "mill", 6.0, 8.0, Failure("WORKER_LOST", "w1 is gone", 14, True)),
            Attempt(2, "w2", "mill", 10.0, 12.0),
        ),
    )
    text = explain.told(
        story,
        [
            decision(Action.WAIT, "all slots with small are taken", at=1.0),
            decision(Action.DISPATCH, "greed", at=4.0, worker="w9", refusal="there is no worker w9", policy="mine.lua"),
            decision(Action.DISPATCH, "least loaded", at=6.0, worker="w1"),
            decision(
                Action.DISPATCH,
                "first idle worker with small",
                Candidate("mill", "w1", "is failed"),
                Candidate("mill", "w2", score=-0.5),
                Candidate("mill", "w3"),
                Candidate("", reject_reason="all 1 slots are taken", alike=40),
                at=10.0,
                worker="w2",
                policy="simple",
            ),
        ],
        0,
        100.0,
    )
    assert text.splitlines() == [
        "job-1, an interactive job of tenant lab for small, waited 6.0 s and ran on w2 of mill: it is complete",
        "after 1.0 s policy platform, in 400 µs, left it waiting: all slots with small are taken; for 3.0 s",
        (
            "after 4.0 s policy mine.lua, in 400 µs, wanted to give it to w9 (greed), which was not allowed: "
            "there is no worker w9; for 2.0 s"
        ),
        "after 6.0 s policy platform, in 400 µs, gave it to w1: least loaded",
        "after 10 s the scheduler without a policy, in 400 µs, gave it to w2: first idle worker with small",
        "considered:",
        "  w1: is failed",
        "  w2: chosen, score -0.5",
        "  w3: possible",
        "  40 more: all 1 slots are taken",
        "try 1 on w1 ended after 2.0 s: WORKER_LOST, w1 is gone; it was tried again on w2",
        "from its first worker on it took 6.0 s, its first token came after 5.0 s",
    ]


def test_a_waiting_job_is_told_its_place_and_one_that_failed_why():
    text = explain.told(waiting(submit_time=40.0), [], 3, 100.0)
    assert text.startswith(
        "job-1, an interactive job of tenant lab for small, waits in the queue at place 3 since 60 s"
    )
    assert "nobody has decided about it yet" in text
    late = Failure("QUEUE_TIMED_OUT", "job job-1 waited 5 s in the queue", 4, False)
    failed = replace(waiting(), state=JobState.FAILED, end_time=5.0, failure=late)
    text = explain.told(failed, [decision(Action.WAIT, "full", at=0.0)], 0, 100.0)
    assert "was given to no worker: it is failed" in text
    assert "left it waiting: full; for 5.0 s" in text
    assert "it failed: QUEUE_TIMED_OUT" in text

"""What holds in every simulation, found by trying."""

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from queen.core.model import RESTING_STATES, JobState, Priority
from queen.simulation import schedulers
from queen.simulation.report import jain, report_on, to_json
from queen.simulation.run import simulate
from scenes import cluster, platform, request

MODELS = ("small", "other", "third")
ASKED = st.tuples(
    st.floats(0, 60),
    st.integers(1, 2000),
    st.integers(0, 300),
    st.sampled_from(MODELS),
    st.sampled_from(["", "anna", "bert"]),
    st.sampled_from(list(Priority)),
    st.sampled_from(["", "", "s1", "s2"]),
)


def requests_of(drawn):
    return [
        request(arrival, prompt, generated, model, tenant_id=tenant, priority=priority, session_id=session)
        for arrival, prompt, generated, model, tenant, priority, session in sorted(drawn)
    ]


@given(
    st.lists(ASKED, min_size=1, max_size=40),
    st.sampled_from([schedulers.simple, platform()]),
    st.sampled_from(["250MB", "450MB", "1GB"]),
    st.integers(1, 3),
    st.sampled_from([1, 2, None]),
    st.sampled_from([None, 30.0]),
)
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_and_nothing_given_twice(drawn, scheduler, memory, count, streams, horizon_s):
    requests = requests_of(drawn)
    plan = cluster(slots=2, streams=streams, memory=memory, models=MODELS, count=count)
    run = simulate(plan, requests, scheduler, horizon_s=horizon_s)
    arrived = [one for one in requests if horizon_s is None or one.arrival <= requests[0].arrival + horizon_s]
    assert [job.request for job in run.jobs] == arrived
    for job in run.jobs:
        # A batch job has no limit while it waits, and SimpleScheduler never makes room.
        waits_for_ever = job.state is JobState.QUEUED and job.request.priority is Priority.BATCH
        assert horizon_s is not None or job.state in RESTING_STATES or waits_for_ever
        known = [time for time in (job.dispatch_time, job.first_token_time, job.end_time) if time is not None]
        assert known == sorted(known)
        if job.state is JobState.COMPLETE:
            alone_s = max(0, job.request.generated_tokens - 1) / 10
            assert job.end_time - job.first_token_time >= alone_s - 1e-6
    for worker in run.workers:
        assert all(0 <= taken <= worker.slots for _, taken in worker.jobs.changes)
        if run.end == worker.end:
            assert worker.jobs.value == 0
    memory_stays_within_devices(run)
    waiting = sum(job.state is JobState.QUEUED for job in run.jobs)
    assert run.queue.value == waiting
    report = report_on(run)
    assert report.completed + report.failed + report.waiting + report.running == report.jobs == len(arrived)
    assert 0 < report.fairness <= 1
    assert all(0 <= one.slot_use <= 1 + 1e-9 for one in report.workers)
    assert all(0 <= one.busy_s <= one.held_s + 1e-9 for one in report.devices)


def memory_stays_within_devices(run):
    for machine in run.plan.machines:
        for device in machine.devices:
            there = [
                one for one in run.workers if (one.device.hive_id, one.device.device_id) == (machine.name, device.id)
            ]
            # What leaves at a moment makes room for what comes at the same one.
            changes = [(one.start, 1, one.memory_mb) for one in there]
            changes += [(one.end, 0, -one.memory_mb) for one in there if one.end is not None]
            assert all(used <= device.memory_mb for used in accumulate(mb for _, _, mb in sorted(changes)))


@given(st.lists(ASKED, min_size=1, max_size=30))
@settings(max_examples=15, deadline=None)
def test_the_same_requests_give_the_same_report(drawn):
    plan, requests = cluster(slots=2, models=MODELS, count=2), requests_of(drawn)
    first, second = (to_json(report_on(simulate(plan, requests, platform()))) for _ in range(2))
    assert first == second


@given(st.lists(st.floats(0, 1e9), min_size=1))
def test_jains_index_is_between_a_share_of_one_and_one(amounts):
    assert 1 / len(amounts) - 1e-9 <= jain(amounts) <= 1 + 1e-9

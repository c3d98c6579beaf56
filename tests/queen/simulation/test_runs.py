"""What happens in small simulations, computed by hand. A worker reads 100 and generates 10 tokens a second alone."""

import pytest

from queen.core.model import JobState, Priority
from queen.simulation import schedulers
from queen.simulation.report import report_on
from queen.simulation.run import simulate
from scenes import cluster, lua, platform, request
from wire import errors


def times(run):
    return [(job.wait_s, job.first_token_s, job.end_time) for job in run.jobs]


@pytest.mark.parametrize("scheduler", [schedulers.simple, platform()], ids=["simple", "platform"])
def test_two_jobs_on_one_slot_come_one_after_the_other(scheduler):
    requests = [request(0.0, 100, 11), request(0.5, 50, 1)]
    run = simulate(cluster(), requests, scheduler)
    assert times(run) == [(0.0, 1.0, 2.0), (1.5, 2.0, 2.5)]
    report = report_on(run)
    assert report.makespan_s == 2.5
    assert report.tokens_per_s == 12 / 2.5
    assert (report.wait.p50, report.wait.most, report.wait.mean) == (0.0, 1.5, 0.75)
    assert (report.first_token.p50, report.first_token.p99) == (1.0, 2.0)
    assert report.queue_mean == 1.5 / 2.5
    assert report.workers[0].busy_s == 2.5
    assert report.workers[0].slot_use == 1.0
    assert report.gpu_hours == pytest.approx(2.5 / 3600)
    assert report.cost == pytest.approx(3.6 * 2.5 / 3600)


def test_prompts_of_a_worker_are_read_in_turn_and_streams_share_the_device_beyond_its_full_speed():
    # First tokens after 1 and 2 s. The first job has 10 of its 20 further tokens when the second begins to decode; both
    # then get 5 a second, until the first ends at 4 s; the second has 10 left and ends a second later.
    run = simulate(cluster(slots=2, streams=1), [request(0.0, 100, 21), request(0.0, 100, 21)], schedulers.simple)
    assert times(run) == [(0.0, 1.0, 4.0), (0.0, 2.0, 5.0)]


def test_streams_within_the_full_speed_do_not_slow_each_other_down():
    run = simulate(cluster(slots=2, streams=2), [request(0.0, 100, 21), request(0.0, 100, 21)], schedulers.simple)
    assert times(run) == [(0.0, 1.0, 3.0), (0.0, 2.0, 4.0)]


def test_a_model_nobody_has_is_loaded_first():
    run = simulate(cluster(workers=0), [request(10.0, 100, 11), request(11.0, 100, 1)], schedulers.simple)
    assert times(run) == [(5.0, 6.0, 17.0), (4.0, 6.0, 17.0)]
    report = report_on(run)
    assert (report.starts, report.evictions) == (1, 0)
    assert report.workers[0].loading_s == 5.0


def test_the_platform_policy_makes_room_for_another_model():
    # Memory for one worker. The second model's turn comes when the first is idle; then it loads for 5 s.
    requests = [request(0.0, 100, 11), request(1.0, 100, 1, "other")]
    run = simulate(cluster(memory="300MB", models=("small", "other")), requests, platform())
    assert times(run)[0] == (0.0, 1.0, 2.0)
    assert times(run)[1] == (6.0, 7.0, 8.0)
    report = report_on(run)
    assert (report.starts, report.evictions) == (1, 1)
    assert report.workers[0].alive_s == 2.0
    assert "makes room" in report.workers[0].end_reason


def test_a_young_worker_is_not_evicted_before_its_minimum_residency():
    requests = [request(1.0, 100, 1), request(2.0, 100, 1, "other"), request(9.0, 100, 1)]
    plan = cluster(memory="300MB", models=("small", "other"), residency=7)
    run = simulate(plan, requests, platform())
    # It began at 1 s and may go at 8 s, although nothing else happens then.
    assert run.workers[0].end == 8.0


def test_a_session_finds_its_prompt_read_where_it_was_served_last():
    turns = [request(0.0, 100, 11, session_id="s"), request(10.0, 200, 1, session_id="s"), request(20.0, 200, 1)]
    run = simulate(cluster(slots=4), turns, platform())
    # 111 of the second turn's 200 tokens are in the cache; the third job is of no session.
    assert [job.first_token_s for job in run.jobs] == [1.0, pytest.approx(0.89), 2.0]
    assert report_on(run).cached_prompt_tokens == 111


def test_a_job_ends_at_its_limit_wherever_it_is():
    requests = [request(0.0, 100, 1000), request(1.0, 100, 1), request(2.0, 100, 1, priority=Priority.BATCH)]
    run = simulate(cluster(), requests, schedulers.simple, timeout_s=30.0)
    assert [job.state for job in run.jobs] == [JobState.FAILED, JobState.FAILED, JobState.COMPLETE]
    assert [job.end_time for job in run.jobs] == [30.0, 31.0, 32.0]
    assert run.jobs[0].failure.message.endswith("while it generated")
    assert report_on(run).failures[0].jobs == 2


def test_a_full_queue_refuses():
    requests = [request(0.0, 100, 11)] + [request(0.5, 100, 1)] * 3
    run = simulate(cluster(), requests, schedulers.simple, queue_capacity=1)
    assert [job.failure and job.failure.reason for job in run.jobs] == [None, None, "QUEUE_FULL", "QUEUE_FULL"]


def test_at_the_horizon_jobs_wait_or_run():
    requests = [request(0.0, 100, 500), request(1.0, 100, 1)]
    run = simulate(cluster(), requests, schedulers.simple, horizon_s=10.0)
    report = report_on(run)
    assert (report.running, report.waiting, report.completed) == (1, 1, 0)
    assert report.makespan_s == run.end - run.begin <= 10.0


def test_a_policy_that_asks_to_be_asked_again_is():
    later = """
    function schedule_job(job, pools, workers)
      if job.wait_time_ms < 3000 then return wait("not yet", 1000) end
      return workers:first()
    end
    """
    run = simulate(cluster(), [request(0.0, 100, 1)], lua(later))
    assert run.jobs[0].wait_s == 3.0


def test_a_policy_that_waits_for_ever_ends_too():
    run = simulate(
        cluster(), [request(0.0, 100, 1, priority=Priority.BATCH)], lua("function schedule() return wait('no', 1) end")
    )
    assert run.jobs[0].state is JobState.QUEUED
    assert run.jobs[0].decision.proposal.reason == "no"


def test_a_policy_that_fails_is_answered_for_and_counted():
    run = simulate(cluster(), [request(0.0, 100, 1)], lua("function schedule() error('no luck') end"))
    assert run.jobs[0].state is JobState.COMPLETE
    assert run.standing.failures == 1
    assert "no luck" in run.standing.last_failure


def test_a_policy_may_turn_jobs_away_at_the_door():
    closed = "function should_admit(job, context) return job.prompt_tokens < 50, 'too long' end"
    run = simulate(cluster(), [request(0.0, 100, 1), request(0.0, 10, 1)], lua(closed))
    assert run.jobs[0].failure.message == "policy mine.lua does not admit the job: too long"
    assert run.jobs[1].state is JobState.COMPLETE


def test_a_policy_that_does_not_load_is_named():
    with pytest.raises(errors.Invalid, match=r"mine\.lua"):
        simulate(cluster(), [request(0.0, 1, 1)], lua("function schedule( end"))


def test_progress_is_told_and_may_end_a_run():
    told = []
    simulate(cluster(), [request(0.0, 1, 1)] * 3, schedulers.simple, progress=lambda *counts: told.append(counts))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def enough(done, total):
        if done == 2:
            raise errors.Cancelled("seen enough")

    with pytest.raises(errors.Cancelled):
        simulate(cluster(), [request(0.0, 1, 1)] * 3, schedulers.simple, progress=enough)


def test_no_requests_make_an_empty_report():
    report = report_on(simulate(cluster(), [], schedulers.simple))
    assert (report.jobs, report.makespan_s, report.tokens_per_s) == (0, 0.0, 0.0)

import pytest

from queen.core import lifecycle
from queen.core.lifecycle import IllegalTransitionError, JobEvent
from queen.core.model import RESTING_STATES, HiveState, JobState, WorkerState


def test_nothing_happens_to_a_job_at_rest():
    assert not [row for row in lifecycle.JOB_TRANSITIONS if row[0] in RESTING_STATES]


def test_every_job_can_come_to_rest_by_every_ending_that_fits():
    for state in set(JobState) - RESTING_STATES:
        assert lifecycle.next_job_state(state, JobEvent.CANCELLED) is JobState.CANCELLED
        assert lifecycle.next_job_state(state, JobEvent.FAILED) is JobState.FAILED


def test_a_change_that_is_not_in_the_table_is_refused_by_name():
    with pytest.raises(IllegalTransitionError, match="a queued job cannot be completed"):
        lifecycle.next_job_state(JobState.QUEUED, JobEvent.COMPLETED)
    with pytest.raises(IllegalTransitionError, match="a failed worker cannot become ready"):
        lifecycle.check_worker(WorkerState.FAILED, WorkerState.READY)
    with pytest.raises(IllegalTransitionError, match="a registered hive cannot become degraded"):
        lifecycle.check_hive(HiveState.REGISTERED, HiveState.DEGRADED)


def test_every_state_is_in_its_table():
    assert set(lifecycle.WORKER_TRANSITIONS) == set(WorkerState)
    assert set(lifecycle.HIVE_TRANSITIONS) == set(HiveState)
    assert {state for state, _ in lifecycle.JOB_TRANSITIONS} == set(JobState) - RESTING_STATES

"""Who is let into the queue: as many as there is room for, and nobody is refused who could be served in time."""

from hypothesis import given
from hypothesis import strategies as st

from queen.core import admission
from queen.core.drain import ENOUGH_SAMPLES, RECENT_S, DrainRate
from queen.core.model import Priority
from queen.core.queue import JobQueue
from worlds import MODEL, job


def refusal(new, queue, *, capacity=0, patience_s=None, slot_free=False, now=0.0):
    return admission.refusal(
        new, queue, capacity=capacity, patience_s=patience_s, slot_is_free=lambda: slot_free, now=now
    )


def drained(pace_s, count, waiting):
    """Returns a queue that `waiting` jobs are left in after `count` were taken, one every `pace_s`."""
    queue = JobQueue()
    for order in range(count + waiting):
        queue.join(job(f"job-{order}", order))
    for n in range(count):
        queue.take(f"job-{n}", n * pace_s)
    return queue


@given(st.lists(st.tuples(st.sampled_from(list(Priority)), st.booleans()), max_size=60), st.integers(1, 10))
def test_no_class_ever_holds_more_than_its_capacity_and_none_is_refused_below_it(arrivals, capacity):
    queue = JobQueue()
    for order, (priority, leaves) in enumerate(arrivals):
        new = job(f"job-{order}", order, priority=priority)
        refused = refusal(new, queue, capacity=capacity, slot_free=True)
        assert (refused is not None) == (queue.depth(priority) >= capacity)
        if refused is None:
            queue.join(new)
        else:
            assert (refused.reason, refused.retry_after_s) == ("QUEUE_FULL", admission.RETRY_UNKNOWN_S)
            assert f"the queue of {priority} jobs is full: {capacity} wait, its capacity is {capacity}" in str(refused)
        if leaves and len(queue):
            queue.take(next(iter(queue)), float(order))
        assert all(queue.depth(one) <= capacity for one in Priority)


@given(st.floats(0.01, 100.0), st.integers(0, 60), st.floats(0.1, 5000.0))
def test_a_job_is_refused_when_its_turn_comes_too_late_by_the_measured_pace(pace_s, waiting, patience_s):
    count = ENOUGH_SAMPLES + 1
    queue = drained(pace_s, count, waiting + 1)
    now = (count - 1) * pace_s
    rate = queue.drain_per_s(MODEL, now)
    refused = refusal(job("new", 999), queue, patience_s=patience_s, now=now)
    if rate is None:
        assert pace_s * ENOUGH_SAMPLES > RECENT_S
        assert refused is None
        return
    assert abs(rate * pace_s - 1) < 0.01
    wait_s = (waiting + 2) / rate
    assert (refused is not None) == (wait_s > patience_s)
    if refused is not None:
        assert refused.reason == "DEADLINE_UNREACHABLE"
        assert admission.RETRY_LEAST_S <= refused.retry_after_s <= admission.RETRY_MOST_S
        assert f"{waiting + 1} jobs of small come first" in str(refused)
    assert refusal(job("new", 999), queue, patience_s=patience_s, now=now, slot_free=True) is None
    assert refusal(job("new", 999), queue, patience_s=None, now=now) is None


def test_jobs_of_other_models_and_of_later_turns_are_not_counted():
    queue = drained(1.0, 17, 50)
    for order in range(1000, 1100):
        queue.join(job(f"other-{order}", order, "file:/models/other.gguf"))
    assert refusal(job("new", 2000), queue, patience_s=60.0, now=16.0) is None, "51 places at one a second"
    assert refusal(job("new", 2000), queue, patience_s=40.0, now=16.0) is not None
    assert refusal(job("new", 2000, session_id="s"), queue, patience_s=2.0, now=16.0) is None, "its session is next"
    assert refusal(job("new", 2000, "file:/models/other.gguf"), queue, patience_s=1.0, now=16.0) is None, "no pace yet"


def test_a_full_queue_says_when_a_place_is_free_by_its_pace():
    queue = drained(10.0, 17, 5)
    full = refusal(job("new", 999), queue, capacity=5, now=160.0)
    assert 9.0 < full.retry_after_s < 11.0
    assert refusal(job("new", 999), drained(0.01, 17, 5), capacity=5, now=0.16).retry_after_s == 1.0
    assert refusal(job("new", 999), drained(0.01, 17, 5), capacity=5, now=290.0).retry_after_s > 10.0, "it has stopped"


def test_what_finds_a_free_slot_says_nothing_about_the_pace():
    rate = DrainRate()
    for n in range(100):
        rate.left(float(n), 0)
    assert rate.per_s(100.0) is None
    for n in range(100, 120):
        rate.left(float(n), 1)
    assert abs(rate.per_s(119.0) - 1.0) < 0.01
    assert rate.per_s(119.0 + RECENT_S) is None, "what is long ago is forgotten"


def test_the_capacity_is_the_modes_unless_told():
    assert [admission.capacity(mode, None) for mode in ("home", "lab", "platform")] == [0, 0, 100]
    assert [admission.capacity(mode, 7) for mode in ("home", "lab", "platform")] == [7, 7, 7]
    assert admission.capacity("platform", 0) == 0

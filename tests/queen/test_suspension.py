from hypothesis import given
from hypothesis import strategies as st

from queen.core.suspension import FAILURES, WINDOW_S, Suspension


def test_three_failures_within_five_minutes_suspend():
    counted = Suspension()
    assert [counted.failed(now) for now in (0.0, 100.0, 300.0)] == [False, False, True]
    assert counted.suspended
    assert not counted.failed(301.0), "it is suspended once"


def test_three_failures_in_more_than_five_minutes_do_not():
    counted = Suspension()
    assert not any(counted.failed(now) for now in (0.0, 100.0, 300.1, 500.1))
    assert counted.failed(600.0)


def test_saving_or_activating_starts_anew():
    counted = Suspension()
    for now in (0.0, 1.0, 2.0):
        counted.failed(now)
    counted.clear()
    assert not counted.suspended
    assert not counted.failed(3.0)


@given(st.lists(st.floats(0, 1000), max_size=20).map(sorted))
def test_it_is_suspended_when_any_three_in_a_row_are_close(times):
    counted = Suspension()
    for now in times:
        counted.failed(now)
    ends = zip(times, times[FAILURES - 1 :], strict=False)
    assert counted.suspended == any(last - first <= WINDOW_S for first, last in ends)

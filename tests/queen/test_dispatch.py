"""A job between the turn in which it gets its slot and the one in which the slot is free again."""

import pytest

from lone_queen import Disk, LoneQueen
from played_workers import Engine, Made
from queen.core.model import JobState
from wire import errors

HIVE = "ash"


@pytest.fixture
def engine():
    return Engine("w1", 1)


@pytest.fixture
def queen(engine):
    queen = LoneQueen(Disk(), {"w1": engine}, (), 1000.0)
    hear(queen, engine)
    yield queen
    queen.loop.kill()


def hear(queen, engine):
    """Lets a report of the hive come in and the worker tell what it runs."""
    with queen.loop.entered():
        queen.hear(HIVE, [engine])
    queen.loop.pass_time(1.0)


def submit(queen, job_id, order=1):
    with queen.loop.entered():
        return queen.accept(job_id, order, detached=True, received=())


def until_dispatched(queen, live):
    """Stops in the turn in which a job is given to its worker: the task that is to run it has not begun."""
    for _ in queen.loop.turns(1.0):
        if live.job.state is JobState.DISPATCHED:
            return
    raise AssertionError(live.job)


def test_a_job_cancelled_in_the_turn_of_its_dispatch_leaves_no_slot_taken(queen, engine):
    live = submit(queen, "job-1")
    until_dispatched(queen, live)
    with queen.loop.entered():
        queen.dispatcher.cancel(live, "a test")
    queen.loop.pass_time(1.0)
    assert queen.cluster.jobs_on("w1") == frozenset()
    assert engine.made == {}, "the worker is not bothered with it"


def test_a_job_cancelled_in_the_turn_it_is_taken_over_ends_on_its_worker(engine):
    disk = Disk()
    first = LoneQueen(disk, {"w1": engine}, (), 1000.0)
    hear(first, engine)
    submit(first, "job-1")
    first.loop.pass_time(1.0)
    first.journal.commit()
    first.loop.kill()
    (made,) = engine.made.values()
    assert made.running
    queen = LoneQueen(disk, {"w1": engine}, {HIVE}, 1001.0)
    live = queen.jobs.get("job-1")
    with queen.loop.entered():
        queen.hear(HIVE, [engine])
    until_dispatched(queen, live)
    with queen.loop.entered():
        queen.dispatcher.cancel(live, "a test")
    queen.loop.pass_time(1.0)
    assert not made.running
    assert queen.cluster.jobs_on("w1") == frozenset()
    queen.loop.kill()


@pytest.mark.parametrize("back_first", [True, False])
def test_a_job_whose_worker_is_lost_as_it_is_taken_over_goes_on_after_what_its_caller_has(engine, back_first):
    disk, engines = Disk(), {"w1": engine}
    first = LoneQueen(disk, engines, (), 1000.0)
    hear(first, engine)
    with first.loop.entered():
        first.accept("job-1", 1, detached=False, received=())
    first.loop.pass_time(1.0)
    (made,) = engine.made.values()
    for _ in range(2):
        made.step()
    first.links.news.tell()
    first.loop.pass_time(1.0)
    first.journal.commit()
    first.loop.kill()

    queen = LoneQueen(disk, engines, {HIVE}, 1003.0)
    live = queen.jobs.get("job-1")
    with queen.loop.entered():
        if back_first:
            queen.callers.came(live, (0, 1))
        queen.hear(HIVE, [engine])
    until_dispatched(queen, live)
    queen.links.end("w1")
    queen.loop.pass_time(1.0)
    with queen.loop.entered():
        queen.callers.came(live, (0, 1))
    other = engines["w2"] = Engine("w2", 1)
    hear(queen, other)
    queen.loop.pass_time(5.0)
    (made,) = other.made.values()
    made.step()
    assert made.frames[0][0] == 3, "the third token is the next"
    queen.loop.kill()


def test_a_defect_of_the_queen_fails_its_job_and_leaves_no_slot_taken(queen, engine, monkeypatch):
    def broken(*_, job_id, attempt, **__):
        engine.made[job_id, attempt] = Made(attempt, 1, 0)
        raise KeyError(job_id)

    monkeypatch.setattr(queen.links, "generate", broken)
    live = submit(queen, "job-1")
    queen.loop.pass_time(1.0)
    assert live.job.failure.reason == errors.Internal.default_reason
    assert queen.cluster.jobs_on("w1") == frozenset()
    assert queen.cluster.get_worker("w1").doubtful
    hear(queen, engine)
    assert not engine.running(), "the worker was asked, and told to end what nobody wants"
    assert not queen.cluster.get_worker("w1").doubtful

import pytest

from queen.core.model import Failure, Priority
from queen.core.queue import PROMOTE_AFTER_S
from queen.dispatch.positions import Positions
from queen.registry.jobs import JobTable, LiveJob
from queen.storage.store import open_store
from rbee.v1 import inference_service_pb2
from wire import errors
from worlds import job


class Clock:
    """A clock that stands until it is set."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    monotonic = now


@pytest.fixture
async def line(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'queen.db'}")
    yield Line(JobTable(store, lambda: None))
    await store.close()


class Line:
    """A queue in which some jobs are read."""

    def __init__(self, table):
        self.table = table
        self.clock = Clock()
        self.positions = Positions(table, self.clock)

    def add(self, order, **facts):
        live = LiveJob(job(f"job-{order}", order, **facts), b"")
        self.table.add(live)
        return live

    def read(self, live):
        """Begins to read a job's events; returns its reader."""
        self.table.follow(live)
        reader = live.feed.reader()
        reader.__enter__()
        return reader

    def told(self, live):
        frames = [inference_service_pb2.InferResponse.FromString(frame) for frame in live.feed.frames]
        return [event.queued.position for frame in frames for event in frame.events if event.HasField("queued")]


async def test_a_reader_is_told_each_new_place_once_and_nobody_else_costs_anything(line):
    jobs = [line.add(n) for n in range(4)]
    assert not line.table.moved.is_set(), "nobody reads"
    line.read(jobs[3])
    assert line.table.moved.is_set()
    line.positions.tell()
    line.positions.tell()
    assert line.told(jobs[3]) == [4]
    line.table.moved.clear()
    line.table.dispatched(jobs[0], "w1", "mill", 1.0)
    line.table.cancelled(jobs[1], errors.Cancelled("x"), 1.0)
    assert line.table.moved.is_set()
    line.positions.tell()
    assert line.told(jobs[3]) == [4, 2]
    assert line.told(jobs[2]) == []
    assert [event.sequence for event in events_of(jobs[3])] == [1, 2]


def events_of(live):
    return [inference_service_pb2.InferResponse.FromString(frame).events[0] for frame in live.feed.frames]


async def test_who_stops_reading_or_stops_waiting_is_told_no_more(line):
    gone, given = line.add(1), line.add(2)
    reader = line.read(gone)
    line.read(given)
    line.positions.tell()
    reader.__exit__()
    line.table.dispatched(given, "w1", "mill", 1.0)
    line.positions.tell()
    assert line.table.followed == {}
    assert (line.told(gone), line.told(given)) == ([1], [2])


async def test_a_job_that_comes_back_is_told_where_it_stands_when_that_is_news(line):
    first, second = line.add(1), line.add(2)
    line.read(second)
    line.positions.tell()
    line.table.dispatched(second, "w1", "mill", 1.0)
    line.table.dispatched(first, "w2", "mill", 1.0)
    line.table.retried(second, Failure("WORKER_LOST", "", 14, True), 2.0, 0.0)
    line.positions.tell()
    assert line.told(second) == [2, 1]


async def test_growing_old_is_a_change_of_place(line):
    line.add(1)
    line.add(2, submit_time=PROMOTE_AFTER_S - 1)
    line.add(3, submit_time=PROMOTE_AFTER_S - 1)
    old = line.add(4, priority=Priority.BATCH)
    line.read(old)
    line.positions.tell()
    line.clock.time = PROMOTE_AFTER_S
    line.positions.tell()
    assert line.told(old) == [4, 2], "it is in the turn of the first"

import pytest

from queen.core.model import Usage
from queen.registry.jobs import JobTable, LiveJob
from queen.services.cluster_view import MOST_JOBS, ClusterView
from worlds import World, job


class NoStore:
    """Takes everything."""

    def __getattr__(self, name):
        return lambda *_: None


class Clock:
    """A clock that stands until it is set."""

    time = 0.0

    def now(self):
        return self.time


@pytest.fixture
def world():
    found = World()
    found.clock = Clock()
    found.table = JobTable(NoStore(), lambda: None)
    found.view = ClusterView(found.cluster, found.table, found.clock)
    found.add_hive()
    found.add_worker("w1")
    return found


def added(world, order):
    live = LiveJob(job(f"job-{order}", order), b"")
    world.table.add(live)
    return live


def names(told):
    return [one.id for one in (*told.hives, *told.workers, *told.jobs)]


async def test_all_is_told_first_and_then_what_changed(world):
    added(world, 1)
    first = await world.view.look()
    assert (first.full, names(first), first.queue_depth) == (True, ["mill", "w1", "job-1"], 1)
    world.clock.time = 1.0  # an idle worker is idle longer: that is no change
    second = await world.view.look()
    assert (second.full, names(second), second.queue_depth) == (False, [], 1)
    world.add_worker("w2")
    added(world, 2)
    assert names(await world.view.look()) == ["mill", "w2", "job-2"]  # more of the hive's memory is claimed


async def test_what_is_no_more_is_told_once(world):
    await world.view.look()
    world.cluster.forget_worker("w1")
    told = await world.view.look()
    assert (list(told.removed_worker_ids), names(told)) == (["w1"], ["mill"])
    assert not (await world.view.look()).removed_worker_ids


async def test_the_newest_jobs_are_told_and_no_more_than_a_message_holds(world):
    for order in range(1, MOST_JOBS + 3):
        added(world, order)
    told = await world.view.look()
    assert [one.id for one in told.jobs] == [f"job-{order}" for order in range(MOST_JOBS + 2, 2, -1)]
    assert told.queue_depth == MOST_JOBS + 2


async def test_tokens_are_counted_over_the_time_since_the_look_before(world):
    live = added(world, 1)
    await world.view.look()
    world.table.dispatched(live, "w1", "mill", 1.0)
    world.table.started(live, 1.0)
    world.table.completed(live, 2.0, usage=Usage(5, 40))
    world.clock.time = 4.0
    told = await world.view.look()
    assert ([one.id for one in told.jobs], told.queue_depth, told.tokens_per_second) == (["job-1"], 0, 10.0)

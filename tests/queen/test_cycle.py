import asyncio
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from queen.core.model import Action, JobState, Proposal, WorkerState
from queen.registry.jobs import JobTable, LiveJob
from queen.scheduler.cycle import SchedulingCycle
from queen.scheduler.simple import SimpleScheduler
from wire.clock import SystemClock
from worlds import Records, World, job


class Greedy:
    """Proposes every job for one worker, as a wrong policy may."""

    name, version, fallback = "greedy", "1", ""

    def __init__(self, worker_ids):
        self.worker_ids = worker_ids

    async def decide(self, queue, cluster, now):
        return [
            Proposal(one.id, Action.DISPATCH, "greed", worker_id, "mill")
            for one, worker_id in zip(queue, self.worker_ids, strict=False)
        ]


class Idler:
    """Waits with every job, and does in idle times what it is told to."""

    name, version, fallback = "idler", "1", ""

    def __init__(self, *proposals, again_s=None):
        self.proposals = list(proposals)
        self.again_s = again_s
        self.asked = []

    async def decide(self, queue, cluster, now):
        return [Proposal(one.id, Action.WAIT, "no hurry", retry_after_s=self.again_s) for one in queue]

    def answers(self, entry_point):
        return entry_point == "on_idle"

    async def on_idle(self, queue, cluster, now):
        self.asked.append([one.id for one in queue])
        return self.proposals


class SetClock:
    """A clock that stands where it is put."""

    def __init__(self):
        self.time = 1000.0

    def now(self):
        return self.time

    def monotonic(self):
        return self.time


class Machine:
    """A cycle over a small world; dispatched jobs stay running."""

    def __init__(self, scheduler, policy=None, clock=None, residency_s=0.0):
        self.world = World(residency_s)
        self.world.add_hive()
        self.store = Records()
        self.woken = asyncio.Event()
        self.jobs = JobTable(self.store, self.woken.set)
        self.dispatched = []
        numbers = count(1)
        self.cycle = SchedulingCycle(
            scheduler=scheduler,
            jobs=self.jobs,
            cluster=self.world.cluster,
            dispatcher=self,
            starter=self,
            reject=self.reject,
            store=self.store,
            clock=clock or SystemClock(),
            new_id=lambda prefix: f"{prefix}-{next(numbers)}",
            woken=self.woken,
            policy=policy,
        )
        self.evicted = []

    def dispatch(self, job_id, worker):
        self.dispatched.append((job_id, worker.id))

    def start_for(self, proposal):
        raise AssertionError("no worker is to be started here")

    def evict(self, proposal):
        self.evicted.append(proposal.worker_id)
        self.world.cluster.forget_worker(proposal.worker_id)

    def reject(self, live, proposal):
        raise AssertionError("no job is to be refused here")

    def tell_waiting(self, job_id):
        pass

    def add(self, *orders):
        for order in orders:
            self.jobs.add(LiveJob(job(f"job-{order}", order), b""))


async def test_a_round_takes_effect_in_part_and_what_is_refused_is_recorded():
    machine = Machine(Greedy(["w1", "w1", "ghost"]))
    machine.world.add_worker("w1", slots=1)
    machine.add(1, 2, 3)
    await machine.cycle.turn()
    assert machine.dispatched == [("job-1", "w1")]
    assert [(one.proposal.job_id, one.refusal) for one in machine.store.decisions] == [
        ("job-1", ""),
        ("job-2", "worker w1 all 1 slots are taken"),
        ("job-3", "there is no worker ghost"),
    ]
    assert machine.jobs.get("job-2").job.state is JobState.QUEUED


async def test_waiting_on_for_the_same_reason_is_recorded_once_and_its_end_at_once():
    machine = Machine(SimpleScheduler(str))
    machine.world.add_worker("w1", slots=1)
    machine.add(1, 2)
    for _ in range(3):
        await machine.cycle.turn()
    assert [(one.proposal.job_id, one.proposal.action) for one in machine.store.decisions] == [
        ("job-1", Action.DISPATCH),
        ("job-2", Action.WAIT),
    ]
    machine.world.cluster.heard_worker("mill", "w1", 1.0, {"state": WorkerState.DRAINING})
    machine.world.add_worker("w2", state=WorkerState.LOADING)
    await machine.cycle.turn()
    assert machine.store.decisions[-1].proposal.reason == "w2 still loads small"
    machine.world.cluster.heard_worker("mill", "w2", 2.0, {"state": WorkerState.READY})
    await machine.cycle.turn()
    assert machine.dispatched == [("job-1", "w1"), ("job-2", "w2")]


async def test_idle_times_are_used_once_a_second_at_most_and_not_while_jobs_are_given_out():
    clock, idler = SetClock(), Idler()
    machine = Machine(idler, idler, clock)
    assert await machine.cycle.turn() is None
    clock.time += 0.25
    assert await machine.cycle.turn() == 0.75
    assert idler.asked == [[]]
    clock.time += 0.75
    machine.add(1)
    assert await machine.cycle.turn() is None
    assert idler.asked == [[], ["job-1"]]
    clock.time += 5
    busy = Machine(SimpleScheduler(str), idler, clock)
    busy.world.add_worker("w1")
    busy.add(1)
    await busy.cycle.turn()
    assert busy.dispatched == [("job-1", "w1")]
    assert len(idler.asked) == 2


async def test_what_an_idle_policy_wants_goes_through_the_applier_and_is_recorded():
    idler = Idler(
        Proposal("", Action.EVICT, "bored", "w1", "mill"),
        Proposal("", Action.EVICT, "bored", "w2", "mill"),
        Proposal("", Action.WAIT, "later", retry_after_s=60.0),
    )
    machine = Machine(idler, idler)
    machine.world.add_worker("w1")
    machine.world.add_worker("w2")
    machine.world.cluster.pin("w2")
    assert await machine.cycle.turn() == 60.0
    assert machine.evicted == ["w1"]
    assert [(one.policy, one.proposal.worker_id, one.refusal) for one in machine.store.decisions] == [
        ("idler", "w1", ""),
        ("idler", "w2", "worker w2 is pinned"),
    ]


async def test_a_queue_that_waits_is_looked_at_when_a_minimum_residency_ends():
    clock, idler = SetClock(), Idler(Proposal("", Action.EVICT, "room", "w1", "mill"))
    machine = Machine(idler, idler, clock, residency_s=30.0)
    for name, start_time in (("w1", 990.0), ("w2", 950.0)):
        machine.world.add_worker(name)
        machine.world.cluster.heard_worker("mill", name, 0.0, {"start_time": start_time})
    machine.add(1)
    assert await machine.cycle.turn() == 20.0
    assert machine.store.decisions[-1].refusal == "worker w1 is to stay for 20 s more, its minimum residency"
    clock.time += 20
    await machine.cycle.turn()
    assert machine.evicted == ["w1"]


async def test_the_soonest_wish_to_be_asked_again_counts():
    clock, idler = SetClock(), Idler(Proposal("", Action.WAIT, "later", retry_after_s=7.0), again_s=3.0)
    machine = Machine(idler, idler, clock)
    machine.add(1)
    assert await machine.cycle.turn() == 3.0
    idler.again_s = 0.0
    clock.time += 2
    assert await machine.cycle.turn() == 0.1


@given(st.lists(st.sampled_from(["w1", "w2", "w3", "ghost"]), max_size=12))
def test_whatever_is_proposed_no_slot_is_given_twice_and_every_proposal_is_answered_for(worker_ids):
    async def play():
        machine = Machine(Greedy(worker_ids))
        for name, slots in (("w1", 1), ("w2", 2), ("w3", 3)):
            machine.world.add_worker(name, slots=slots)
        machine.add(*range(len(worker_ids)))
        await machine.cycle.turn()
        return machine

    machine = asyncio.run(play())
    for name, slots in (("w1", 1), ("w2", 2), ("w3", 3)):
        given_to = [job_id for job_id, worker_id in machine.dispatched if worker_id == name]
        assert len(given_to) == min(slots, worker_ids.count(name))
        assert machine.world.cluster.jobs_on(name) == set(given_to)
    decided = {one.proposal.job_id: one.refusal for one in machine.store.decisions}
    assert set(decided) == {f"job-{n}" for n in range(len(worker_ids))}
    assert {job_id for job_id, refusal in decided.items() if not refusal} == {one for one, _ in machine.dispatched}

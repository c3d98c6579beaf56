import asyncio
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from queen.core.model import Action, JobState, Proposal, WorkerState
from queen.registry.jobs import JobTable, LiveJob
from queen.scheduler.cycle import SchedulingCycle
from queen.scheduler.simple import SimpleScheduler
from wire.clock import SystemClock
from worlds import World, job


class Records:
    """A store of what was decided."""

    def __init__(self):
        self.decisions = []

    def save_job(self, saved):
        pass

    def save_request(self, job_id, spec):
        pass

    def drop_request(self, job_id):
        pass

    def save_decision(self, decision):
        self.decisions.append(decision)


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


class Machine:
    """A cycle over a small world; dispatched jobs stay running."""

    def __init__(self, scheduler):
        self.world = World()
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
            clock=SystemClock(),
            new_id=lambda prefix: f"{prefix}-{next(numbers)}",
            woken=self.woken,
        )

    def dispatch(self, job_id, worker):
        self.dispatched.append((job_id, worker.id))

    def start_for(self, proposal):
        raise AssertionError("no worker is to be started here")

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

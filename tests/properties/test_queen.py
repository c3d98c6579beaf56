"""What must hold of the queen's state whatever happens, found by trying."""

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from queen.core import applier, lifecycle
from queen.core.lifecycle import JobEvent
from queen.core.model import RESTING_STATES, Action, Failure, JobState, Priority, Proposal, WorkerState
from queen.registry.feed import JobFeed
from queen.registry.jobs import JobTable, LiveJob
from rbee.v1 import event_pb2, inference_service_pb2
from wire import errors
from worlds import World, job


class Slots(RuleBasedStateMachine):
    """Slots are never oversubscribed, whatever is proposed, reported, released or lost."""

    def __init__(self):
        super().__init__()
        self.world = World()
        self.world.add_hive()
        self.running: dict[str, str] = {}
        self.count = 0

    workers = Bundle("workers")

    @rule(target=workers, slots=st.integers(1, 4))
    def add(self, slots):
        self.count += 1
        self.world.add_worker(f"w{self.count}", slots=slots)
        return f"w{self.count}"

    @rule(worker=workers)
    def propose(self, worker):
        self.count += 1
        name = f"job-{self.count}"
        proposal = Proposal(name, Action.DISPATCH, "", worker, "mill")
        if not applier.refusal(proposal, job(name, self.count), self.world.cluster):
            self.world.cluster.reserve(worker, name)
            self.running[name] = worker

    @rule(data=st.data())
    def finish(self, data):
        if self.running:
            name = data.draw(st.sampled_from(sorted(self.running)))
            self.world.cluster.release(self.running.pop(name), name, 1.0)

    @rule(worker=workers, state=st.sampled_from([WorkerState.LOADING, WorkerState.READY]))
    def report(self, worker, state):
        if self.world.cluster.get_worker(worker):
            self.world.cluster.heard_worker("mill", worker, 1.0, {"state": state})

    @rule(worker=consumes(workers))
    def lose(self, worker):
        self.world.cluster.forget_worker(worker)

    @invariant()
    def never_oversubscribed(self):
        for worker in self.world.cluster.list_online_workers():
            taken = self.world.cluster.jobs_on(worker.id)
            assert 0 <= len(taken) <= worker.slots_total
            assert taken == {name for name, where in self.running.items() if where == worker.id}
            assert (worker.state is WorkerState.BUSY) == (len(taken) == worker.slots_total)


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class NoStore:
    """Counts what would be written; the table needs no answers."""

    def __init__(self):
        self.jobs = {}
        self.requests = set()
        self.outputs = set()

    def save_job(self, saved):
        self.jobs[saved.id] = saved

    def save_request(self, job_id, _):
        self.requests.add(job_id)

    def drop_request(self, job_id):
        self.requests.discard(job_id)

    def save_output(self, job_id, *_):
        self.outputs.add(job_id)

    def drop_output(self, job_id):
        self.outputs.discard(job_id)


EVENTS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(JobEvent))), max_size=60)


@given(EVENTS, st.lists(st.sampled_from(list(Priority)), min_size=6, max_size=6))
@settings(max_examples=150, deadline=None)
def test_the_table_follows_the_lifecycle_and_keeps_its_queue_in_order(happenings, priorities):
    store = NoStore()
    table = JobTable(store, lambda: None)
    live = [LiveJob(job(f"job-{n}", n, priority=priorities[n]), b"spec") for n in range(6)]
    for one in live:
        table.add(one)
    failure = Failure("WORKER_LOST", "", 14, True)
    happen = {
        JobEvent.DISPATCHED: lambda one: table.dispatched(one, "w1", "mill", 1.0),
        JobEvent.STARTED: lambda one: table.started(one, 2.0),
        JobEvent.RETRIED: lambda one: table.retried(one, failure, 3.0, 0.0),
        JobEvent.COMPLETED: lambda one: table.completed(one, 4.0),
        JobEvent.FAILED: lambda one: table.failed(one, failure, errors.Internal("x"), 4.0),
        JobEvent.CANCELLED: lambda one: table.cancelled(one, errors.Cancelled("x"), 4.0),
    }
    for index, event in happenings:
        before = live[index].job
        if (before.state, event) in lifecycle.JOB_TRANSITIONS:
            happen[event](live[index])
            assert live[index].job.state is lifecycle.JOB_TRANSITIONS[before.state, event]
    waiting = [one.job for one in table.queued(10.0)]
    assert {one.id for one in waiting} == {one.job.id for one in live if one.job.state is JobState.QUEUED}
    assert waiting == sorted(waiting, key=lambda one: (one.priority is Priority.BATCH, one.order))
    for one in live:
        table.delivered(one)  # the answer nobody was there to read
        assert store.jobs[one.job.id] == one.job
        assert (one.job.id in store.requests) == (one.job.state not in RESTING_STATES)
        assert (one.job.id in store.outputs) <= (one.job.state not in RESTING_STATES)
        assert one.feed.closed == one.job.resting
        assert [attempt.number for attempt in one.job.attempts] == list(range(1, len(one.job.attempts) + 1))


TEXTS = st.lists(st.text(string.ascii_letters, max_size=5), max_size=30)


@given(TEXTS, st.data())
@settings(deadline=None)
def test_a_reader_gets_every_event_once_in_order_wherever_it_begins(texts, data):
    feed = JobFeed()
    after = data.draw(st.integers(0, len(texts)))
    got = []
    reader = feed.reader(after)
    for sequence, text in enumerate(texts, start=1):
        tokens = event_pb2.JobEvent(sequence=sequence, tokens=event_pb2.Tokens(text=text, count=1))
        feed.append(inference_service_pb2.InferResponse(events=[tokens]).SerializeToString())
        if sequence > after and data.draw(st.booleans()):
            got += _read_now(reader)
    feed.close()
    got += _read_now(reader)
    assert [event.sequence for event in got] == list(range(after + 1, len(texts) + 1))
    assert [event.tokens.text for event in got] == texts[after:]


def _read_now(reader):
    """Reads what is there; a reader with news, or of a closed feed, never waits."""
    coroutine = reader.read()
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return list(inference_service_pb2.InferResponse.FromString(stop.value).events)
    raise AssertionError("the reader waits although there is news")

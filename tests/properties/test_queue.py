"""The order of the queue, whatever joins, leaves, comes back and grows old in it."""

import itertools
from bisect import insort

from hypothesis import given, settings
from hypothesis import strategies as st

from queen.core.model import Priority
from queen.core.queue import PROMOTE_AFTER_S, JobQueue, _Lane
from worlds import job

PRIORITIES = st.sampled_from(list(Priority))
SESSIONS = st.sampled_from(["", "a", "b", "c"])
TENANTS = st.sampled_from(["", "", "lab", "shop"])

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), PRIORITIES, SESSIONS, TENANTS),
        st.tuples(st.just("take"), st.integers(0, 5)),
        st.tuples(st.just("drop"), st.integers(0, 30)),
        st.tuples(st.just("return"), st.integers(0, 10)),
        st.tuples(st.just("pass"), st.integers(1, 400)),
    ),
    max_size=60,
)


class Play:
    """Does steps with a queue and remembers what must be in it."""

    def __init__(self):
        self.queue = JobQueue()
        self.jobs = {}
        self.waiting = set()
        self.running = []
        self.now = 0.0

    def do(self, step):
        getattr(self, f"do_{step[0]}")(*step[1:])
        self.queue.promote(self.now)

    def do_join(self, priority, session, tenant=""):
        order = len(self.jobs) + 1
        facts = {"priority": priority, "session_id": session, "tenant_id": tenant}
        new = job(f"job-{order}", order, **facts, submit_time=self.now)
        self.jobs[new.id] = new
        expected = self.queue.position_of_new(new)
        self.queue.join(new)
        assert self.queue.position(new.id) == expected
        self.waiting.add(new.id)

    def do_take(self, index):
        line = list(self.queue)
        if index < len(line):
            self.queue.take(line[index], self.now)
            self.waiting.discard(line[index])
            self.running.append(line[index])

    def do_drop(self, index):
        alive = sorted(self.waiting) + self.running
        if index < len(alive):
            self.queue.drop(alive[index])
            self.waiting.discard(alive[index])
            self.running = [one for one in self.running if one != alive[index]]

    def do_return(self, index):
        if index < len(self.running):
            back = self.running.pop(index)
            self.queue.join(self.jobs[back])
            self.waiting.add(back)

    def do_pass(self, seconds):
        self.now += seconds

    def urgent(self, job_id):
        """Whether a job must be with the interactive ones by its class or its age."""
        one = self.jobs[job_id]
        return one.priority is Priority.INTERACTIVE or self.now - one.submit_time >= PROMOTE_AFTER_S


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_the_queue_holds_who_waits_in_one_order_and_knows_every_place(steps):
    play, again = Play(), Play()
    for step in steps:
        play.do(step)
        again.do(step)
        line = list(play.queue)
        assert set(line) == play.waiting
        assert len(line) == len(play.queue) == len(play.waiting)
        assert [play.queue.position(job_id) for job_id in line] == list(range(1, len(line) + 1))
        assert line == list(again.queue), "the same steps give the same order"
        urgent = [play.urgent(job_id) for job_id in line]
        assert urgent == sorted(urgent, reverse=True), "interactive and old batch jobs before the others"
        for priority in Priority:
            depth = sum(play.jobs[job_id].priority is priority for job_id in line)
            assert play.queue.depth(priority) == depth
        assert play.queue.waiting_for(job().model_ref) == len(line)
    for gone in set(play.jobs) - play.waiting:
        assert play.queue.position(gone) == 0


@given(STEPS)
def test_the_jobs_of_one_session_and_kind_stay_in_the_order_they_came(steps):
    play = Play()
    for step in steps:
        if step[0] != "return":
            play.do(step)
    by_session = {}
    for job_id in play.queue:
        one = play.jobs[job_id]
        by_session.setdefault((one.priority, one.session_id, one.tenant_id), []).append(one.order)
    for orders in by_session.values():
        assert orders == sorted(orders)


@given(STEPS)
def test_without_sessions_the_oldest_of_a_class_is_next(steps):
    play = Play()
    for step in steps:
        if step[0] == "join":
            play.do(("join", step[1], ""))
        elif step[0] != "pass":
            play.do(step)
    line = [play.jobs[job_id] for job_id in play.queue]
    assert line == sorted(line, key=lambda one: (one.priority is Priority.BATCH, one.order))


def both_wait(play, field="session_id"):
    return {getattr(play.jobs[one], field) for one in play.queue} == {"a", "b"}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6), SESSIONS), max_size=12), st.data())
@settings(deadline=None)
def test_two_tenants_with_work_are_served_alike_however_many_sessions_they_have(arrivals, data):
    play = Play()
    served = {"a": 0, "b": 0}
    for tenant, count, session in [("a", 1, ""), ("b", 1, ""), *arrivals, ("a", 20, "x"), ("b", 20, "")]:
        for n in range(count):
            play.do(("join", Priority.INTERACTIVE, f"{session}{n}" if session else "", tenant))
        for _ in range(data.draw(st.integers(0, 10))):
            if not both_wait(play, "tenant_id"):
                served = {"a": 0, "b": 0}
                break
            served[play.jobs[next(iter(play.queue))].tenant_id] += 1
            play.do(("take", 0))
            assert abs(served["a"] - served["b"]) <= 2


def test_a_tenant_with_a_flood_does_not_hide_another():
    play = Play()
    for n in range(3000):
        play.do(("join", Priority.INTERACTIVE, f"session-{n}", "flood"))
    for _ in range(20):
        play.do(("take", 0))
    for _ in range(5):
        play.do(("join", Priority.INTERACTIVE, "", "lab"))
    first = [play.jobs[one].tenant_id for one in play.queue][:11]
    assert first.count("lab") == 5


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6)), max_size=12), st.data())
@settings(deadline=None)
def test_two_sessions_with_work_are_served_alike(arrivals, data):
    play = Play()
    play.do(("join", Priority.INTERACTIVE, "a"))
    play.do(("join", Priority.INTERACTIVE, "b"))
    served = {"a": 0, "b": 0}
    for session, count in [*arrivals, ("a", 20), ("b", 20)]:
        for _ in range(count):
            play.do(("join", Priority.INTERACTIVE, session))
        for _ in range(data.draw(st.integers(0, 10))):
            if not both_wait(play):
                return
            served[play.jobs[next(iter(play.queue))].session_id] += 1
            play.do(("take", 0))
            assert abs(served["a"] - served["b"]) <= 1


@given(st.lists(st.tuples(st.sampled_from("eel"), st.integers(0, 3000)), min_size=300, max_size=1200))
@settings(max_examples=30, deadline=None)
def test_a_long_line_stays_sorted_whichever_end_things_happen_at(happenings):
    lane, wanted, orders = _Lane(), [], itertools.count()
    for kind, at in [("e", n) for n in range(0, 3000, 3)] + happenings:
        if kind == "e":
            place = (at, next(orders), "")
            lane.enter(place)
            insort(wanted, place)
        elif wanted:
            lane.leave(wanted.pop(at % min(len(wanted), 40) if at % 2 else at % len(wanted)))
        if len(wanted) % 50 == 0:
            assert list(lane) == wanted
    while wanted:
        assert len(lane) == len(wanted)
        assert lane.before(wanted[-1]) == len(wanted) - 1
        lane.leave(wanted.pop(0))
    assert list(lane) == []


@given(st.integers(0, 200), st.integers(1, 20))
def test_a_newcomer_waits_for_one_turn_of_a_long_session_not_for_all_of_it(backlog, served):
    play = Play()
    for _ in range(backlog + served):
        play.do(("join", Priority.INTERACTIVE, "long"))
    for _ in range(served):
        play.do(("take", 0))
    play.do(("join", Priority.INTERACTIVE, "new"))
    assert play.queue.position(f"job-{backlog + served + 1}") == 1


@given(st.integers(2, 60), st.integers(1, 60))
def test_old_batch_jobs_alternate_with_interactive_ones_and_neither_starves(old, interactive):
    play = Play()
    for _ in range(old):
        play.do(("join", Priority.BATCH, ""))
    play.do(("pass", int(PROMOTE_AFTER_S)))
    for _ in range(interactive):
        play.do(("join", Priority.INTERACTIVE, ""))
    kinds = [play.jobs[job_id].priority for job_id in play.queue]
    both = kinds[: 2 * min(old, interactive)]
    assert both[::2] == [Priority.BATCH] * min(old, interactive)
    assert both[1::2] == [Priority.INTERACTIVE] * min(old, interactive)


def test_a_job_is_promoted_once_and_keeps_that_place_when_it_comes_back():
    play = Play()
    play.do(("join", Priority.BATCH, "s"))
    play.do(("join", Priority.BATCH, "s"))
    play.do(("pass", int(PROMOTE_AFTER_S)))
    play.do(("take", 0))
    play.do(("pass", 1000))
    play.do(("join", Priority.INTERACTIVE, ""))
    play.do(("return", 0))
    assert list(play.queue) == ["job-1", "job-3", "job-2"], "the newcomer comes in the turn that is being served"


@given(st.integers(1, 40))
def test_a_batch_job_that_ran_when_its_time_came_is_promoted_when_it_comes_back(others):
    play = Play()
    play.do(("join", Priority.BATCH, ""))
    play.do(("take", 0))
    play.do(("pass", int(PROMOTE_AFTER_S)))
    for _ in range(others):
        play.do(("join", Priority.BATCH, ""))
    play.do(("return", 0))
    assert next(iter(play.queue)) == "job-1"
    assert play.urgent("job-1")
    play.do(("join", Priority.INTERACTIVE, ""))
    assert play.queue.position("job-1") <= 2

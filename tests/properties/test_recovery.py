"""Jobs among workers that die, links that break, callers that leave and queens that follow one another.

The queen's parts are the real ones; the workers at the other end of her links are played here, and time is virtual.
"""

import asyncio
import selectors
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queen.core.faults import StreamConnectionFailed, StreamReadError, WorkerCommunicationFailed
from queen.core.model import JobState, WorkerState
from queen.dispatch.callers import Callers
from queen.dispatch.dispatcher import JobDispatcher
from queen.dispatch.reconcile import Reconciler
from queen.dispatch.recovery import Recovery
from queen.links.workers import KnownGeneration
from queen.registry.jobs import JobTable, LiveJob
from queen.scheduler.cycle import SchedulingCycle
from queen.scheduler.simple import SimpleScheduler
from rbee.v1 import event_pb2, generation_pb2, inference_service_pb2
from wire import errors
from worlds import World, job, model_file

TOKENS = 6
ANSWER = "".join(f"t{n} " for n in range(TOKENS))
HIVES = ("ash", "birch")
START = 1_000_000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Never waits: when nothing is to be done, the next timer's time has come."""

    def __init__(self):
        self.passed = 0.0
        super().__init__(_Jumping(self))

    def time(self):
        return self.passed


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        assert timeout is not None, "everybody waits for somebody else"
        self._loop.passed += timeout
        return super().select(0)


class Clock:
    def now(self):
        return START + asyncio.get_running_loop().time()

    def monotonic(self):
        return asyncio.get_running_loop().time()


class Store:
    """What a queen has on disk; `kill` loses what was saved since the last `commit`."""

    def __init__(self):
        self.rows = {"jobs": {}, "requests": {}, "outputs": {}}
        self._disk = {name: dict(rows) for name, rows in self.rows.items()}

    def save_job(self, saved):
        self.rows["jobs"][saved.id] = saved

    def save_request(self, job_id, spec):
        self.rows["requests"][job_id] = spec

    def drop_request(self, job_id):
        self.rows["requests"].pop(job_id, None)

    def save_output(self, job_id, _, frames):
        self.rows["outputs"][job_id] = list(frames)

    def drop_output(self, job_id):
        self.rows["outputs"].pop(job_id, None)

    def save_decision(self, _):
        pass

    def commit(self):
        self._disk = {name: dict(rows) for name, rows in self.rows.items()}

    def kill(self):
        self.rows = {name: dict(rows) for name, rows in self._disk.items()}


def frame(sequence, **event):
    told = event_pb2.JobEvent(sequence=sequence, **event)
    return inference_service_pb2.InferResponse(events=[told]).SerializeToString()


class Made:
    """One generation on a worker, which gives a token when it is told to."""

    def __init__(self, attempt, first_sequence, begin):
        self.attempt, self.first_sequence, self.begin = attempt, first_sequence, begin
        self.frames = []  # (tokens of the answer after it, message)
        self.ended = False
        self.cancelled = False
        self.news = asyncio.Event()

    def step(self):
        made = self.begin + len(self.frames)
        sequence = self.first_sequence + len(self.frames)
        if made < TOKENS:
            tokens = event_pb2.Tokens(text=f"t{made} ", count=1, first_index=made, token_ids=[made])
            self.frames.append((made + 1, frame(sequence, tokens=tokens)))
        else:
            usage = generation_pb2.Usage(prompt_tokens=1, completion_tokens=TOKENS)
            done = event_pb2.Done(finish_reason=generation_pb2.FINISH_REASON_STOP, usage=usage)
            self.frames.append((2**60, frame(sequence, done=done)))
            self.ended = True
        self.tell()

    def tell(self):
        self.news.set()
        self.news = asyncio.Event()


class Call:
    """One Generate or Resume call, as the queen's links give it."""

    def __init__(self, worker, made, after):
        self._worker, self._made, self._after, self._place, self._links = worker, made, after, 0, worker.links

    async def read(self):
        while True:
            if not self._worker.alive or self._worker.links != self._links:
                raise StreamReadError("the link broke")
            if self._made.cancelled:
                raise StreamReadError("it was ended")
            if self._place < len(self._made.frames):
                tokens, message = self._made.frames[self._place]
                self._place += 1
                if tokens > self._after:
                    return message
            elif self._made.ended:
                return b""
            else:
                await self._made.news.wait()

    def cancel(self):
        pass


class Failed:
    def __init__(self, error):
        self._error = error

    async def read(self):
        raise self._error

    def cancel(self):
        pass


class Engine:
    """A worker: some slots, and every generation it was given."""

    def __init__(self, slots):
        self.slots, self.alive, self.links, self.made = slots, True, 0, {}

    def running(self):
        return [one for one in self.made.values() if not (one.ended or one.cancelled)]

    def tell(self):
        for one in self.made.values():
            one.tell()


class Links:
    """The queen's links to the workers of a test."""

    def __init__(self, engines):
        self._engines = engines

    def generate(self, worker, spec, *, job_id, attempt, first_sequence, generated):
        engine = self._engines[worker.id]
        if not engine.alive:
            return Failed(StreamConnectionFailed("it is dead"))
        if (job_id, attempt) in engine.made:
            return Failed(errors.AlreadyExists("it is there", "GENERATION_EXISTS"))
        if len(engine.running()) >= engine.slots:
            return Failed(errors.NoCapacity("all taken", "NO_FREE_SLOT"))
        assert generated == list(range(len(generated))), "an answer goes on after the tokens it has"
        made = engine.made[job_id, attempt] = Made(attempt, first_sequence, len(generated))
        return Call(engine, made, 0)

    def resume(self, worker, job_id, after_index):
        engine = self._engines[worker.id]
        if not engine.alive:
            return Failed(StreamConnectionFailed("it is dead"))
        attempts = [made for (owner, _), made in sorted(engine.made.items()) if owner == job_id]
        return Call(engine, attempts[-1], after_index) if attempts else Failed(errors.NotFound("none"))

    async def generations(self, worker):
        engine = self._engines[worker.id]
        if not engine.alive:
            raise WorkerCommunicationFailed("it is dead")
        known = [(owner, made) for (owner, _), made in engine.made.items()]
        return False, [KnownGeneration(owner, made.attempt, made.ended or made.cancelled) for owner, made in known]

    async def cancel(self, worker, job_id):
        engine = self._engines[worker.id]
        if not engine.alive:
            raise WorkerCommunicationFailed("it is dead")
        for (owner, _), made in engine.made.items():
            if owner == job_id:
                made.cancelled = not made.ended
                made.tell()


class Reader:
    """The caller of one job: what he has, and how he comes back."""

    def __init__(self, job_id):
        self.job_id, self.sequence, self.ids, self.text = job_id, 0, [], ""
        self.error = None
        self.ended = False
        self.task = None

    async def read(self, live):
        with live.feed.reader(self.sequence) as reader:
            try:
                while news := await reader.read():
                    for event in inference_service_pb2.InferResponse.FromString(news).events:
                        self.take(event)
                self.ended = True
            except errors.RbeeError as error:
                self.error, self.ended = error, True

    def take(self, event):
        assert event.sequence > self.sequence, "sequences grow"
        self.sequence = event.sequence
        if not event.HasField("tokens"):
            return
        assert event.tokens.first_index == len(self.ids), "no token is missing, and none comes twice"
        self.ids += event.tokens.token_ids
        self.text += event.tokens.text


class Game:
    """A cluster, one queen at a time, and the callers of her jobs."""

    def __init__(self, group):
        self.group, self.clock = group, Clock()
        self.store, self.engines, self.hive_of, self.readers = Store(), {}, {}, {}
        self.count = 0
        self.crown([])

    def crown(self, hives):
        """Lets a queen begin, with what the store has."""
        self.world = World()
        self.woken = asyncio.Event()
        self.world.cluster._wake = self.woken.set
        self.jobs = JobTable(self.store, self.woken.set)
        links, cluster = Links(self.engines), self.world.cluster
        self.dispatcher = JobDispatcher(
            jobs=self.jobs,
            cluster=cluster,
            links=links,
            clock=self.clock,
            jitter=lambda: 1.0,
            abandon=lambda _: None,
            group=self.group,
        )
        recovery = Recovery(jobs=self.jobs, dispatcher=self.dispatcher, clock=self.clock, wake=self.woken.set)
        self.callers = Callers(self.dispatcher.cancel, recovery.caller_is_back)
        self.reconciler = Reconciler(
            jobs=self.jobs,
            cluster=cluster,
            dispatcher=self.dispatcher,
            recovery=recovery,
            links=links,
            clock=self.clock,
            group=self.group,
        )
        cycle = SchedulingCycle(
            scheduler=SimpleScheduler(lambda prefix: prefix),
            jobs=self.jobs,
            cluster=cluster,
            dispatcher=self.dispatcher,
            starter=self,
            reject=self.dispatcher.reject,
            store=self.store,
            clock=self.clock,
            new_id=lambda prefix: prefix,
            woken=self.woken,
        )
        self.cycling = self.group.create_task(cycle.run())
        unfinished = [one for one in self.store.rows["jobs"].values() if not one.resting]
        for one in sorted(unfinished, key=lambda one: one.order):
            live = LiveJob(replace(one, state=JobState.QUEUED), self.store.rows["requests"][one.id])
            recovery.restore(live, self.store.rows["outputs"].get(one.id, []) if one.first_token_time else [])
        recovery.begin(hives, self.callers)
        for reader in self.readers.values():
            if not reader.ended:
                self.attach(reader)

    def start_for(self, proposal):
        """Starts nothing: workers come when a step brings them."""

    def tell_waiting(self, job_id):
        """Tells nothing."""

    # Steps.

    def submit(self):
        self.count += 1
        reader = self.readers[f"job-{self.count}"] = Reader(f"job-{self.count}")
        self.attach(reader)

    def attach(self, reader):
        live = self.jobs.get(reader.job_id)
        if live is None:  # it is new, or the queen was killed before she had noted it down
            fresh = job(reader.job_id, self.count, submit_time=self.clock.now(), timeout_s=3000.0)
            live = LiveJob(fresh, b"", prefix=tuple(reader.ids))
            live.feed.leap(max(reader.sequence + 1, 1))
            self.jobs.add(live)
        else:
            self.callers.came(live, reader.ids)
        reader.task = self.group.create_task(reader.read(live))

    def add_worker(self, slots, hive):
        worker_id = f"w{len(self.engines) + 1}"
        self.engines[worker_id] = Engine(slots)
        self.hive_of[worker_id] = HIVES[hive]
        self.report(hive)

    def report(self, hive):
        """Is a full report of a hive: it names the workers that live."""
        name = HIVES[hive]
        mine = [one for one, where in self.hive_of.items() if where == name and self.engines[one].alive]
        if self.world.cluster.get_hive(name) is None:
            self.world.add_hive(name, models=(model_file(),))
        for worker_id in mine:
            known = self.world.cluster.get_worker(worker_id)
            self.world.add_worker(worker_id, name, slots=self.engines[worker_id].slots)
            if known is None or known.doubtful:
                self.world.cluster.doubt(worker_id)
        self.world.cluster.keep_workers(name, frozenset(mine))
        self.world.cluster.heard(name, self.clock.now(), {})
        self.reconciler.heard(name)

    def step(self, which, count):
        for _ in range(count):
            running = [made for engine in self.engines.values() if engine.alive for made in engine.running()]
            if running:
                running[which % len(running)].step()

    def lose(self, which):
        """Kills a worker; its hive tells with its next report."""
        living = [engine for engine in self.engines.values() if engine.alive]
        if living:
            engine = living[which % len(living)]
            engine.alive = False
            engine.tell()

    def cut(self, which):
        """Breaks the links to a worker, which goes on."""
        living = [engine for engine in self.engines.values() if engine.alive]
        if living:
            engine = living[which % len(living)]
            engine.links += 1
            engine.tell()

    def return_(self, which):
        """Breaks a caller's call; he comes back at once."""
        reading = [one for one in self.readers.values() if not one.ended and not one.task.done()]
        if reading:
            reader = reading[which % len(reading)]
            reader.task.cancel()
            self.attach(reader)

    def cancel(self, which):
        alive = [one for one in self.jobs.alive() if not one.held]
        if alive:
            self.dispatcher.cancel(alive[which % len(alive)], "a test")

    def restart(self, noted, lost):
        """Is SIGKILL for the queen, and another one after her; `lost` workers are killed with her."""
        if noted:
            self.store.commit()
        for which in range(lost):
            self.lose(which)
        for live in self.jobs.alive():
            for timer in (live.deadline, live.queue_limit, live.leaving):
                if timer is not None:
                    timer.cancel()
            if live.task is not None:
                live.task.cancel()
        self.cycling.cancel()
        for reader in self.readers.values():
            if reader.task is not None:
                reader.task.cancel()
        self.store.kill()
        asyncio.get_running_loop().passed += 1.0  # a queen takes her time to start
        self.crown([hive for hive in HIVES if self.world.cluster.get_hive(hive) is not None])

    def check(self):
        for worker_id, engine in self.engines.items():
            worker = self.world.cluster.get_worker(worker_id)
            assert len(engine.running()) <= engine.slots
            if worker is not None and worker.state is not WorkerState.FAILED:
                assert 0 <= len(self.world.cluster.jobs_on(worker_id)) <= worker.slots_total

    async def settle(self):
        """Lets everything come to rest, with workers that live."""
        self.add_worker(2, 0)
        for _ in range(400):
            if not self.jobs.alive() and all(reader.ended for reader in self.readers.values()):
                break
            for hive in range(len(HIVES)):
                self.report(hive)
            for engine in self.engines.values():
                for made in engine.running() if engine.alive else ():
                    made.step()
            await asyncio.sleep(1.0)
            self.check()
        assert [live.job for live in self.jobs.alive()] == []
        for reader in self.readers.values():
            if reader.error is None:
                assert reader.text == ANSWER
            else:
                assert reader.error.retriable or reader.error.reason == "JOB_CANCELLED", reader.error
                assert ANSWER.startswith(reader.text)
        assert self.store.rows["requests"] == self.store.rows["outputs"] == {}
        for worker_id in self.engines:
            assert self.world.cluster.jobs_on(worker_id) == frozenset()


WHICH = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit")),
        st.tuples(st.just("step"), WHICH, st.integers(1, 3)),
        st.tuples(st.just("add_worker"), st.integers(1, 2), st.integers(0, 1)),
        st.tuples(st.just("report"), st.integers(0, 1)),
        st.tuples(st.just("lose"), WHICH),
        st.tuples(st.just("cut"), WHICH),
        st.tuples(st.just("return_"), WHICH),
        st.tuples(st.just("cancel"), WHICH),
        st.tuples(st.just("restart"), st.booleans(), st.integers(0, 2)),
        st.tuples(st.just("pass"), st.sampled_from([0.0, 0.5, 3.0, 12.0])),
    ),
    min_size=5,
    max_size=40,
)


async def play(steps):
    async with asyncio.TaskGroup() as group:
        game = Game(group)
        game.add_worker(2, 0)
        game.submit()
        for name, *arguments in steps:
            if name == "pass":
                await asyncio.sleep(arguments[0])
                game.store.commit()
            else:
                getattr(game, name)(*arguments)
                for _ in range(3):
                    await asyncio.sleep(0)
            game.check()
        await game.settle()
        game.cycling.cancel()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # a queen is killed before a task has begun
@pytest.mark.soak
@given(STEPS)
@settings(max_examples=400, deadline=None)
def test_every_job_comes_to_rest_and_its_caller_has_each_token_once(steps):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play(steps))

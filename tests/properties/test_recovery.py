"""Jobs among workers that die, links that break, callers that leave and queens that follow one another.

The queen's parts are the real ones; the workers at the other end of her links are played, and time is virtual. Each
queen has an event loop of her own: when she is killed, nothing of her runs again, and what she had not yet written is
gone.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from lone_queen import Disk, LoneQueen
from played_workers import ANSWER, ANSWER_IDS, PATIENCE_S, Engine
from queen.core.model import JobState
from queen.links import events
from queen.services.inference import attend
from queen.services.rested import Rested
from rbee.v1 import inference_service_pb2
from wire import errors

HIVES = ("ash", "birch")
START_S = 1_000_000.0
FINAL = {"JOB_CANCELLED", "FIRST_TOKEN_TIMED_OUT"}
"""Ends of a job that nobody tries again."""
LONGEST_S = 400
"""More than all waits of a queen that has lost everything take together, one after the other."""


class Reader:
    """The caller of one job, who comes back when his connection breaks, as the client library does."""

    def __init__(self):
        self.job_id, self.sequence, self.ids, self.text = "", 0, [], ""
        self.error = None
        self.ended = self.left = False
        self.task = None

    async def read(self, queen, new_job):
        try:
            live = queen.jobs.get(self.job_id)
            if live is None and self.job_id in queen.journal.rows["jobs"]:
                rested = Rested(queen.journal, queen.dispatcher)
                await rested.tell(queen.journal.rows["jobs"][self.job_id], self, after_sequence=self.sequence)
                self.ended = True
                return
            if live is None:  # he is new, or the queen was killed before she had noted his job down
                live = queen.accept(*new_job(), detached=False, received=self.ids)
                self.job_id, self.sequence = live.job.id, 0
            queen.callers.came(live, self.ids)
            await attend(live, queen.jobs, queen.callers, self, after_sequence=self.sequence)
            self.ended = True
        except errors.RbeeError as error:
            self.error, self.ended = error, True

    async def write(self, message):
        for event in inference_service_pb2.InferResponse.FromString(message).events:
            assert event.sequence > self.sequence, "sequences grow"
            self.sequence = event.sequence
            if event.HasField("tokens"):
                assert event.tokens.first_index == len(self.ids), "no token is missing, and none comes twice"
                self.ids += event.tokens.token_ids
                self.text += event.tokens.text


class Game:
    """A cluster, one queen at a time, and the callers of her jobs."""

    def __init__(self):
        self.disk, self.engines, self.readers = Disk(), {}, []
        self.hives = {name: [] for name in HIVES}
        self.known_hives = set()
        self.acknowledged = set()
        self.count = 0
        self.queen = LoneQueen(self.disk, self.engines, (), START_S)

    def do(self, name, *arguments):
        with self.queen.loop.entered():
            getattr(self, name)(*arguments)
        self.check()

    # What callers do.

    def new_job(self):
        self.count += 1
        return f"job-{self.count}", self.count

    def submit(self):
        self.readers.append(Reader())
        self.call(self.readers[-1])

    def call(self, reader):
        reader.task = self.queen.loop.create_task(reader.read(self.queen, self.new_job))

    def submit_detached(self):
        self.queen.accept(*self.new_job(), detached=True, received=())

    def return_(self, which):
        """Breaks a caller's call; he comes back at once."""
        if reader := chosen(self.readers_there(), which):
            reader.task.cancel()
            self.call(reader)

    def leave(self, which):
        """Ends a caller's call for good."""
        if reader := chosen(self.readers_there(), which):
            reader.task.cancel()
            reader.left = True

    def readers_there(self):
        return [reader for reader in self.readers if not reader.ended and not reader.left]

    def cancel(self, which):
        if live := chosen(self.queen.jobs.alive(), which):
            self.queen.dispatcher.cancel(live, "a test")

    # What machines do.

    def add_worker(self, slots, hive):
        engine = self.engines[f"w{len(self.engines) + 1}"] = Engine(f"w{len(self.engines) + 1}", slots)
        self.hives[HIVES[hive]].append(engine)
        self.report(hive)

    def report(self, hive):
        self.known_hives.add(HIVES[hive])
        self.queen.hear(HIVES[hive], self.hives[HIVES[hive]])

    def living(self):
        return [engine for engine in self.engines.values() if engine.alive]

    def step(self, which):
        """Lets a generation go on."""
        working = [engine for engine in self.living() if not engine.frozen]
        if made := chosen([made for engine in working for made in engine.running()], which):
            made.step()
            self.queen.links.news.tell()

    def lose(self, which):
        """Kills a worker; its hive tells with its next report."""
        if engine := chosen(self.living(), which):
            self.queen.links.end(engine.worker_id)

    def cut(self, which):
        """Breaks the links to a worker, which goes on."""
        if engine := chosen(self.living(), which):
            engine.links += 1
            self.queen.links.news.tell()

    def freeze(self, which):
        """Stops a worker, or lets it go on when it was stopped."""
        if engine := chosen(self.living(), which):
            engine.frozen = not engine.frozen
            self.queen.links.news.tell()

    # What time does.

    def turn(self):
        self.queen.loop.turn()
        self.check()

    def pass_(self, seconds):
        self.queen.loop.pass_time(seconds)
        with self.queen.loop.entered():
            self.queen.watch_silence()
        self.check()

    def commit(self):
        self.queen.journal.commit()
        self.acknowledged |= {one.id for one in self.disk.rows["jobs"].values() if one.detached}

    def restart(self, lost):
        """Is SIGKILL for the queen, and another one after her; `lost` workers are killed with her."""
        self.queen.loop.kill()
        for which in range(lost):
            self.lose(which)
        began_s = self.queen.loop.time() + 1.0  # a queen takes her time to start
        self.queen = LoneQueen(self.disk, self.engines, self.known_hives, began_s)
        for reader in self.readers_there():
            self.call(reader)

    def stop(self, lost):
        """Stops the queen in order, and is another one after her."""
        with self.queen.loop.entered():
            self.queen.stop()
        self.queen.loop.pass_time(PATIENCE_S)
        self.commit()
        self.restart(lost)

    # What has to hold.

    def check(self):
        cluster = self.queen.cluster
        for reader in self.readers:
            if reader.task.done() and not reader.task.cancelled():
                reader.task.result()
        for worker_id in self.engines:
            worker = cluster.get_worker(worker_id)
            if worker is not None:
                assert len(cluster.jobs_on(worker_id)) <= worker.slots_total

    def settle(self):
        """Lets everything come to rest, with workers that live."""
        self.do("add_worker", 2, 0)
        seconds = 0
        while self.queen.jobs.alive() or self.readers_there():
            self.go_on()
            assert (seconds := seconds + 1) < LONGEST_S
        for engine in self.engines.values():
            engine.frozen = False
        for _ in range(3):  # workers are told of what has ended, those that could not be are asked again
            self.go_on()
        self.check_rest()

    def go_on(self):
        """Is a second in which hives report and workers work."""
        for hive in range(len(HIVES)):
            self.do("report", hive)
        self.step_all()
        self.pass_(1.0)

    def step_all(self):
        """Lets those generations go on that belong to a job; it is for the queen to end the others."""
        for engine in self.living():
            if engine.frozen:
                continue
            for (job_id, _), made in engine.made.items():
                live = self.queen.jobs.get(job_id)
                if made.running and live is not None and not live.job.resting:
                    made.step()
        self.queen.links.news.tell()

    def check_rest(self):
        queen, rows = self.queen, self.queen.journal.rows
        assert [live.job for live in queen.jobs.alive()] == []
        for reader in self.readers:
            self.check_reader(reader)
        for job_id in self.acknowledged:
            assert rows["jobs"][job_id].resting
        complete = {one.id: one for one in rows["jobs"].values() if one.state is JobState.COMPLETE}
        assert rows["requests"] == {}
        assert {one.id for one in complete.values() if one.detached} <= rows["outputs"].keys() <= complete.keys()
        for job_id, frames in rows["outputs"].items():
            # What the caller of an attended one had before its last worker is not among it.
            ids = events.generated_token_ids(frames)
            assert ids == (ANSWER_IDS if complete[job_id].detached else ANSWER_IDS[-len(ids) :])
        for engine in self.living():
            assert engine.running() == []
            assert queen.cluster.jobs_on(engine.worker_id) == frozenset()

    def check_reader(self, reader):
        assert reader.ended or reader.left
        assert ANSWER.startswith(reader.text)
        if reader.error is None:
            assert reader.left or reader.text == ANSWER
        elif reader.error.reason == "OUTPUT_DROPPED":
            worker_id = self.queen.journal.rows["jobs"][reader.job_id].attempt.worker_id
            assert not self.engines[worker_id].alive, "the last memory of it was the worker's"
        else:
            assert reader.error.retriable or reader.error.reason in FINAL, reader.error


def chosen(things, which):
    things = list(things)
    return things[which % len(things)] if things else None


WHICH = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("turn")),
        st.tuples(st.just("pass_"), st.sampled_from([0.0, 0.03, 0.5, 3.0, 12.0])),
        st.tuples(st.just("commit")),
        st.tuples(st.just("submit")),
        st.tuples(st.just("submit_detached")),
        st.tuples(st.just("step"), WHICH),
        st.tuples(st.just("add_worker"), st.integers(1, 2), st.integers(0, 1)),
        st.tuples(st.just("report"), st.integers(0, 1)),
        st.tuples(st.just("lose"), WHICH),
        st.tuples(st.just("cut"), WHICH),
        st.tuples(st.just("return_"), WHICH),
        st.tuples(st.just("leave"), WHICH),
        st.tuples(st.just("cancel"), WHICH),
        st.tuples(st.just("freeze"), WHICH),
        st.tuples(st.just("restart"), st.integers(0, 2)),
        st.tuples(st.just("stop"), st.integers(0, 2)),
    ),
    min_size=5,
    max_size=60,
)


@given(STEPS)
@settings(max_examples=3 * settings.default.max_examples)  # each takes a few milliseconds
def test_every_job_comes_to_rest_and_its_caller_has_each_token_once(steps):
    game = Game()
    try:
        game.do("add_worker", 2, 0)
        game.do("submit")
        for name, *arguments in steps:
            if name in ("turn", "pass_", "restart", "stop"):
                getattr(game, name)(*arguments)
            else:
                game.do(name, *arguments)
        game.settle()
    finally:
        game.queen.loop.kill()

"""Workers as a queen sees them over her links, played in her own process: they give a token when they are told to."""

from __future__ import annotations

import asyncio

from queen.core.faults import StreamConnectionFailed, StreamReadError, WorkerCommunicationFailed
from queen.links.workers import KnownGeneration
from rbee.v1 import event_pb2, generation_pb2, inference_service_pb2
from wire import errors

TOKENS = 6
ANSWER = "".join(f"t{n} " for n in range(TOKENS))
ANSWER_IDS = list(range(TOKENS))
WAY_S = 0.02
"""How long a message takes to a worker, and the answer back."""
PATIENCE_S = 2.0
"""How long the links wait for an answer."""


def frame(sequence, **event):
    told = event_pb2.JobEvent(sequence=sequence, **event)
    return inference_service_pb2.InferResponse(events=[told]).SerializeToString()


class Made:
    """One generation on a worker."""

    def __init__(self, attempt, first_sequence, begin):
        self.attempt, self._first_sequence, self._begin = attempt, first_sequence, begin
        self.frames = []  # (tokens of the answer after it, message)
        self.ended = False
        self.cancelled = False

    @property
    def running(self):
        return not (self.ended or self.cancelled)

    def step(self):
        """Makes the next token, or the end."""
        made = self._begin + len(self.frames)
        sequence = self._first_sequence + len(self.frames)
        if made < TOKENS:
            tokens = event_pb2.Tokens(text=f"t{made} ", count=1, first_index=made, token_ids=[made])
            self.frames.append((made + 1, frame(sequence, tokens=tokens)))
        else:
            usage = generation_pb2.Usage(prompt_tokens=1, completion_tokens=TOKENS)
            done = event_pb2.Done(finish_reason=generation_pb2.FINISH_REASON_STOP, usage=usage)
            self.frames.append((2**60, frame(sequence, done=done)))
            self.ended = True


class Engine:
    """A worker: some slots, and every generation it was given.

    `frozen`: nothing comes from it, as from a process that is stopped. `links`: how often its links were cut.
    """

    def __init__(self, worker_id, slots):
        self.worker_id, self.slots, self.made = worker_id, slots, {}
        self.alive, self.frozen, self.links = True, False, 0

    def running(self):
        return [one for one in self.made.values() if one.running]

    def of(self, job_id):
        """Returns what it has of a job, oldest attempt first."""
        return [made for (owner, _), made in sorted(self.made.items()) if owner == job_id]


class Call:
    """One Generate or Resume call, as the queen's links give it."""

    def __init__(self, news, engine, made, after):
        self._news, self._engine, self._made, self._after = news, engine, made, after
        self._place, self._links = 0, engine.links

    async def read(self):
        while True:
            if not self._engine.alive or self._engine.links != self._links:
                raise StreamReadError("the link broke")
            if self._engine.frozen:
                await self._news.wait()
            elif self._place < len(self._made.frames):
                tokens, message = self._made.frames[self._place]
                self._place += 1
                if tokens > self._after:
                    return message
            elif self._made.cancelled:
                raise StreamReadError("it was ended")
            elif self._made.ended:
                return b""
            else:
                await self._news.wait()

    def cancel(self):
        pass


class Failed:
    """A call that the worker refuses."""

    def __init__(self, error):
        self._error = error

    async def read(self):
        raise self._error

    def cancel(self):
        pass


class News:
    """Wakes everybody who waits when something has happened to a worker."""

    def __init__(self):
        self._event = asyncio.Event()

    async def wait(self):
        await self._event.wait()

    def tell(self):
        self._event.set()
        self._event = asyncio.Event()


class PlayedLinks:
    """The links of one queen to the workers of a test. They go with her."""

    def __init__(self, engines):
        self._engines = engines
        self.news = News()

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
        return Call(self.news, engine, made, 0)

    def resume(self, worker, job_id, after_index):
        engine = self._engines[worker.id]
        if not engine.alive:
            return Failed(StreamConnectionFailed("it is dead"))
        attempts = engine.of(job_id)
        return Call(self.news, engine, attempts[-1], after_index) if attempts else Failed(errors.NotFound("none"))

    async def generations(self, worker):
        engine = await self._reach(worker)
        known = [KnownGeneration(job_id, one.attempt, not one.running) for (job_id, _), one in engine.made.items()]
        await asyncio.sleep(WAY_S)
        return False, known

    async def cancel(self, worker, job_id):
        engine = await self._reach(worker)
        for made in engine.of(job_id):
            made.cancelled = not made.ended
        self.news.tell()
        await asyncio.sleep(WAY_S)

    def end(self, worker_id):
        self._engines[worker_id].alive = False
        self.news.tell()

    async def _reach(self, worker):
        await asyncio.sleep(WAY_S)
        engine = self._engines[worker.id]
        if not engine.alive:
            raise WorkerCommunicationFailed("it is dead")
        if engine.frozen:
            await asyncio.sleep(PATIENCE_S)
            raise WorkerCommunicationFailed("it does not answer")
        return engine

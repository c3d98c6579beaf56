"""The table of generations: who has which slot, and what is kept for callers who come back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from wire import errors
from wire.clock import Clock
from worker.engines.port import Ending, Engine, Piece, Request
from worker.generation import Generation, Ticket

log = logging.getLogger(__name__)

KEEP_S: Final = 120.0
"""How long an ended generation waits for Resume: longer than a queen takes to restart, or a hive to reconnect."""
KEEP_BYTES: Final = 64 * 2**20
"""Most bytes of ended generations; beyond it the oldest go first. Their prompts are not kept."""
_RETRY_S: Final = 1.0


class Generations:
    """Runs generations on an engine's slots, each in a task of `tasks`, and keeps those that were to be kept."""

    def __init__(self, engine: Engine, tasks: asyncio.TaskGroup, clock: Clock) -> None:
        self._engine = engine
        self._tasks = tasks
        self._clock = clock
        self._running: dict[Generation, asyncio.Task[None]] = {}
        self._kept: dict[Generation, None] = {}  # in the order they ended
        self._kept_bytes = 0
        self._by_job: defaultdict[str, dict[int, Generation]] = defaultdict(
            dict
        )  # job -> attempt -> what runs or is kept
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    @property
    def free_slots(self) -> int:
        """Slots no generation has."""
        return max(0, self._engine.slots - len(self._running))

    def all(self) -> list[Generation]:
        """Returns what runs and what is kept."""
        self._forget_old()
        return [*self._running, *self._kept]

    def of_job(self, job_id: str) -> list[Generation]:
        """Returns a job's generations, the latest attempt last. Raises `NotFound` when there is none."""
        self._forget_old()
        found = self._by_job.get(job_id)
        if not found:
            raise errors.NotFound(f"this worker has no generation of job {job_id}", "GENERATION_NOT_FOUND")
        return [found[attempt] for attempt in sorted(found)]

    def start(self, ticket: Ticket, request: Request, when_ended: Callable[[Generation], None]) -> Generation:
        """Starts a generation on a free slot. Raises WORKER_DRAINING, GENERATION_EXISTS or NO_FREE_SLOT."""
        if self.draining:
            raise errors.Unreachable("this worker is draining and takes no new work", "WORKER_DRAINING")
        self._forget_old()
        if ticket.attempt in self._by_job.get(ticket.job_id, ()):
            raise errors.AlreadyExists(
                f"attempt {ticket.attempt} of job {ticket.job_id} runs here already, or is kept: use Resume",
                "GENERATION_EXISTS",
            )
        if not self.free_slots:
            raise errors.NoCapacity(
                f"all {self._engine.slots} slots of this worker are taken", "NO_FREE_SLOT", retry_after_s=_RETRY_S
            )
        generation = Generation(ticket, request, self._clock)
        task = self._tasks.create_task(self._run(generation, request))
        self._running[generation] = task
        self._by_job[ticket.job_id][ticket.attempt] = generation
        self._idle.clear()
        task.add_done_callback(lambda _: self._settle(generation, when_ended))
        return generation

    async def end(self, generations: Iterable[Generation]) -> None:
        """Ends generations; returns when their slots are free. Those that have ended stay as they are."""
        tasks = [task for generation in generations if (task := self._running.get(generation)) is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def drained(self) -> None:
        """Returns when no generation runs."""
        await self._idle.wait()

    async def _run(self, generation: Generation, request: Request) -> None:
        try:
            outcome: Ending | errors.RbeeError = await self._feed(generation, request)
        except errors.RbeeError as error:
            outcome = error
        except Exception:
            log.exception("a generation failed", extra={"job_id": generation.ticket.job_id})
            outcome = errors.Internal(f"{self._engine.name} failed; see the worker's log", "ENGINE_FAILED")
        self._conclude(generation, outcome)

    async def _feed(self, generation: Generation, request: Request) -> Ending:
        ending = Ending("length", 0)
        if request.max_tokens is None or request.max_tokens > len(request.generated_token_ids):
            async with contextlib.aclosing(self._engine.generate(request)) as items:
                async for item in items:
                    if isinstance(item, Piece):
                        generation.add(item)
                    else:
                        ending = item
        return ending

    def _settle(self, generation: Generation, when_ended: Callable[[Generation], None]) -> None:
        """Concludes a generation whose task was cancelled, perhaps before it ever ran, and says that it has ended."""
        if not generation.ended:
            job_id = generation.ticket.job_id
            self._conclude(generation, errors.Cancelled(f"job {job_id} was cancelled", "JOB_CANCELLED"))
        when_ended(generation)

    def _conclude(self, generation: Generation, outcome: Ending | errors.RbeeError) -> None:
        """Frees the slot, then sends the last event: whoever has that may send the next job at once."""
        del self._running[generation]
        if isinstance(outcome, Ending):
            generation.finish(outcome)
        else:
            generation.fail(outcome)
        if generation.ticket.keep:
            self._kept[generation] = None
            self._kept_bytes += generation.kept_bytes
            self._forget_old()
        else:
            self._forget(generation)
        if not self._running:
            self._idle.set()

    def _forget_old(self) -> None:
        oldest = self._clock.monotonic() - KEEP_S
        while self._kept:
            generation = next(iter(self._kept))
            if generation.end_s > oldest and self._kept_bytes <= KEEP_BYTES:
                return
            del self._kept[generation]
            self._kept_bytes -= generation.kept_bytes
            self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        attempts = self._by_job[generation.ticket.job_id]
        del attempts[generation.ticket.attempt]
        if not attempts:
            del self._by_job[generation.ticket.job_id]

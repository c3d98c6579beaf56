"""What callers get of a job that is at rest and no longer in RAM."""

from __future__ import annotations

from typing import Any

import grpc

from queen.core.model import Job, JobState
from queen.core.ports import Store
from queen.dispatch.dispatcher import JobDispatcher
from queen.links import events
from queen.registry.feed import MOST_JOINED
from wire import errors, status

Context = grpc.aio.ServicerContext[Any, Any]


class Rested:
    """Tells the end of jobs from what the store, or else their last worker, keeps of them."""

    def __init__(self, store: Store, dispatcher: JobDispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    async def tell(self, job: Job, context: Context, head: bytes = b"", after_sequence: int = 0) -> None:
        """Writes a job's events after a sequence, `head` in front of the first; raises the error it ended with.

        Raises `WrongState` OUTPUT_DROPPED where nobody keeps them.
        """
        if job.failure is not None:
            raise status.from_code_number(job.failure.code, job.failure.message, job.failure.reason)
        if job.state is JobState.CANCELLED:
            raise errors.Cancelled(f"job {job.id} was cancelled", "JOB_CANCELLED")
        # A queen that was killed right after the end of a job may not have handed on the last of it.
        _, kept = await self._store.get_output(job.id) or (0, await self._dispatcher.kept_events(job))
        if not kept:
            raise errors.WrongState(
                f"the output of job {job.id} is no longer kept; see: rbee jobs show {job.id}", "OUTPUT_DROPPED"
            )
        news = [frame for frame in kept if events.sequence_of(frame) > after_sequence]
        for begin in range(0, len(news), MOST_JOINED):
            await context.write(head + b"".join(news[begin : begin + MOST_JOINED]))
            head = b""
        if not job.detached:
            self._store.drop_output(job.id)  # it was kept for this caller alone

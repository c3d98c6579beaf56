"""What becomes of the jobs of the queen before: taken over from workers that still have them, else queued again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from queen.core.model import Failure
from queen.dispatch.callers import Callers
from queen.dispatch.dispatcher import JobDispatcher
from queen.dispatch.reconnect import RECONNECT_S
from queen.links import events
from queen.registry.jobs import JobTable, LiveJob
from wire import errors
from wire.clock import Clock

log = logging.getLogger(__name__)

TOGETHER_S: Final = 3.0
"""How long jobs whose callers are back wait for the others, to keep their order; callers try at least every 2 s."""

CALLER_GRACE_S: Final = 30.0
"""How long the callers of an earlier queen may take to come back; the client library tries for as long."""

_LOST: Final = "the worker was lost while the queen was away"


class Recovery:
    """Holds every job of an earlier queen back until it is known where it stands.

    A hive's first report and what its workers then say settles the jobs that were on it: `settled` is called for it.
    A job that nobody has any more is queued again once all hives that were there are settled, or after `RECONNECT_S`.
    Its caller has to be back for that: only he knows which tokens he has.
    """

    def __init__(self, *, jobs: JobTable, dispatcher: JobDispatcher, clock: Clock, wake: Callable[[], None]) -> None:
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._clock = clock
        self._wake = wake
        self._first = int(clock.now() * 1000)  # above every sequence of an earlier queen: she sent fewer than one a ms
        self._held: dict[str, LiveJob] = {}
        self._awaited: set[str] = set()
        self._absent: set[str] = set()
        self._settled = False
        self._over = False

    def restore(self, live: LiveJob, kept: list[bytes]) -> None:
        """Takes a job in, with the events that were kept of it."""
        for frame in kept:
            live.feed.leap(events.sequence_of(frame))
            live.feed.append(frame)
        live.feed.leap(max(live.feed.last_sequence + 1, self._first) if kept else self._first)
        live.held, live.taken_over = True, True
        live.present = live.job.detached
        live.grace_s = 0.0 if live.job.detached else CALLER_GRACE_S
        self._held[live.job.id] = live
        if not live.present:
            self._absent.add(live.job.id)
        self._jobs.restore(live)

    def begin(self, hive_ids: Collection[str], callers: Callers) -> None:
        """Begins to wait for the hives that were there, and for the callers."""
        if not self._held:
            self._settled = self._over = True
            return
        log.info("%d jobs of an earlier queen; hives to wait for: %s", len(self._held), ", ".join(hive_ids) or "none")
        for job_id in self._absent:
            self._dispatcher.set_deadline(self._held[job_id])
            callers.expect(self._held[job_id])
        self._awaited = set(hive_ids)
        asyncio.get_running_loop().call_later(RECONNECT_S if hive_ids else 0.0, self._all_settled)

    def taken_over(self, live: LiveJob) -> None:
        """Notes that a job was found on a worker and goes on there."""
        self._held.pop(live.job.id, None)
        live.held = False

    def not_there(self, live: LiveJob) -> None:
        """Notes that nothing came of a job that was taken over: it goes on after what its caller has, as others do."""
        live.held = True
        self._held[live.job.id] = live
        if self._over and live.present:
            self._release(live)

    def settled(self, hive_id: str) -> None:
        """Notes that a hive and its workers have told all they run: what was on it and is not named is lost."""
        if self._settled:
            return
        for live in list(self._held.values()):
            if live.open_attempt is not None and live.open_attempt.hive_id == hive_id:
                self._give_up_attempt(live)
        if hive_id in self._awaited:
            self._awaited.discard(hive_id)
            if not self._awaited:
                self._all_settled()

    def caller_is_back(self, live: LiveJob) -> None:
        """Notes that the caller of a job has come back."""
        self._absent.discard(live.job.id)
        if self._over and live.held:
            self._release(live)
            self._wake()
        elif self._settled and not self._absent:
            self._release_all()

    def _all_settled(self) -> None:
        if self._settled:
            return
        self._settled = True
        if self._awaited:
            log.warning("%s did not report again; their jobs go elsewhere", ", ".join(sorted(self._awaited)))
            self._awaited.clear()
        for live in list(self._held.values()):
            if live.open_attempt is not None:
                self._give_up_attempt(live)
        if not self._absent:
            self._release_all()
        else:
            asyncio.get_running_loop().call_later(TOGETHER_S, self._release_all)

    def _release_all(self) -> None:
        if self._over:
            return
        self._over = True
        for live in list(self._held.values()):
            if live.present:
                self._release(live)
        self._wake()

    def _release(self, live: LiveJob) -> None:
        """Lets a job be given to a worker: it goes on after what its caller has."""
        self._held.pop(live.job.id, None)
        live.held = False
        if live.job.resting:
            return
        if live.job.no_failover and live.received:
            self._dispatcher.fail(live, errors.Unreachable(_LOST, "WORKER_LOST"))
            return
        begin = next((index for frame in live.feed.frames if (index := events.first_token_index(frame)) is not None), 0)
        if begin + events.token_count(live.feed.frames) < len(live.received):
            live.prefix = live.received
            live.feed.forget()
        elif begin:
            live.prefix = live.received[:begin] if len(live.received) >= begin else None
        self._dispatcher.set_queue_limit(live)

    def _give_up_attempt(self, live: LiveJob) -> None:
        self._jobs.lost(live, Failure("WORKER_LOST", _LOST, 14, True), self._clock.now())
        if not self._dispatcher.may_try_again(live):
            self._held.pop(live.job.id, None)
            self._dispatcher.fail(live, errors.Unreachable(_LOST, "WORKER_LOST"))

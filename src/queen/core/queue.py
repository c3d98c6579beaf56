"""The order in which waiting jobs are served: interactive before batch, sessions in turn, batch jobs in the end too."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import Final

from queen.core.drain import DrainRate
from queen.core.model import Job, Priority

PROMOTE_AFTER_S: Final = 300.0
"""A batch job that has waited this long goes with the interactive ones (architecture.md section 2)."""

_SWEEP_AT: Final = 256
"""Entries kept of what may be over before the first look at whether it is; twice what was left before each other."""

_Session = tuple[Priority, str]


@dataclass(slots=True)
class _Ticket:
    """A job's place. It keeps it while the job runs, for the case that it comes back."""

    order: int
    priority: Priority
    session_id: str
    model_ref: str
    submit_time: float
    lane: Priority
    turn: int
    waits: bool = True

    def place(self, job_id: str) -> tuple[int, int, str]:
        return self.turn, self.order, job_id


class _Lane:
    """The jobs of one class in order of (turn, order).

    Turns are those of start-time fair queueing (Goyal, Vin, Cheng 1996) with jobs of equal cost: the sessions of a lane
    are served one job each per turn, and one that comes new begins at the turn that is being served.
    """

    def __init__(self) -> None:
        self.line: list[tuple[int, int, str]] = []
        self._turn = 0
        self._last: dict[_Session, int] = {}
        self._sweep_at = _SWEEP_AT

    def next_turn(self, session: _Session) -> int:
        return max(self._turn, self._last.get(session, -1) + 1)

    def draw_turn(self, session: _Session) -> int:
        turn = self._last[session] = self.next_turn(session)
        if len(self._last) > self._sweep_at:
            # A session whose last turn is over begins anew like an unknown one.
            self._last = {known: last for known, last in self._last.items() if last >= self._turn}
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._last))
        return turn

    def enter(self, place: tuple[int, int, str]) -> None:
        insort(self.line, place)

    def leave(self, place: tuple[int, int, str]) -> None:
        del self.line[bisect_left(self.line, place)]

    def served(self, turn: int) -> None:
        self._turn = turn


class JobQueue:
    """The waiting jobs in queue order, by their ids. Pure: the same calls give the same order.

    Within a class each session has its turn, so that one with a thousand jobs does not keep another waiting; jobs
    without a session share one, so that among them the oldest is next. A batch job that has waited `PROMOTE_AFTER_S`
    joins the interactive ones, once, as a session of its own kind: old batch jobs alternate with interactive ones.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, _Ticket] = {}
        self._lanes = {priority: _Lane() for priority in Priority}
        self._ageing: list[tuple[float, int, str]] = []  # a heap of batch jobs by submission, gone ones among them
        self._depth: Counter[Priority] = Counter()
        self._by_model: Counter[tuple[Priority, str]] = Counter()
        self._drain: defaultdict[str, DrainRate] = defaultdict(DrainRate)
        self._sweep_at = _SWEEP_AT

    def __len__(self) -> int:
        return sum(self._depth.values())

    def __iter__(self) -> Iterator[str]:
        """Yields the ids in queue order, lazily; the queue must not change meanwhile."""
        lanes = self._lanes
        line = chain(lanes[Priority.INTERACTIVE].line, lanes[Priority.BATCH].line)
        return (job_id for _, _, job_id in line)

    def join(self, job: Job) -> None:
        """Takes a job in; one that was taken out comes back to its old place."""
        ticket = self._tickets.get(job.id)
        if ticket is None:
            turn = self._lanes[job.priority].draw_turn((job.priority, job.session_id))
            ticket = self._tickets[job.id] = _Ticket(
                job.order, job.priority, job.session_id, job.model_ref, job.submit_time, job.priority, turn
            )
        ticket.waits = True
        self._lanes[ticket.lane].enter(ticket.place(job.id))
        self._depth[ticket.priority] += 1
        self._by_model[ticket.lane, ticket.model_ref] += 1
        if ticket.lane is Priority.BATCH:
            self._age(ticket, job.id)

    def take(self, job_id: str, now: float) -> None:
        """Takes a waiting job out because it was given to a worker."""
        ticket = self._tickets[job_id]
        self._leave(ticket, job_id)
        self._lanes[ticket.lane].served(ticket.turn)
        self._drain[ticket.priority].left(now, self._depth[ticket.priority])
        self._drain[ticket.model_ref].left(now, self.waiting_for(ticket.model_ref))
        if len(self._drain) > self._sweep_at:
            self._drain = defaultdict(DrainRate, {k: rate for k, rate in self._drain.items() if not rate.idle(now)})
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._drain))

    def drop(self, job_id: str) -> None:
        """Forgets a job, waiting or not."""
        ticket = self._tickets.pop(job_id, None)
        if ticket is not None and ticket.waits:
            self._leave(ticket, job_id)
            for of, left in (
                (ticket.priority, self._depth[ticket.priority]),
                (ticket.model_ref, self.waiting_for(ticket.model_ref)),
            ):
                if not left and of in self._drain:
                    self._drain[of].stopped()

    def promote(self, now: float) -> None:
        """Moves the batch jobs whose time has come to the interactive ones."""
        while self._ageing and self._ageing[0][0] <= now - PROMOTE_AFTER_S:
            _, _, job_id = heappop(self._ageing)
            ticket = self._tickets.get(job_id)
            if ticket is not None and ticket.waits and ticket.lane is Priority.BATCH:
                self._promote(ticket, job_id)

    def position(self, job_id: str) -> int:
        """Returns a waiting job's place, 1 for the next; 0 when it does not wait."""
        ticket = self._tickets.get(job_id)
        if ticket is None or not ticket.waits:
            return 0
        return self._before(ticket.lane) + bisect_left(self._lanes[ticket.lane].line, ticket.place(job_id)) + 1

    def position_of_new(self, job: Job) -> int:
        """Returns the place a job would get that is newer than all others."""
        lane = self._lanes[job.priority]
        turn = lane.next_turn((job.priority, job.session_id))
        return self._before(job.priority) + bisect_left(lane.line, (turn + 1,)) + 1

    def depth(self, priority: Priority) -> int:
        """Returns how many jobs of a class wait, promoted ones included in the class they were handed in with."""
        return self._depth[priority]

    def waiting_for(self, model_ref: str, priority: Priority = Priority.BATCH) -> int:
        """Returns how many jobs wait for a model, in both classes or among those served with the interactive ones."""
        lanes = tuple(Priority) if priority is Priority.BATCH else (Priority.INTERACTIVE,)
        return sum(self._by_model.get((lane, model_ref), 0) for lane in lanes)

    def drain_per_s(self, of: str, now: float) -> float | None:
        """Returns how many jobs of a class or of a model are given to workers per second, while some wait.

        `of` is a `Priority` or a model's reference. None while too few have left lately to tell.
        """
        rate = self._drain.get(of)
        return None if rate is None else rate.per_s(now)

    def _before(self, lane: Priority) -> int:
        return len(self._lanes[Priority.INTERACTIVE].line) if lane is Priority.BATCH else 0

    def _leave(self, ticket: _Ticket, job_id: str) -> None:
        ticket.waits = False
        self._lanes[ticket.lane].leave(ticket.place(job_id))
        self._depth[ticket.priority] -= 1
        self._forget_model(ticket)

    def _forget_model(self, ticket: _Ticket) -> None:
        key = ticket.lane, ticket.model_ref
        self._by_model[key] -= 1
        if not self._by_model[key]:
            del self._by_model[key]

    def _promote(self, ticket: _Ticket, job_id: str) -> None:
        self._lanes[Priority.BATCH].leave(ticket.place(job_id))
        self._forget_model(ticket)
        urgent = self._lanes[Priority.INTERACTIVE]
        ticket.lane, ticket.turn = Priority.INTERACTIVE, urgent.draw_turn((Priority.BATCH, ticket.session_id))
        urgent.enter(ticket.place(job_id))
        self._by_model[ticket.lane, ticket.model_ref] += 1

    def _age(self, ticket: _Ticket, job_id: str) -> None:
        heappush(self._ageing, (ticket.submit_time, ticket.order, job_id))
        waiting = self._lanes[Priority.BATCH].line
        if len(self._ageing) > _SWEEP_AT + 2 * len(waiting):
            self._ageing = [(self._tickets[one].submit_time, order, one) for _, order, one in waiting]
            heapify(self._ageing)

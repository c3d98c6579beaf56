"""The order in which jobs are served: interactive before batch, tenants and sessions in turn, batch in the end too."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, merge
from itertools import chain
from typing import Final

from queen.core.drain import DrainRate
from queen.core.model import Job, Priority

PROMOTE_AFTER_S: Final = 300.0
"""A batch job that has waited this long goes with the interactive ones (architecture.md section 2)."""

_SWEEP_AT: Final = 256
"""Entries kept of what may be over before the first look at whether it is; twice what was left before each other."""

_Session = tuple[Priority, str]
_Place = tuple[int, int, str]


@dataclass(slots=True)
class _Ticket:
    """A job's place. It keeps it while the job runs, for the case that it comes back."""

    order: int
    priority: Priority
    tenant_id: str
    session_id: str
    model_ref: str
    submit_time: float
    lane: Priority
    turn: int
    waits: bool = True

    def place(self, job_id: str) -> _Place:
        return self.turn, self.order, job_id


class _Lane:
    """The jobs of one class and one tenant in order of (turn, order).

    Turns are those of start-time fair queueing (Goyal, Vin, Cheng 1996) with jobs of equal cost: the sessions of a lane
    are served one job each per turn, and one that comes new begins at the turn that is being served.

    The line is a sorted list with room at its head, so that what happens there, as most does, moves little of it.
    """

    def __init__(self) -> None:
        self._line: list[_Place] = []
        self._start = 0
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

    def __len__(self) -> int:
        return len(self._line) - self._start

    def __iter__(self) -> Iterator[_Place]:
        return (self._line[index] for index in range(self._start, len(self._line)))

    def before(self, place: tuple[int] | _Place) -> int:
        """Returns how many come before a place."""
        return bisect_left(self._line, place, self._start) - self._start

    def enter(self, place: _Place) -> None:
        line, start = self._line, self._start
        at = bisect_left(line, place, start)
        if start and at - start < len(line) - at:
            line[start - 1 : at - 1] = line[start:at]
            line[at - 1] = place
            self._start -= 1
        else:
            line.insert(at, place)

    def leave(self, place: _Place) -> None:
        line, start = self._line, self._start
        at = bisect_left(line, place, start)
        if at - start >= len(line) - at:
            del line[at]
            return
        line[start + 1 : at + 1] = line[start:at]
        self._start += 1
        if self._start > _SWEEP_AT and 2 * self._start > len(line):
            del line[: self._start]
            self._start = 0

    def served(self, turn: int) -> None:
        self._turn = max(self._turn, turn)


class _Class:
    """The jobs of one class: the tenants who have some are served one job each per turn, as sessions are in a lane.

    A tenant's k-th job has the turn of its first one plus k. `_first` is that turn, `_since` in which order they came.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._first: dict[str, int] = {}
        self._since: dict[str, int] = {}
        self._turn = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        waiting = [tenant_id for tenant_id, lane in self._lanes.items() if lane]
        if len(waiting) == 1:
            return (job_id for _, _, job_id in self._lanes[waiting[0]])
        return (job_id for _, _, job_id in merge(*(self._turns(tenant_id) for tenant_id in waiting)))

    def depths(self) -> Iterator[tuple[str, int]]:
        return ((tenant_id, len(lane)) for tenant_id, lane in self._lanes.items() if lane)

    def _turns(self, tenant_id: str) -> Iterator[tuple[int, int, str]]:
        first, since = self._first[tenant_id], self._since[tenant_id]
        return ((first + rank, since, job_id) for rank, (_, _, job_id) in enumerate(self._lanes[tenant_id]))

    def lane(self, tenant_id: str) -> _Lane:
        lane = self._lanes.get(tenant_id)
        if lane is None:
            lane = self._lanes[tenant_id] = _Lane()
            self._since[tenant_id] = len(self._since)
        return lane

    def before(self, tenant_id: str, place: tuple[int] | _Place) -> int:
        """Returns how many come before a place in a tenant's lane."""
        rank = self.lane(tenant_id).before(place)
        turn, since = self._first_turn(tenant_id) + rank, self._since[tenant_id]
        others = (
            min(max(0, turn - self._first[other] + (self._since[other] < since)), len(lane))
            for other, lane in self._lanes.items()
            if lane and other != tenant_id
        )
        return rank + sum(others)

    def _first_turn(self, tenant_id: str) -> int:
        """Returns the turn of a tenant's next job; who has none waiting begins at the turn that is being served."""
        first = self._first.get(tenant_id, 0)
        return first if self._lanes[tenant_id] else max(first, self._turn)

    def enter(self, tenant_id: str, place: _Place) -> None:
        lane = self.lane(tenant_id)
        self._first[tenant_id] = self._first_turn(tenant_id)
        lane.enter(place)
        self._length += 1

    def leave(self, tenant_id: str, place: _Place) -> None:
        self._lanes[tenant_id].leave(place)
        self._length -= 1

    def served(self, tenant_id: str, turn: int) -> None:
        self._lanes[tenant_id].served(turn)
        self._turn = max(self._turn, self._first[tenant_id])
        self._first[tenant_id] += 1


class JobQueue:
    """The waiting jobs in queue order, by their ids. Pure: the same calls give the same order.

    Within a class each tenant has its turn, and each session of a tenant, so that one with a thousand jobs keeps no
    other waiting; jobs without a session share one, so that among a tenant's the oldest is next. A batch job that has
    waited `PROMOTE_AFTER_S` joins the interactive ones, once, as a session of its own kind: old batch jobs alternate
    with interactive ones.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, _Ticket] = {}
        self._lanes = {priority: _Class() for priority in Priority}
        self._ageing: list[tuple[float, int, str]] = []  # a heap of batch jobs by submission, gone ones among them
        self._depth: Counter[Priority] = Counter()
        self._by_model: Counter[tuple[Priority, str]] = Counter()
        self._drain: defaultdict[str, DrainRate] = defaultdict(DrainRate)
        self._sweep_at = _SWEEP_AT

    def __len__(self) -> int:
        return sum(self._depth.values())

    def __iter__(self) -> Iterator[str]:
        """Yields the ids in queue order, lazily; the queue must not change meanwhile."""
        return chain(self._lanes[Priority.INTERACTIVE], self._lanes[Priority.BATCH])

    def join(self, job: Job) -> None:
        """Takes a job in; one that was taken out comes back to its old place."""
        ticket = self._tickets.get(job.id)
        if ticket is None:
            turn = self._lanes[job.priority].lane(job.tenant_id).draw_turn((job.priority, job.session_id))
            ticket = self._tickets[job.id] = _Ticket(
                job.order,
                job.priority,
                job.tenant_id,
                job.session_id,
                job.model_ref,
                job.submit_time,
                job.priority,
                turn,
            )
        ticket.waits = True
        self._lanes[ticket.lane].enter(ticket.tenant_id, ticket.place(job.id))
        self._depth[ticket.priority] += 1
        self._by_model[ticket.lane, ticket.model_ref] += 1
        if ticket.lane is Priority.BATCH:
            self._age(ticket, job.id)

    def take(self, job_id: str, now: float) -> None:
        """Takes a waiting job out because it was given to a worker."""
        ticket = self._tickets[job_id]
        self._leave(ticket, job_id)
        self._lanes[ticket.lane].served(ticket.tenant_id, ticket.turn)
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
        return (
            self._urgent_before(ticket.lane)
            + self._lanes[ticket.lane].before(ticket.tenant_id, ticket.place(job_id))
            + 1
        )

    def depths(self) -> Iterator[tuple[Priority, str, int]]:
        """Yields how many jobs wait in each class and of each tenant that has some, by the class they go with."""
        for lane, those in self._lanes.items():
            for tenant_id, waiting in those.depths():
                yield lane, tenant_id, waiting

    def position_of_new(self, job: Job) -> int:
        """Returns the place a job would get that is newer than all others."""
        those = self._lanes[job.priority]
        turn = those.lane(job.tenant_id).next_turn((job.priority, job.session_id))
        return self._urgent_before(job.priority) + those.before(job.tenant_id, (turn + 1,)) + 1

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

    def _urgent_before(self, lane: Priority) -> int:
        return len(self._lanes[Priority.INTERACTIVE]) if lane is Priority.BATCH else 0

    def _leave(self, ticket: _Ticket, job_id: str) -> None:
        ticket.waits = False
        self._lanes[ticket.lane].leave(ticket.tenant_id, ticket.place(job_id))
        self._depth[ticket.priority] -= 1
        self._forget_model(ticket)

    def _forget_model(self, ticket: _Ticket) -> None:
        key = ticket.lane, ticket.model_ref
        self._by_model[key] -= 1
        if not self._by_model[key]:
            del self._by_model[key]

    def _promote(self, ticket: _Ticket, job_id: str) -> None:
        self._lanes[Priority.BATCH].leave(ticket.tenant_id, ticket.place(job_id))
        self._forget_model(ticket)
        urgent = self._lanes[Priority.INTERACTIVE]
        turn = urgent.lane(ticket.tenant_id).draw_turn((Priority.BATCH, ticket.session_id))
        ticket.lane, ticket.turn = Priority.INTERACTIVE, turn
        urgent.enter(ticket.tenant_id, ticket.place(job_id))
        self._by_model[ticket.lane, ticket.model_ref] += 1

    def _age(self, ticket: _Ticket, job_id: str) -> None:
        heappush(self._ageing, (ticket.submit_time, ticket.order, job_id))
        waiting = self._lanes[Priority.BATCH]
        if len(self._ageing) > _SWEEP_AT + 2 * len(waiting):
            tickets = ((self._tickets[one], one) for one in waiting)
            self._ageing = [(ticket.submit_time, ticket.order, one) for ticket, one in tickets]
            heapify(self._ageing)

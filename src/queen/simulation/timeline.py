"""A run as a picture in numbers: some hundred columns of equal length, whatever the number of events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from queen.simulation.records import Level, Run, WorkerRecord

COLUMNS: Final = 240


@dataclass(frozen=True, slots=True)
class Lane:
    """One worker. For each column the share of its time the worker loaded and was ready, and of its slots taken."""

    worker: str
    model: str
    loading: tuple[float, ...]
    ready: tuple[float, ...]
    busy: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Columns of `column_s` seconds from `begin` on: workers in order of their ids, and the mean number of waiting."""

    begin: float
    column_s: float
    lanes: tuple[Lane, ...]
    queue: tuple[float, ...]


def draw(run: Run, end: float) -> Timeline:
    """Returns the timeline of a run up to a time."""
    column_s = (end - run.begin) / COLUMNS
    grid = _Grid(run.begin, column_s)
    workers = sorted(run.workers, key=lambda worker: worker.worker_id)
    lanes = tuple(_lane(grid, worker, end) for worker in workers) if column_s else ()
    return Timeline(run.begin, column_s, lanes, grid.means(run.queue, end) if column_s else ())


def _lane(grid: _Grid, worker: WorkerRecord, end: float) -> Lane:
    over = end if worker.end is None else min(worker.end, end)
    ready = over if worker.ready is None else min(worker.ready, over)
    loading, serving = grid.blank(), grid.blank()
    grid.fill(loading, worker.start, ready, 1.0)
    grid.fill(serving, ready, over, 1.0)
    busy = tuple(round(taken / worker.slots, 3) for taken in grid.means(worker.jobs, over))
    return Lane(worker.worker_id, worker.model, _rounded(loading), _rounded(serving), busy)


@dataclass(frozen=True, slots=True)
class _Grid:
    begin: float
    column_s: float

    def blank(self) -> list[float]:
        return [0.0] * COLUMNS

    def fill(self, columns: list[float], start: float, end: float, value: float) -> None:
        """Adds a value that held from start to end to the means of the columns it touches."""
        if not value or end <= start:
            return
        left, right = (start - self.begin) / self.column_s, (end - self.begin) / self.column_s
        first, last = int(left), min(int(right), COLUMNS - 1)
        for column in range(first, last + 1):
            columns[column] += value * max(0.0, min(right, column + 1) - max(left, column))

    def means(self, level: Level, end: float) -> tuple[float, ...]:
        """Returns the mean of a level in each column."""
        columns = self.blank()
        times = [time for time, _ in level.changes]
        for (start, value), stop in zip(level.changes, [*times[1:], end], strict=True) if times else ():
            self.fill(columns, start, min(stop, end), value)
        return _rounded(columns)


def _rounded(columns: list[float]) -> tuple[float, ...]:
    return tuple(round(value, 3) for value in columns)

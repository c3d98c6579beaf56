"""Instruments: what is counted, measured or looked up, by labels, since the queen began.

They are OpenTelemetry's (sums, gauges and histograms with explicit buckets, all cumulative), but not its SDK's: that
takes 0.4 s to import at each start and some 10 us for each record. Here a record takes less than one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import ClassVar, Final, Literal

Labels = tuple[str, ...]
"""Values, in the order of an instrument's label names."""

Kind = Literal["counter", "histogram", "gauge"]

OTHER: Final = "other"
"""The value of a label beyond those that are told apart."""


class _Named:
    """What an instrument is called, its unit as UCUM has it, what it means, and the names of its labels."""

    kind: ClassVar[Kind]

    def __init__(self, name: str, unit: str, meaning: str, *labels: str) -> None:
        self.name = name
        self.unit = unit
        self.meaning = meaning
        self.labels = labels


class Counter(_Named):
    """A number that only grows."""

    kind = "counter"

    def __init__(self, name: str, unit: str, meaning: str, *labels: str) -> None:
        super().__init__(name, unit, meaning, *labels)
        self.points: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, amount: float, *labels: str) -> None:
        """Adds to the number that has these labels."""
        self.points[labels] = self.points.get(labels, 0) + amount


class Spread:
    """The values of one histogram with the same labels. `counts` has one more than there are bounds."""

    __slots__ = ("counts", "least", "most", "total")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.total = 0.0
        self.least, self.most = float("inf"), float("-inf")


class Histogram(_Named):
    """How values are spread. `bounds` are the buckets' upper ones, inclusive, rising."""

    kind = "histogram"

    def __init__(self, name: str, unit: str, meaning: str, *labels: str, bounds: tuple[float, ...]) -> None:
        super().__init__(name, unit, meaning, *labels)
        self.bounds = bounds
        self.points: dict[Labels, Spread] = {}

    def record(self, value: float, *labels: str) -> None:
        """Adds a value to those that have these labels."""
        spread = self.points.get(labels)
        if spread is None:
            spread = self.points[labels] = Spread(len(self.bounds))
        spread.counts[bisect_left(self.bounds, value)] += 1
        spread.total += value
        spread.least, spread.most = min(spread.least, value), max(spread.most, value)


class Gauge(_Named):
    """Numbers that are what they are now. `read` returns them with their labels when somebody looks."""

    kind = "gauge"

    def __init__(
        self, name: str, unit: str, meaning: str, *labels: str, read: Callable[[], Iterable[tuple[Labels, float]]]
    ) -> None:
        super().__init__(name, unit, meaning, *labels)
        self.read = read


Instrument = Counter | Histogram | Gauge


class Bounded:
    """Values of a label, told apart as long as there are at most so many; all others are `OTHER`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._told: set[str] = set()

    def __call__(self, value: str) -> str:
        """Returns the value a label is to have."""
        if value not in self._told:
            if len(self._told) >= self._most:
                return OTHER
            self._told.add(value)
        return value

"""How fast the streams of one device get on when they share it: a virtual clock, so that each event costs O(log n)."""

from __future__ import annotations

import heapq


class Pace:
    """The decoding streams of a device. All of them slow down alike once there are more than `full_speed_streams`.

    Batched decoding reads the weights once for all streams, so up to some number they do not slow each other down;
    beyond it the device's throughput stays and is shared. Work is counted in seconds a stream would need alone.
    `_done_s` is how much of it each stream has had since the beginning: a stream ends when that passes its mark, and
    marks never change, whoever else comes and goes.
    """

    def __init__(self, full_speed_streams: float) -> None:
        self._full_speed_streams = full_speed_streams
        self._done_s = 0.0
        self._time = 0.0
        self._marks: list[tuple[float, int, str]] = []
        self._streams: dict[str, int] = {}
        self._count = 0

    def add(self, stream: str, work_s: float, now: float) -> None:
        """Begins a stream."""
        self._advance(now)
        self._count += 1
        self._streams[stream] = self._count
        heapq.heappush(self._marks, (self._done_s + work_s, self._count, stream))

    def remove(self, stream: str, now: float) -> None:
        """Ends a stream, finished or not; nothing happens when it does not run here."""
        if stream in self._streams:
            self._advance(now)
            del self._streams[stream]

    def next_end(self) -> tuple[float, str] | None:
        """Returns when the next stream ends if none comes or goes before, and which; None when none runs."""
        marks = self._marks
        while marks and self._streams.get(marks[0][2]) != marks[0][1]:
            heapq.heappop(marks)
        if not marks:
            return None
        left_s = max(0.0, marks[0][0] - self._done_s)
        return self._time + left_s * self._slowdown(), marks[0][2]

    def _advance(self, now: float) -> None:
        if self._streams:
            self._done_s += (now - self._time) / self._slowdown()
        self._time = now

    def _slowdown(self) -> float:
        return max(1.0, len(self._streams) / self._full_speed_streams)

"""The calls about traces for programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from client.loop import Loop
from client.traces import Traces
from rbee.v1 import trace_pb2, trace_service_pb2


class SyncTraces:
    """What a queen keeps of what was done lately. Each method is that of `Traces`, but blocks."""

    def __init__(self, calls: Traces, loop: Loop) -> None:
        self._calls = calls
        self._loop = loop

    def get(self, job_id: str) -> list[trace_pb2.Span]:
        """Returns what was done for a job in all programs, by when it began; what still runs has no end."""
        return self._loop.wait(self._calls.get(job_id))

    def slowest(self, *, page_size: int = 0) -> Iterator[trace_service_pb2.TraceSummary]:
        """Yields jobs at rest whose traces are kept, those first that waited longest for their first token."""
        return self._loop.each(self._calls.slowest(page_size=page_size))

    def add(self, spans: Iterable[trace_pb2.Span]) -> None:
        """Adds ended spans of the caller's own, at most 64, to the traces of its jobs."""
        self._loop.wait(self._calls.add(spans))

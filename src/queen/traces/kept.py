"""The newest traces, in bounded memory, and which spans of them are exported."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from wire import span_messages, telemetry
from wire.spans import Span

MOST_BYTES: Final = 16 * 2**20
"""Memory for all traces together, by estimate; the oldest go first."""
MOST_SPANS: Final = 256
"""Spans of one trace; its oldest go first. A job has about ten."""
MOST_SENT: Final = 64
"""Batches of spans other programs sent of one trace."""

_SPAN_BYTES: Final = 700
_ATTRIBUTE_BYTES: Final = 110
_TEXT_BYTES: Final = 60
"""What Python needs for a span, each of its attributes, and each text of a list beside its letters, by tracemalloc."""


@dataclass(slots=True)
class Kept:
    """A trace: the queen's own spans by id, and what other programs sent, unread until somebody asks.

    `wanted`: something went wrong in it, so that all of it is exported.
    """

    spans: dict[int, Span] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)
    size: int = 0
    wanted: bool = False


class Traces:
    """Keeps the `most` newest traces. `export` gets the spans that are to leave the queen; None: nobody collects."""

    def __init__(self, most: int, export: Callable[[Span], None] | None = None) -> None:
        self._most = most
        self._export = export
        self._traces: OrderedDict[int, Kept] = OrderedDict()
        self._size = 0

    @property
    def on(self) -> bool:
        """Whether anything becomes of a span."""
        return self._most > 0 or self._export is not None

    def add(self, span: Span) -> None:
        """Takes in a span of the queen's that has ended. One of an id that is known takes its place."""
        kept = self._kept(span.trace_id)
        if span.span_id not in kept.spans and len(kept.spans) >= MOST_SPANS:
            self._grown(kept, -_size(kept.spans.pop(next(iter(kept.spans)))))
        before = kept.spans.get(span.span_id)
        kept.spans[span.span_id] = span
        self._grown(kept, _size(span) - (_size(before) if before is not None else 0))
        if self._export is not None:
            self._pass_on(kept, span)
        self._forget_oldest()

    def add_sent(self, sent: bytes, number: int = 0) -> None:
        """Takes in spans another program sent, serialised `Spans`. `number`: their trace; 0: that of the context."""
        number = number or telemetry.current().trace_id
        if not sent or not number or not self.on:
            return
        kept = self._kept(number)
        if sent in kept.sent or len(kept.sent) >= MOST_SENT:
            return
        kept.sent.append(sent)
        self._grown(kept, len(sent))
        if self._export is not None:
            for span in span_messages.read(sent):
                self._pass_on(kept, span)
        self._forget_oldest()

    def knows(self, number: int) -> bool:
        """Tells whether a trace is kept."""
        return number in self._traces

    def of(self, trace_id: str) -> list[Span]:
        """Returns the spans kept of a trace, in no order."""
        kept = self._traces.get(int(trace_id or "0", 16))
        return [] if kept is None else _all(kept)

    def ended(self) -> Iterator[tuple[Span, list[Span]]]:
        """Yields the spans of jobs at rest, each with the queen's spans of its trace."""
        for kept in self._traces.values():
            for span in kept.spans.values():
                if span.name == telemetry.SPAN_INFER and telemetry.JOB_ID in span.attributes:
                    yield span, list(kept.spans.values())

    def _kept(self, number: int) -> Kept:
        kept = self._traces.get(number)
        if kept is None:
            kept = self._traces[number] = Kept()
        else:
            self._traces.move_to_end(number)
        return kept

    def _pass_on(self, kept: Kept, span: Span) -> None:
        """Exports a span if its trace is sampled, and what was held back of a trace once something goes wrong."""
        assert self._export is not None, "somebody collects"
        if span.sampled or kept.wanted:
            self._export(span)
        elif span.matters:
            kept.wanted = True
            for one in _all(kept):
                self._export(one)

    def _grown(self, kept: Kept, size: int) -> None:
        kept.size += size
        self._size += size

    def _forget_oldest(self) -> None:
        while len(self._traces) > self._most or self._size > MOST_BYTES:
            _, oldest = self._traces.popitem(last=False)
            self._size -= oldest.size


def _all(kept: Kept) -> list[Span]:
    found = dict(kept.spans)
    for sent in kept.sent:
        found.update((span.span_id, span) for span in span_messages.read(sent))
    return list(found.values())


def _size(span: Span) -> int:
    size = _SPAN_BYTES + _ATTRIBUTE_BYTES * len(span.attributes)
    for value in span.attributes.values():
        if isinstance(value, tuple):
            size += sum(map(len, value)) + _TEXT_BYTES * len(value)
    return size

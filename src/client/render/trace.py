"""A trace as a tree: what was done, by whom, for how long, and when within the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from client.render import words
from wire import telemetry

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from rbee.v1 import trace_pb2

WIDTH: Final = 80
"""Columns of a trace where there is no terminal that says how many."""
PICTURE_WIDTH: Final = 110
_BAR: Final = 22
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_COLOURS: Final = {"rbee": "cyan", "queen-rbee": "yellow", "rbee-hive": "magenta", "llm-worker-rbee": "green"}
_PROGRAMS: Final = {"rbee": "keeper", "queen-rbee": "queen", "rbee-hive": "hive", "llm-worker-rbee": "worker"}


@dataclass(frozen=True, slots=True)
class Line:
    """A span in its place: how it hangs in the tree, and where it lies in the whole, both from 0 to 1."""

    span: trace_pb2.Span
    stem: str
    begin: float
    end: float
    took_s: float

    @property
    def name(self) -> str:
        """Its name in the tree; which attempt, where there are several."""
        attempt = _fact(self.span, "rbee.attempt")
        many = attempt if attempt and self.span.name != telemetry.SPAN_GENERATE and attempt != "1" else ""
        return f"{self.span.name.removeprefix('rbee.')} {many}".rstrip()


def lines(spans: Sequence[trace_pb2.Span], now: float) -> list[Line]:
    """Returns the spans in the order of the tree, children below their parents by when they began; `now` in seconds."""
    if not spans:
        return []
    first = min(_begin(span) for span in spans)
    last = max(_end(span, now) for span in spans)
    whole = max(last - first, 1e-9)
    known = {span.span_id for span in spans}
    children: defaultdict[str, list[trace_pb2.Span]] = defaultdict(list)
    for span in sorted(spans, key=_begin):
        children[span.parent_span_id if span.parent_span_id in known else ""].append(span)

    def below(parent: str, stem: str, *, top: bool) -> Iterator[Line]:
        for place, span in enumerate(children[parent]):
            newest = place == len(children[parent]) - 1
            hangs = "" if top else f"{stem}{'└ ' if newest else '├ '}"
            begin, end = _begin(span), _end(span, now)
            yield Line(span, hangs, (begin - first) / whole, (end - first) / whole, end - begin)
            if span.span_id:
                yield from below(span.span_id, "" if top else f"{stem}{'  ' if newest else '│ '}", top=False)

    return list(below("", "", top=True))


def table(spans: Sequence[trace_pb2.Span], now: float, width: int) -> Table:
    """Returns the tree with a bar of time for each span, as wide as told, 60 columns at least."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", width=max(width, 60))
    drawn.add_column("STEP", no_wrap=True)
    drawn.add_column("BY", no_wrap=True)
    drawn.add_column("TOOK", no_wrap=True, justify="right")
    drawn.add_column("WHEN", no_wrap=True, min_width=_BAR)
    drawn.add_column("", overflow="ellipsis", no_wrap=True, ratio=1)
    for line in lines(spans, now):
        colour = "red" if line.span.error else _COLOURS.get(line.span.program, "")
        took = words.span(line.took_s) + ("" if line.span.HasField("end_time") else " …")
        drawn.add_row(
            Text(line.stem, "dim") + Text(line.name, "bold red" if line.span.error else ""),
            Text(_PROGRAMS.get(line.span.program, line.span.program), colour),
            took,
            _bar(line, colour),
            Text(_says(line.span), "red" if line.span.error else "dim"),
        )
    return drawn


def picture(spans: Sequence[trace_pb2.Span], now: float, title: str) -> str:
    """Returns the tree as the text of an SVG file, in colour. It fetches nothing: the reader's own font is used."""
    import re
    from io import StringIO

    from rich.console import Console

    screen = Console(file=StringIO(), record=True, width=PICTURE_WIDTH, force_terminal=True, color_system="truecolor")
    screen.print(table(spans, now, PICTURE_WIDTH))
    return re.sub(r"@font-face \{.*?\}\s*", "", screen.export_svg(title=title), flags=re.DOTALL)


def _bar(line: Line, colour: str) -> Text:
    """Returns the part of the whole that a span took, to an eighth of a column, one eighth at least."""
    from rich.text import Text

    begin = int(line.begin * _BAR * 8)
    end = max(begin + 1, int(line.end * _BAR * 8))
    begin, end = min(begin, _BAR * 8 - 1), min(end, _BAR * 8)
    head, cells = divmod(begin, 8)
    full, rest = divmod(end, 8)
    if head == full:
        return Text(" " * head + _EIGHTHS[max(1, rest - cells)], colour)
    # A column begins where it is filled by half: there are no glyphs for one filled from the right.
    start = head + (cells >= 4)
    return Text(" " * start + "█" * (full - start) + _EIGHTHS[rest].strip(), colour)


def _says(span: trace_pb2.Span) -> str:
    """Returns what is most worth knowing of a span, in some words."""
    if span.error:
        return span.error
    if span.name == telemetry.SPAN_DECIDE:
        fallback = _fact(span, "rbee.decision.fallback")
        instead = f", as the active policy failed: {fallback}" if fallback else ""
        return f"{_fact(span, 'rbee.decision.action')}: {_fact(span, 'rbee.decision.reason')}{instead}"
    if span.name == telemetry.SPAN_GENERATE:
        return f"{_fact(span, 'gen_ai.usage.input_tokens')} + {_fact(span, 'gen_ai.usage.output_tokens')} tokens"
    if span.name == telemetry.SPAN_INFER:
        return f"{_fact(span, 'rbee.model')}, {_fact(span, 'rbee.job.state')}"
    if span.links:
        return f"{span.links[0].kind}, on {_fact(span, 'rbee.worker.id')}"
    return _fact(span, "rbee.worker.id") or span.instance


def _fact(span: trace_pb2.Span, name: str) -> str:
    """Returns an attribute as text; "" where there is none."""
    for one in span.attributes:
        kind = one.WhichOneof("value")
        if one.name == name and kind is not None:
            return str(getattr(one, kind))
    return ""


def _begin(span: trace_pb2.Span) -> float:
    return span.start_time.ToNanoseconds() / 1e9


def _end(span: trace_pb2.Span, now: float) -> float:
    return span.end_time.ToNanoseconds() / 1e9 if span.HasField("end_time") else max(now, _begin(span))

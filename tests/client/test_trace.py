"""How a trace is drawn: every span in its place, in any width, whatever is missing."""

import io
import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from client.render import trace
from rbee.v1 import trace_pb2


def span(number, parent=0, begin=0.0, end=1.0, name="rbee.queue", **more):
    made = trace_pb2.Span(
        span_id=format(number, "016x"), parent_span_id=format(parent, "016x") if parent else "", name=name, **more
    )
    made.start_time.FromNanoseconds(int(begin * 1e9))
    if end is not None:
        made.end_time.FromNanoseconds(int(end * 1e9))
    return made


def drawn(spans, now=10.0, width=80):
    screen = Console(file=io.StringIO(), width=width)
    screen.print(trace.table(spans, now, width))
    return screen.file.getvalue().splitlines()


SPANS = [
    span(1, 0, 100.0, 104.0, "rbee.infer", program="queen-rbee"),
    span(2, 1, 100.0, 101.0, program="queen-rbee"),
    span(4, 3, 102.5, 103.9, "rbee.generate", program="llm-worker-rbee"),
    span(3, 1, 102.0, 104.0, "rbee.attempt", program="queen-rbee", error="WORKER_LOST"),
]


def test_children_hang_below_their_parents_by_when_they_began():
    assert [(line.stem, line.name) for line in trace.lines(SPANS, 0.0)] == [
        ("", "infer"),
        ("├ ", "queue"),
        ("└ ", "attempt"),
        ("  └ ", "generate"),
    ]


def test_bars_lie_where_the_spans_do():
    infer, queue, attempt, generate = (re.search("█+", line) for line in drawn(SPANS)[1:])
    left, whole = infer.start(), infer.end() - infer.start()
    assert queue.start() == left
    assert abs(queue.end() - left - whole / 4) <= 1
    assert abs(attempt.start() - left - whole / 2) <= 1
    assert left + whole >= attempt.end() >= generate.end() > generate.start() > attempt.start()


def test_what_still_runs_reaches_to_now_and_says_so():
    _, running = drawn([span(1, 0, 0.0, None, "rbee.infer")], now=5.0)
    assert "5.0 s …" in running


def test_an_error_is_told_by_its_reason():
    assert [line for line in drawn(SPANS) if "WORKER_LOST" in line and "attempt" in line]


def test_the_picture_is_an_svg_of_the_same_tree():
    text = trace.picture(SPANS, 0.0, "rbee trace job-1")
    assert text.startswith("<svg")
    assert "url(https" not in text
    assert 'url("https' not in text
    assert all(word in text for word in ("infer", "attempt", "generate", "WORKER_LOST", "rbee&#160;trace&#160;job-1"))


SOME = st.lists(
    st.builds(
        span,
        st.integers(1, 12),
        st.integers(0, 12),
        st.floats(0, 1e6),
        st.one_of(st.none(), st.floats(0, 1e6)),
        st.sampled_from(("rbee.infer", "rbee.policy.decide", "rbee.generate", "of somebody else")),
        program=st.sampled_from(("", "rbee", "queen-rbee", "theirs")),
    ),
    max_size=12,
    unique_by=lambda made: made.span_id,
)


@given(SOME, st.integers(60, 200))
def test_any_spans_are_drawn_within_the_width(spans, width):
    assert all(len(line) <= width for line in drawn(spans, 1e6, width))
    for line in trace.lines(spans, 1e6):
        assert line.took_s >= 0 or line.span.HasField("end_time")

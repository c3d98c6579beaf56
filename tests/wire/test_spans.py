"""Spans are recorded, chosen and sent without loss, and never hold more than they may."""

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, TraceFlags, get_current_span

from wire import errors, sampling, span_messages, telemetry
from wire.sampling import Sampler
from wire.span_messages import MOST_BYTES, TRAILER_BYTES
from wire.spans import Link, Recorder, Span


class Clock:
    def __init__(self):
        self.time = 1000.0

    def now(self):
        self.time += 1.0
        return self.time


def recorder(**more):
    ended = []
    return Recorder("test", Clock(), ended.append, **more), ended


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CALLER = telemetry.extract([("traceparent", TRACEPARENT)])


def test_a_span_within_another_is_its_child():
    made, ended = recorder(roots=Sampler())
    with made.span("outer", {"a": 1}) as outer, made.span("inner", {}) as inner:
        assert telemetry.trace_id() == telemetry.trace_hex(outer.trace_id)
        assert dict(telemetry.inject())["traceparent"].split("-")[2] == telemetry.span_hex(inner.span_id)
    assert not telemetry.trace_id()
    assert [span.name for span in ended] == ["inner", "outer"]
    assert (inner.trace_id, inner.parent_id, outer.parent_id) == (outer.trace_id, outer.span_id, 0)
    assert (outer.start_ns, outer.end_ns) == (1001 * 10**9, 1004 * 10**9)


def test_who_begins_no_traces_records_only_for_callers_that_have_one():
    made, ended = recorder()
    with made.span("alone", {}) as alone:
        assert alone is None
    with made.span("asked", {}, context=CALLER) as asked:
        pass
    assert ended == [asked]
    assert telemetry.span_hex(asked.parent_id) == "b7ad6b7169203331"
    assert asked.sampled


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.NotFound("no such prompt: What is a hive?", "MODEL_NOT_FOUND"), "MODEL_NOT_FOUND"),
        (asyncio.CancelledError(), "CANCELLED"),
        (ValueError("What is a hive?"), "INTERNAL"),
    ],
)
def test_an_error_is_noted_by_its_reason_and_not_by_its_message(error, reason):
    made, ended = recorder(roots=Sampler())
    with pytest.raises(type(error)), made.span("fails", {}):
        raise error
    (span,) = ended
    assert (span.error, span.attributes, span.matters) == (reason, {"error.type": reason}, True)


def test_a_span_ends_once():
    made, ended = recorder(roots=Sampler())
    span = made.begin("once", {})
    made.end(span)
    end = span.end_ns
    made.end(span)
    assert (ended, span.end_ns) == ([span], end)


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.lists(st.text(), max_size=4).map(tuple),
)
SPANS = st.builds(
    Span,
    trace_id=st.integers(1, 2**128 - 1),
    span_id=st.integers(1, 2**64 - 1),
    parent_id=st.integers(0, 2**64 - 1),
    name=st.text(),
    start_ns=st.integers(0, 2**60),
    end_ns=st.integers(0, 2**60),
    attributes=st.dictionaries(st.text(), VALUES, max_size=5),
    error=st.text(),
    links=st.lists(st.builds(Link, st.integers(1, 2**64 - 1), st.text()), max_size=2).map(tuple),
    sampled=st.booleans(),
    kind=st.sampled_from(("", "server", "client")),
    program=st.text(),
    instance=st.text(),
)


@given(SPANS)
def test_a_span_is_the_same_after_its_way_over_the_wire(span):
    (again,) = span_messages.read(
        span_messages.trace_pb2.Spans(spans=[span_messages.message(span)]).SerializeToString()
    )
    assert again == span
    assert [type(value) for value in again.attributes.values()] == [type(value) for value in span.attributes.values()]


@given(st.lists(SPANS, max_size=8))
def test_what_a_call_brings_back_fits_its_metadata(spans):
    brought = span_messages.in_trailers([("other", "x"), *span_messages.trailers(spans)])
    assert len(brought) <= TRAILER_BYTES < MOST_BYTES
    assert span_messages.read(brought) == spans[: len(span_messages.read(brought))]


def test_nonsense_brings_no_spans():
    assert span_messages.read(b"\xff\xff nonsense") == []
    assert span_messages.in_trailers(None) == b""


def test_spans_are_carried_by_the_call_they_ended_in_alone():
    made, _ = recorder()
    carrier = Recorder("test", made.clock, span_messages.carry)
    before = carrier.begin("of no call", {}, context=CALLER)
    with span_messages.carrying() as carried:
        carrier.end(carrier.begin("of this call", {}, context=CALLER))
    carrier.end(before)
    assert [span.name for span in carried] == ["of this call"]


def test_an_http_request_joins_its_callers_trace():
    with telemetry.joined({"Traceparent": TRACEPARENT, "Host": "x"}):
        assert telemetry.trace_id() == TRACEPARENT.split("-")[1]
        assert get_current_span().get_span_context().is_remote
    with telemetry.joined({"traceparent": "00-nonsense"}):
        assert not telemetry.trace_id()


@given(st.integers(1, 2**128 - 1), st.floats(0, 1))
def test_the_ratio_chooses_as_the_sdks_sampler_does(trace, ratio):
    theirs = TraceIdRatioBased(ratio).should_sample(None, trace, "x").decision.is_sampled()
    assert Sampler(ratio).samples(trace) == theirs


@pytest.mark.parametrize("flag", [TraceFlags.SAMPLED, TraceFlags.DEFAULT])
@pytest.mark.parametrize("name", ["always_on", "always_off", "parentbased_always_on", "parentbased_always_off"])
def test_a_parent_based_sampler_does_as_the_caller_does(name, flag):
    made = sampling.sampler({"OTEL_TRACES_SAMPLER": name})
    caller = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(flag))
    here = name.endswith("on")
    assert made.samples(1, INVALID_SPAN_CONTEXT) == here
    assert made.samples(1, caller) == (flag == TraceFlags.SAMPLED if name.startswith("parent") else here)


def test_settings_that_are_no_good_are_told_and_replaced(caplog):
    with caplog.at_level(logging.WARNING):
        assert sampling.sampler({"OTEL_TRACES_SAMPLER": "sometimes"}) == Sampler()
        told = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"}
        assert sampling.sampler(told) == Sampler(1.0, parent_based=False)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "OTEL_TRACES_SAMPLER",
        "OTEL_TRACES_SAMPLER_ARG",
    ]
    assert sampling.sampler({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}) == (
        Sampler(0.25)
    )

"""Spans as messages of the contract, and their way back to the caller in the trailing metadata of his call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from google.protobuf.message import DecodeError

from rbee.v1 import trace_pb2
from wire import telemetry
from wire.spans import Kind, Link, Span, Value

TRAILER: Final = "rbee-spans-bin"
"""Metadata key of the spans a call has caused in the called program."""

MOST_SPANS: Final = 64
MOST_BYTES: Final = 8192
TRAILER_BYTES: Final = 3072
"""gRPC refuses metadata above 8 KB, in which bytes are written as base64; the rest is for the status of an error."""

_KINDS: Final[dict[Kind, trace_pb2.SpanKind.ValueType]] = {
    "": trace_pb2.SPAN_KIND_UNSPECIFIED,
    "server": trace_pb2.SPAN_KIND_SERVER,
    "client": trace_pb2.SPAN_KIND_CLIENT,
}
_KIND_NAMES: Final = {number: name for name, number in _KINDS.items()}

_CARRIED: ContextVar[list[Span] | None] = ContextVar("carried", default=None)


def carry(span: Span | None) -> None:
    """Gives a span to the call in whose context this is: its caller gets it with the end of the call. A sink."""
    carried = _CARRIED.get()
    if carried is not None and span is not None and span not in carried:
        carried.append(span)


@contextmanager
def carrying() -> Iterator[list[Span]]:
    """Gathers, in a list, what is carried within."""
    carried: list[Span] = []
    token = _CARRIED.set(carried)
    try:
        yield carried
    finally:
        _CARRIED.reset(token)


def trailers(spans: Iterable[Span]) -> tuple[tuple[str, bytes], ...]:
    """Returns the metadata that carries spans; those that do not fit are left out."""
    sent = trace_pb2.Spans()
    for span in spans:
        one = message(span)
        if sent.ByteSize() + one.ByteSize() > TRAILER_BYTES:
            break
        sent.spans.append(one)
    return ((TRAILER, sent.SerializeToString()),) if sent.spans else ()


def in_trailers(metadata: Iterable[tuple[str, Any]] | None) -> bytes:
    """Returns the spans a call brought, serialised `Spans`; b"" when it brought none."""
    return next((value for key, value in metadata or () if key == TRAILER and isinstance(value, bytes)), b"")


def read(sent: bytes) -> list[Span]:
    """Returns spans that were sent; none when they cannot be read."""
    try:
        return [span(one) for one in trace_pb2.Spans.FromString(sent).spans]
    except (DecodeError, ValueError):
        return []


def message(one: Span) -> trace_pb2.Span:
    """Returns a span as the contract has it."""
    told = trace_pb2.Span(
        trace_id=telemetry.trace_hex(one.trace_id),
        span_id=telemetry.span_hex(one.span_id),
        parent_span_id=telemetry.span_hex(one.parent_id),
        name=one.name,
        program=one.program,
        instance=one.instance,
        attributes=[_attribute(name, value) for name, value in one.attributes.items()],
        error=one.error,
        links=[
            trace_pb2.SpanLink(
                trace_id=telemetry.trace_hex(one.trace_id), span_id=telemetry.span_hex(link.span_id), kind=link.kind
            )
            for link in one.links
        ],
        sampled=one.sampled,
        kind=_KINDS[one.kind],
    )
    told.start_time.FromNanoseconds(one.start_ns)
    if one.end_ns:
        told.end_time.FromNanoseconds(one.end_ns)
    return told


def span(told: trace_pb2.Span) -> Span:
    """Returns a span of the contract's; raises ValueError for ids that are none."""
    return Span(
        trace_id=int(told.trace_id, 16),
        span_id=int(told.span_id, 16),
        parent_id=int(told.parent_span_id or "0", 16),
        name=told.name,
        start_ns=told.start_time.ToNanoseconds(),
        end_ns=told.end_time.ToNanoseconds(),
        attributes=dict(_pair(one) for one in told.attributes),
        error=told.error,
        links=tuple(Link(int(link.span_id, 16), link.kind) for link in told.links),
        sampled=told.sampled,
        kind=_KIND_NAMES.get(told.kind, ""),
        program=told.program,
        instance=told.instance,
    )


def _attribute(name: str, value: Value) -> trace_pb2.SpanAttribute:
    match value:
        case bool():
            return trace_pb2.SpanAttribute(name=name, truth=value)
        case int():
            return trace_pb2.SpanAttribute(name=name, whole=value)
        case float():
            return trace_pb2.SpanAttribute(name=name, number=value)
        case str():
            return trace_pb2.SpanAttribute(name=name, text=value)
        case _:
            return trace_pb2.SpanAttribute(name=name, texts=trace_pb2.SpanTexts(texts=value))


def _pair(told: trace_pb2.SpanAttribute) -> tuple[str, Value]:
    kind = told.WhichOneof("value")
    if kind == "texts":
        return told.name, tuple(told.texts.texts)
    return told.name, getattr(told, kind) if kind else ""

"""What all programs agree on about traces: names of spans, W3C context in gRPC metadata and HTTP headers, ids."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

SPAN_KEEPER: Final = "rbee.keeper"
SPAN_INFER: Final = "rbee.infer"
SPAN_ADMISSION: Final = "rbee.admission"
SPAN_QUEUE: Final = "rbee.queue"
SPAN_DECIDE: Final = "rbee.policy.decide"
SPAN_ATTEMPT: Final = "rbee.attempt"
SPAN_PROVISION: Final = "rbee.provision"
SPAN_WORKER_START: Final = "rbee.worker.start"
SPAN_GENERATE: Final = "rbee.generate"

JOB_ID: Final = "rbee.job.id"
"""The attribute that every span about one job alone has."""

Metadata = Sequence[tuple[str, str | bytes]]

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.DEFAULT)


def inject() -> tuple[tuple[str, str], ...]:
    """Returns the metadata that carries the current span to the called program; empty when there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return tuple(carrier.items())


class _MetadataGetter(Getter[Metadata]):
    def get(self, carrier: Metadata, key: str) -> list[str] | None:
        return [value for name, value in carrier if name == key and isinstance(value, str)] or None

    def keys(self, carrier: Metadata) -> list[str]:
        return [name for name, _ in carrier]


_GETTER: Final = _MetadataGetter()


def extract(metadata: Iterable[tuple[str, str | bytes]] | None) -> Context:
    """Returns the context that the caller's metadata carries; an empty one when it carries none."""
    return _PROPAGATOR.extract(tuple(metadata or ()), Context(), _GETTER)


@contextmanager
def joined(headers: Mapping[str, str]) -> Iterator[None]:
    """Joins the trace that the headers of an HTTP request carry, as the edge of a gRPC server does with metadata.

    What is called within belongs to it: a job that is accepted there becomes a part of its caller's trace.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    token = otel_context.attach(_PROPAGATOR.extract(lower, Context()))
    try:
        yield
    finally:
        otel_context.detach(token)


def current() -> SpanContext:
    """Returns the current span's ids; invalid ones when nothing is traced."""
    return trace.get_current_span().get_span_context()


def trace_id() -> str:
    """Returns the W3C trace id of the current span, 32 hex digits; empty when nothing is traced."""
    found = current()
    return trace_hex(found.trace_id) if found.is_valid else ""


def within(trace_number: int, span_number: int, *, sampled: bool) -> Context:
    """Returns a context whose current span has these ids: what is begun or called in it is that span's child."""
    flags = _SAMPLED if sampled else _NOT_SAMPLED
    ids = SpanContext(trace_number, span_number, is_remote=False, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(ids), Context())


def new_trace_id() -> int:
    """Returns the id of a trace that begins. Nothing is decided by such ids, so they need no source passed in."""
    return secrets.randbits(128) or 1


def new_span_id() -> int:
    """Returns the id of a span that begins."""
    return secrets.randbits(64) or 1


def trace_hex(number: int) -> str:
    """Returns a trace id as W3C writes it."""
    return format(number, "032x")


def span_hex(number: int) -> str:
    """Returns a span id as W3C writes it; "" for 0, which is none."""
    return format(number, "016x") if number else ""

"""Spans on their way to a collector, by the SDK's exporters and its bounded queue. Imported only where one is named."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from queen.traces.job_spans import QUEEN
from wire import otlp
from wire.spans import Kind, Span

log = logging.getLogger(__name__)

CLOSE_S: Final = 3.0
"""How long what is left may take to be sent when the queen ends: a collector that is gone must not keep her."""

_KINDS: Final[dict[Kind, SpanKind]] = {"": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("rbee", version("rbee"))


class Export:
    """Sends spans from a thread of its own. Beyond OTEL_BSP_MAX_QUEUE_SIZE waiting ones the oldest are dropped.

    `name`: what the queen is called there, if not by the name of her program.
    """

    def __init__(self, exporter: SpanExporter, name: str = "") -> None:
        self._names = {QUEEN: name or QUEEN}
        self._processor = BatchSpanProcessor(_ToldOnce(exporter))
        # The SDK's exporters and queue say the same at each try; what there is to say, `_ToldOnce` says.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def add(self, span: Span) -> None:
        """Takes a span that has ended; returns at once."""
        self._processor.on_end(readable(span, self._names.get(span.program, span.program)))

    async def close(self) -> None:
        """Sends what is left, for `CLOSE_S` seconds at most."""
        # Not a thread of the loop's own pool: the process would wait for that, however long the collector takes.
        ending = threading.Thread(target=self._processor.shutdown, name="end of traces", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, CLOSE_S)


def exporter(environment: Mapping[str, str]) -> SpanExporter:
    """Returns the exporter the OTEL_* variables name: OTLP over gRPC unless told otherwise."""
    if environment.get("OTEL_TRACES_EXPORTER") == "console":
        return ConsoleSpanExporter()
    if otlp.protocol(environment, "TRACES") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter()


class _ToldOnce(SpanExporter):
    """An exporter that says once that nobody takes its spans, and once that somebody does again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Exports spans, as the exporter does."""
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            log.warning("traces are not exported: the collector does not take them; it is tried again, in silence")
        elif self._failing and not failed:
            log.info("traces are exported again")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        """Ends the exporter."""
        self._exporter.shutdown()


def readable(span: Span, service: str) -> ReadableSpan:
    """Returns a span of a service as the SDK exports it. All are marked as sampled.

    The SDK would drop the others, and the choice was made before.
    """

    def ids(span_id: int) -> SpanContext:
        return SpanContext(span.trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)

    return ReadableSpan(
        span.name,
        ids(span.span_id),
        ids(span.parent_id) if span.parent_id else None,
        _resource(service, span.instance),
        span.attributes,
        links=[trace.Link(ids(link.span_id), {"rbee.link.kind": link.kind}) for link in span.links],
        kind=_KINDS[span.kind],
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=_SCOPE,
    )


@lru_cache(maxsize=1024)
def _resource(service: str, instance: str) -> Resource:
    """Returns who recorded a span, with what OTEL_RESOURCE_ATTRIBUTES adds to all."""
    who = {"service.name": service, "service.version": version("rbee"), "service.instance.id": instance or service}
    return _common().merge(Resource(who))


@lru_cache(maxsize=1)
def _common() -> Resource:
    return Resource.create({})

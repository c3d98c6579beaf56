"""OpenTelemetry, set up once per program: span names, W3C context in gRPC metadata, export by the OTEL_* variables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

SPAN_INFER: Final = "rbee.infer"
SPAN_ADMISSION: Final = "rbee.admission"
SPAN_QUEUE: Final = "rbee.queue"
SPAN_DECIDE: Final = "rbee.policy.decide"
SPAN_PROVISION: Final = "rbee.provision"
SPAN_WORKER_START: Final = "rbee.worker.start"
SPAN_GENERATE: Final = "rbee.generate"

Metadata = Sequence[tuple[str, str | bytes]]

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_EXPORT_VARIABLES: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)


def setup(program: str) -> None:
    """Starts exporting this program's spans when an OTEL_* variable says where to; else every span costs nothing.

    `program` becomes `service.name` unless OTEL_SERVICE_NAME is set. Spans are flushed when the process ends.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    if not any(os.environ.get(name) for name in _EXPORT_VARIABLES):
        return
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return
    from importlib.metadata import version

    # Imported here because the SDK takes 0.2 s to import and most runs export nothing.
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        exporter = ConsoleSpanExporter()
    elif os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        exporter = GrpcExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        exporter = HttpExporter()
    attributes = {"service.name": os.environ.get("OTEL_SERVICE_NAME", program), "service.version": version("rbee")}
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def tracer() -> trace.Tracer:
    """Returns the tracer all rbee code uses."""
    return trace.get_tracer("rbee")


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


def trace_id(context: Context | None = None) -> str:
    """Returns the W3C trace id of the current span, 32 hex digits; empty when nothing is traced."""
    span_context = trace.get_current_span(context).get_span_context()
    return format(span_context.trace_id, "032x") if span_context.is_valid else ""

"""Whether somebody collects traces, and the way there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from wire import otlp
from wire.spans import Span


class Collector(Protocol):
    """Where spans go that leave the queen."""

    def add(self, span: Span) -> None:
        """Takes a span that has ended; returns at once."""
        ...

    async def close(self) -> None:
        """Sends what is left, for some seconds at most."""
        ...


def from_environment(environment: Mapping[str, str]) -> Collector | None:
    """Returns the collector the OTEL_* variables name; None when there is none."""
    if not otlp.is_sent(environment, "TRACES"):
        return None
    # Imported here because the SDK takes 0.4 s to import and most queens export nothing.
    from queen.traces.export import Export, exporter

    return Export(exporter(environment), environment.get("OTEL_SERVICE_NAME", ""))

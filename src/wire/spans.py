"""Spans: what a program did for a job, and when. Recorded by some microseconds' work; kept and sent elsewhere.

The SDK's own spans take tens of microseconds each, and cannot be made of what is known only afterwards, such as how
long a job stayed in a queue that outlives its queen (docs/adr/0009). What is exported goes through the SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import get_current_span

from wire import errors, telemetry
from wire.clock import Clock
from wire.sampling import Sampler

Value = str | int | float | bool | tuple[str, ...]
Kind = Literal["", "server", "client"]

ERROR_TYPE: Final = "error.type"
"""Where OpenTelemetry's conventions have the reason of a failure."""


@dataclass(frozen=True, slots=True)
class Link:
    """A span another follows from, of the same trace; `kind` says why: "retry" or "failover"."""

    span_id: int
    kind: str


@dataclass(slots=True)
class Span:
    """One step. Times in ns since 1970, `end_ns` 0 while it lasts; `error`: a reason, never a text of the job's.

    `kept`: it is exported whether or not its trace was sampled, and its trace with it.
    """

    trace_id: int
    span_id: int
    parent_id: int
    name: str
    start_ns: int
    end_ns: int = 0
    attributes: dict[str, Value] = field(default_factory=dict)
    error: str = ""
    links: tuple[Link, ...] = ()
    sampled: bool = True
    kept: bool = False
    kind: Kind = ""
    program: str = ""
    instance: str = ""

    def fail(self, reason: str) -> None:
        """Notes why it went wrong."""
        self.error = reason
        self.attributes[ERROR_TYPE] = reason

    @property
    def matters(self) -> bool:
        """Whether its trace is worth exporting even if it was not sampled."""
        return self.kept or bool(self.error)

    def context(self) -> Context:
        """Returns the context in which children of it are begun and programs called on its behalf."""
        return telemetry.within(self.trace_id, self.span_id, sampled=self.sampled)


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records what a program does; a span that has ended goes to `sink`.

    `program` and `instance` say who it is. `roots` None: it only joins traces of its callers, and begins none; else
    `roots` says which of those that begin here are sampled.
    """

    program: str
    clock: Clock
    sink: Callable[[Span], None]
    instance: str = ""
    roots: Sampler | None = None

    def begin(
        self,
        name: str,
        attributes: Mapping[str, Value],
        *,
        context: Context | None = None,
        kind: Kind = "",
    ) -> Span | None:
        """Returns a span, child of the current one or of that of `context`; None where there is no trace to join."""
        parent = get_current_span(context).get_span_context()
        if not parent.is_valid and self.roots is None:
            return None
        number = parent.trace_id if parent.is_valid else telemetry.new_trace_id()
        sampled = self.roots.samples(number, parent) if self.roots else parent.trace_flags.sampled
        return Span(
            number,
            telemetry.new_span_id(),
            parent.span_id if parent.is_valid else 0,
            name,
            self.now_ns(),
            attributes=dict(attributes),
            sampled=sampled,
            kind=kind,
            program=self.program,
            instance=self.instance,
        )

    def end(self, span: Span | None) -> None:
        """Ends a span, once; a second end changes nothing."""
        if span is not None and not span.end_ns:
            span.end_ns = self.now_ns()
            self.sink(span)

    @contextmanager
    def span(
        self,
        name: str,
        attributes: Mapping[str, Value],
        *,
        context: Context | None = None,
        kind: Kind = "",
    ) -> Iterator[Span | None]:
        """Records what is done within: spans begun there are its children. An error that leaves it is noted."""
        span = self.begin(name, attributes, context=context, kind=kind)
        if span is None:
            yield None
            return
        token = otel_context.attach(span.context())
        try:
            yield span
        except BaseException as error:
            span.fail(reason_of(error))
            raise
        finally:
            otel_context.detach(token)
            self.end(span)

    def now_ns(self) -> int:
        """Returns the time as spans have it."""
        return nanoseconds(self.clock.now())


def nanoseconds(seconds: float) -> int:
    """Returns a time of the clock as spans have it."""
    return int(seconds * 1e9)


def reason_of(error: BaseException) -> str:
    """Returns the reason a span gets for an error: never its message, which may quote what a caller wrote."""
    match error:
        case errors.RbeeError():
            return error.reason
        case asyncio.CancelledError() | KeyboardInterrupt():
            return "CANCELLED"
        case _:
            return "INTERNAL"

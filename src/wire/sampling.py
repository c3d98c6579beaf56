"""Which traces are exported, decided where they begin, by the standard variables of OpenTelemetry.

The SDK has samplers that do the same, and takes 0.1 s to import: too long for a command line that asks one question.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry.trace import SpanContext

log = logging.getLogger(__name__)

_RATIOS: Final = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
_PARENT_BASED: Final = "parentbased_"
DEFAULT: Final = "parentbased_always_on"
_LOW_BITS: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Sampler:
    """Samples `ratio` (0 to 1) of the traces that begin here; `parent_based`: with the others it does as their caller.

    The ratio is taken of the low 64 bits of the trace id, as OpenTelemetry's TraceIdRatioBased takes it: every program
    with the same ratio chooses the same traces.
    """

    ratio: float = 1.0
    parent_based: bool = True

    def samples(self, trace_number: int, parent: SpanContext | None = None) -> bool:
        """Tells whether a trace is sampled; `parent`: the caller's span, where it has one."""
        if self.parent_based and parent is not None and parent.is_valid:
            return parent.trace_flags.sampled
        return trace_number & _LOW_BITS < self.ratio * 2**64


def sampler(environment: Mapping[str, str]) -> Sampler:
    """Returns the sampler OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG name; says so when they are no good."""
    name = environment.get("OTEL_TRACES_SAMPLER", "").strip().lower() or DEFAULT
    base = name.removeprefix(_PARENT_BASED)
    if base not in _RATIOS:
        log.warning("OTEL_TRACES_SAMPLER: there is no sampler %s, %s is used", name, DEFAULT)
        name, base = DEFAULT, DEFAULT.removeprefix(_PARENT_BASED)
    ratio = _RATIOS[base]
    if ratio is None:
        ratio = _ratio(environment.get("OTEL_TRACES_SAMPLER_ARG", ""))
    return Sampler(ratio, parent_based=name.startswith(_PARENT_BASED))


def _ratio(text: str) -> float:
    try:
        ratio = float(text or 1.0)
    except ValueError:
        ratio = -1.0
    if 0.0 <= ratio <= 1.0:
        return ratio
    log.warning("OTEL_TRACES_SAMPLER_ARG: a number from 0 to 1, not '%s'; 1 is used", text)
    return 1.0

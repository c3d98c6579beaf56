"""Instruments as Prometheus text, named as OpenTelemetry's "Prometheus and OpenMetrics compatibility" says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Final

from queen.metrics.instruments import Counter, Histogram, Instrument, Labels

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_UNITS: Final = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}


def text(instruments: Iterable[Instrument], resource: Mapping[str, str]) -> str:
    """Returns the values of instruments as Prometheus reads them; `resource` becomes the labels of target_info."""
    about = ",".join(f'{_legal(name)}="{_quoted(value)}"' for name, value in resource.items())
    lines = ["# HELP target_info Who is measured", "# TYPE target_info gauge", f"target_info{{{about}}} 1"]
    for one in instruments:
        name = name_of(one)
        lines += [f"# HELP {name} {one.meaning}", f"# TYPE {name} {one.kind}"]
        lines += _samples(one, name)
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=1024)
def name_of(one: Instrument) -> str:
    """Returns what Prometheus calls an instrument: with its unit, and `_total` where it only grows."""
    return _legal(one.name) + _UNITS.get(one.unit, "") + ("_total" if isinstance(one, Counter) else "")


def _samples(one: Instrument, name: str) -> Iterator[str]:
    labels = tuple(_legal(label) for label in one.labels)
    if isinstance(one, Histogram):
        for values, spread in one.points.items():
            given = _given(labels, values)
            before = f"{given}," if given else ""
            for bound, count in zip((*one.bounds, float("inf")), accumulate(spread.counts), strict=True):
                least = "+Inf" if bound == float("inf") else f"{bound:g}" if bound < 1e6 else f"{bound:.0f}"
                yield f'{name}_bucket{{{before}le="{least}"}} {count}'
            yield f"{name}_sum{_braced(given)} {spread.total:.15g}"
            yield f"{name}_count{_braced(given)} {sum(spread.counts)}"
        return
    for values, value in one.points.items() if isinstance(one, Counter) else one.read():
        yield f"{name}{_braced(_given(labels, values))} {value:.15g}"


def _given(labels: tuple[str, ...], values: Labels) -> str:
    return ",".join(f'{label}="{_quoted(value)}"' for label, value in zip(labels, values, strict=True))


def _braced(given: str) -> str:
    return f"{{{given}}}" if given else ""


@lru_cache(maxsize=1024)
def _legal(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""Instruments as Prometheus text, named as OpenTelemetry's "Prometheus and OpenMetrics compatibility" says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Final

from queen.metrics.instruments import Counter, Histogram, Instrument

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_UNITS: Final = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}


def parts(instruments: Iterable[Instrument], resource: Mapping[str, str]) -> Iterator[str]:
    """Yields the values of instruments as Prometheus reads them, each instrument's at once.

    `resource` becomes the labels of target_info.
    """
    about = ",".join(f'{_legal(name)}="{_quoted(value)}"' for name, value in resource.items())
    yield f"# HELP target_info Who is measured\n# TYPE target_info gauge\ntarget_info{{{about}}} 1\n"
    for one in instruments:
        name = name_of(one)
        yield "\n".join((f"# HELP {name} {one.meaning}", f"# TYPE {name} {one.kind}", *_samples(one, name), ""))


@lru_cache(maxsize=1024)
def name_of(one: Instrument) -> str:
    """Returns what Prometheus calls an instrument: with its unit, and `_total` where it only grows."""
    return _legal(one.name) + _UNITS.get(one.unit, "") + ("_total" if isinstance(one, Counter) else "")


def _samples(one: Instrument, name: str) -> Iterator[str]:
    given_as = ",".join(f'{_legal(label)}="%s"' for label in one.labels)
    if isinstance(one, Histogram):
        for values, spread in one.points.items():
            given = given_as % tuple(map(_quoted, values))
            before = f"{given}," if given else ""
            for bound, count in zip((*one.bounds, float("inf")), accumulate(spread.counts), strict=True):
                least = "+Inf" if bound == float("inf") else f"{bound:g}" if bound < 1e6 else f"{bound:.0f}"
                yield f'{name}_bucket{{{before}le="{least}"}} {count}'
            braced = f"{{{given}}}" if given else ""
            yield f"{name}_sum{braced} {spread.total:.15g}"
            yield f"{name}_count{braced} {sum(spread.counts)}"
        return
    before, after = (f"{name}{{", "}") if given_as else (name, "")
    for values, value in one.points.items() if isinstance(one, Counter) else one.read():
        yield f"{before}{given_as % tuple(map(_quoted, values))}{after} {value:.15g}"


@lru_cache(maxsize=1024)
def _legal(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


@lru_cache(maxsize=8192)  # the same ones at each look
def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

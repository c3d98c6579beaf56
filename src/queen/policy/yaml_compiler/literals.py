"""Values as people write them: sizes (8GB), durations (5min), hours (22:00-06:00), days (mon-fri), patterns (*70b*)."""

from __future__ import annotations

import re
from typing import Final

from queen.policy.yaml_compiler.fields import NUMERIC, Kind

SIZE_UNITS_MB: Final = {
    "MB": 1, "GB": 1024, "TB": 1024 * 1024, "MiB": 1, "GiB": 1024, "TiB": 1024 * 1024,
}  # fmt: skip
"""Megabytes of each unit; as everywhere with memory, 1 GB is 1,024 MB."""

DURATION_UNITS_MS: Final = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
"""Milliseconds of each unit."""

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_QUANTITY: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)")
HOURS: Final = r"([01]?[0-9]|2[0-4]):([0-5][0-9]) ?- ?([01]?[0-9]|2[0-4]):([0-5][0-9])"
OFFSET: Final = r"([+-])([01][0-9]):([0-5][0-9])"
"""What hours, and an offset from UTC, look like."""

_REGULAR: Final = re.compile(r"\.\*|\.\+|^\^|\$$|\\[a-zA-Z.]|\(\?|\[[^\]]*\][*+]?|%[a-zA-Z.]")

_UNITS: Final[dict[Kind, dict[str, float]]] = {
    Kind.SIZE_MB: {**SIZE_UNITS_MB},
    Kind.SIZE_BYTES: {unit: mb * 1024 * 1024 for unit, mb in SIZE_UNITS_MB.items()},
    Kind.DURATION_MS: {**DURATION_UNITS_MS},
    Kind.DURATION_S: {unit: ms / 1000 for unit, ms in DURATION_UNITS_MS.items()},
}


def quantity(text: str, kind: Kind) -> float:
    """Returns a number with a unit in the unit of `kind`; ValueError says what was expected."""
    units = _UNITS.get(kind, {})
    match = _QUANTITY.fullmatch(text.strip())
    scale = units.get(match[2]) if match else None
    if match is None or scale is None:
        raise ValueError(f"expected {expected(kind)}")
    return float(match[1]) * scale


def number(value: str | float | bool | None, kind: Kind) -> float | None:
    """Returns a number, with or without a unit, in the unit of `kind`; None when it is none."""
    if isinstance(value, bool) or value is None or kind not in NUMERIC:
        return None
    if isinstance(value, int | float):
        return value
    try:
        return quantity(value, kind)
    except ValueError:
        return None


def expected(kind: Kind) -> str:
    """Returns what a literal of a kind looks like, for messages."""
    if kind in {Kind.SIZE_MB, Kind.SIZE_BYTES}:
        return f"a size such as 8GB or 512MB, or a number of {'megabytes' if kind is Kind.SIZE_MB else 'bytes'}"
    if kind in {Kind.DURATION_MS, Kind.DURATION_S}:
        unit = "milliseconds" if kind is Kind.DURATION_MS else "seconds"
        return f"a duration such as 500ms, 30s, 5min or 2h, or a number of {unit}"
    return {Kind.NUMBER: "a number", Kind.FLAG: "true or false"}.get(kind, "a text")


def hours(text: str) -> tuple[int, int]:
    """Returns a span such as "22:00-06:00" as minutes of the day; one that ends before it begins passes midnight."""
    match = re.fullmatch(HOURS, text.strip())
    begin, end = (int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])) if match else (0, 0)
    if begin == end or begin >= 24 * 60 or end > 24 * 60:
        raise ValueError('expected hours such as "09:00-17:30" or "22:00-06:00"')
    return begin, end


def days(text: str) -> tuple[str, ...]:
    """Returns a day or a span of days, such as "mon-fri" or "sat-mon", as the days' names."""
    first, _, last = (part.strip() for part in text.lower().partition("-"))
    if first not in DAYS or (last or first) not in DAYS:
        raise ValueError(f"expected days such as mon-fri or [sat, sun], of {', '.join(DAYS)}")
    begin, end = DAYS.index(first), DAYS.index(last or first)
    return tuple(DAYS[day % 7] for day in range(begin, (end if end >= begin else end + 7) + 1))


def utc_offset(text: str) -> int:
    """Returns an offset such as "+02:00" in minutes east of UTC."""
    match = re.fullmatch(OFFSET, text.strip())
    minutes = int(match[2]) * 60 + int(match[3]) if match else 24 * 60
    if match is None or minutes > 14 * 60:
        raise ValueError('expected an offset from UTC such as "+02:00" or "-05:00", in quotes')
    return -minutes if match[1] == "-" else minutes


def pattern(text: str) -> list[str]:
    """Returns the pieces between the stars of a pattern; ValueError when it looks like a regular expression."""
    if _REGULAR.search(text):
        raise ValueError(
            'expected a pattern in which * stands for anything, such as "hf:*70b*", not a regular expression'
        )
    return re.split(r"\*+", text)

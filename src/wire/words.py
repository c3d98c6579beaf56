"""Words that the queen and the keeper tell people alike."""

from __future__ import annotations


def span(seconds: float) -> str:
    """Returns a length of time in words: "80 µs", "35 ms", "1.9 s", "14 min", "3 h", "5 d"."""
    for limit, size, unit in (
        (1e-3, 1e-6, "µs"),
        (1, 1e-3, "ms"),
        (120, 1, "s"),
        (7200, 60, "min"),
        (172_800, 3600, "h"),
    ):
        if seconds < limit:
            value = max(0.0, seconds) / size
            return f"{value:.1f} {unit}" if unit == "s" and value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"

"""The one clock, passed in, so that everything that waits can be tested without waiting."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time; the system's in programs, a virtual one in tests and simulations."""

    def now(self) -> float:
        """Returns seconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Returns seconds since some fixed point; never goes back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Returns seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Returns seconds since some fixed point; never goes back."""
        return time.monotonic()

"""When a policy that fails is taken out of service: a count over a sliding window."""

from __future__ import annotations

from collections import deque
from typing import Final

FAILURES: Final = 3
WINDOW_S: Final = 300.0
"""This many failures within this time suspend a policy (policy.md "Safety")."""


class Suspension:
    """Counts the failures of one policy. Suspended stays suspended until `clear`."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=FAILURES)
        self.suspended = False
        self.failures = 0

    def failed(self, now: float) -> bool:
        """Notes a failure; returns whether it is the one that suspends the policy."""
        self.failures += 1
        self._times.append(now)
        if self.suspended or len(self._times) < FAILURES or now - self._times[0] > WINDOW_S:
            return False
        self.suspended = True
        return True

    def suspend(self) -> None:
        """Takes it out of service without a failure: it was suspended before the queen started."""
        self.suspended = True

    def clear(self) -> None:
        """Starts anew: the policy was saved or activated again."""
        self._times.clear()
        self.suspended = False
        self.failures = 0

"""Policies as text, and how they fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_UNASKED: Final = 100
"""Evictions and preloads of one call of on_idle."""


@dataclass(frozen=True, slots=True)
class Source:
    """A policy as text; errors call it by its name."""

    name: str
    text: str


class PolicyFailed(Exception):
    """A policy did not decide. `cause` is "timeout", "memory", "crash", "protocol", "flood" or "error"."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


def cause_of(error: str) -> str:
    """Returns in one word what an error of a policy was."""
    if "policy exceeded its memory" in error:
        return "memory"
    if "policy answered with" in error:
        return "flood"
    return "timeout" if "policy exceeded" in error else "error"

"""Versions of policies, and which of them is in charge: what is kept, and what follows from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

PLATFORM: Final = "platform"
"""Name of the built-in policy, which is always there and has no version that is kept."""
NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
VERSION: Final = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})(?:-([0-9A-Za-z.-]{1,40}))?")
FIRST: Final = "1.0.0"


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version of a policy, as saved. `language` is "lua" or "yaml"; `compiled_lua` is what runs."""

    name: str
    version: str
    language: str
    source: str
    compiled_lua: str
    sha256: str
    author: str
    create_time: float


class Turn(Enum):
    """What happened to the policy in charge."""

    ACTIVATED = "activated"
    ROLLED_BACK = "rolled back"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class PolicyActivation:
    """One change of who is in charge: the version named is from then on, or is suspended and says `why`.

    `order` counts from 1. `request_id` is "" where no caller gave one.
    """

    order: int
    name: str
    version: str
    time: float
    turn: Turn
    why: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Charge:
    """Who is in charge: the newest of `stack`, (name, version) each; the platform policy when it is empty.

    `suspension` says why it does not decide all the same; "" when it does.
    """

    stack: tuple[tuple[str, str], ...] = ()
    suspension: str = ""

    @property
    def name(self) -> str:
        """Name of the policy in charge."""
        return self.stack[-1][0] if self.stack else PLATFORM

    @property
    def version(self) -> str:
        """Its version; "" for the platform policy."""
        return self.stack[-1][1] if self.stack else ""

    @property
    def before(self) -> tuple[str, str] | None:
        """Who was in charge before; None when nothing was ever activated."""
        if not self.stack:
            return None
        return self.stack[-2] if len(self.stack) > 1 else (PLATFORM, "")


def charge(log: Iterable[PolicyActivation]) -> Charge:
    """Returns who is in charge after a log of activations, oldest first. A rollback undoes the newest activation."""
    stack: list[tuple[str, str]] = []
    suspension = ""
    for entry in log:
        if entry.turn is Turn.SUSPENDED:
            suspension = entry.why
            continue
        suspension = ""
        if entry.turn is Turn.ROLLED_BACK:
            stack = stack[:-1]
        elif not stack or stack[-1] != (entry.name, entry.version):
            stack.append((entry.name, entry.version))
    return Charge(tuple(stack), suspension)


def precedence(version: str) -> tuple[int, int, int, bool, str]:
    """Returns what versions are sorted by: numbers as numbers, a pre-release before its release."""
    match = VERSION.fullmatch(version)
    assert match is not None, "only versions that match are kept"
    major, minor, patch, before = match.groups()
    return int(major), int(minor), int(patch), before is None, before or ""


def next_version(known: Sequence[str], said: str) -> str:
    """Returns the version a new text gets: what the text says when that is newer than all known, else the next patch.

    `said` may be short, such as "1.2", or "".
    """
    full = f"{said}.0" if re.fullmatch(r"[0-9]+\.[0-9]+", said) else said
    newest = max(known, key=precedence, default=None)
    if VERSION.fullmatch(full) and (newest is None or precedence(full) > precedence(newest)):
        return full
    if newest is None:
        return FIRST
    major, minor, patch, released, _ = precedence(newest)
    return f"{major}.{minor}.{patch + 1 if released else patch}"

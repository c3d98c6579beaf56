"""What the supervisor needs from outside: calls to workers, and the facts of this hive it hands to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


class EngineLink(Protocol):
    """Calls to a worker's EngineService."""

    async def drain(self, address: str, grace_s: float) -> None:
        """Asks a worker to take no new work; returns when it runs nothing, at the latest after `grace_s`."""
        ...

    async def running_generations(self, address: str) -> int:
        """Returns how many generations a worker runs; 0 when it does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Launch:
    """How workers are started and ended.

    By a command, with an environment and a one-time token (256 bits, hex); `term_wait_s` from SIGTERM to SIGKILL.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    draw_token: Callable[[], str]
    term_wait_s: float = 5.0

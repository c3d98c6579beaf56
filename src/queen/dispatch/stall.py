"""Watches the pauses of one attempt: before its first token and between two."""

from __future__ import annotations

import asyncio
from typing import Final

from queen.core.model import StageLimits
from wire import errors

LATE_S: Final = 1.0
"""A timer that fires this late means that the queen did not run in between: what the worker sent has yet to be read."""


class StallWatch:
    """Cancels a task that hears nothing of its worker for too long; `error` then says what was exceeded.

    A message costs one reading of the clock: the timer is not moved, it looks again when it fires.
    """

    def __init__(self, limits: StageLimits, worker_id: str) -> None:
        self.error: errors.RbeeError | None = None
        self._limits = limits
        self._worker_id = worker_id
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._begun = self._heard = self._loop.time()
        self._any = False
        self._due = self._begun
        self._timer: asyncio.TimerHandle | None = None
        self._arm(limits.first_token_s)

    def heard(self) -> None:
        """Notes a message of the worker."""
        self._heard = self._loop.time()
        if not self._any:
            self._any = True
            self._arm(self._limits.stall_s)

    @property
    def has_heard(self) -> bool:
        """Whether any message has come."""
        return self._any

    def give_up(self, error: errors.RbeeError, silent_s: float = 0.0) -> None:
        """Cancels the task with an error, unless it has one or has heard something within `silent_s` seconds."""
        if self.error is None and self._loop.time() - self._heard >= silent_s:
            self.error = error
            assert self._task is not None, "it is made in a task"
            self._task.cancel()

    def close(self) -> None:
        """Ends the watch."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay_s: float | None) -> None:
        self.close()
        if delay_s is not None:
            self._due = self._loop.time() + delay_s
            self._timer = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        limit_s = self._limits.stall_s if self._any else self._limits.first_token_s
        assert limit_s is not None, "the timer runs only where there is a limit"
        if self._loop.time() > self._due + LATE_S:
            self._heard = self._loop.time()
        silent_s = self._loop.time() - self._heard
        if silent_s < limit_s:
            self._arm(limit_s - silent_s)
        elif self._any:
            error = errors.TimedOut(
                f"worker {self._worker_id} sent nothing for {silent_s:.1f} s in the middle of an answer; the limit "
                f"between two tokens is {limit_s:g} s, raise it with --stall-timeout",
                "WORKER_STALLED",
            )
            self.give_up(error)
        else:
            error = errors.TimedOut(
                f"worker {self._worker_id} sent no first token for {silent_s:.1f} s; the limit is {limit_s:g} s, "
                "raise it with --first-token-timeout",
                "FIRST_TOKEN_TIMED_OUT",
            )
            self.give_up(error)

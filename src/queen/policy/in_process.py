"""Policies in a Lua state of this process, for simulations and tests: as quick as can be, and without a hard limit."""

from __future__ import annotations

from queen.policy.failure import MOST_UNASKED, PolicyFailed, Source, cause_of
from queen.policy.language import DEADLINE_MS, Outcome, Program
from queen.policy.rows import Rows, patch


class InProcessDecider:
    """Decides like the sandbox's host, at once: its coroutines never wait.

    `deadline_ms` is processor time a call; `explains` False leaves out what policies say of candidates.
    """

    def __init__(self, platform: str, *, deadline_ms: float = DEADLINE_MS, explains: bool = True) -> None:
        self.rows = Rows()
        self._deadline_ms = deadline_ms
        self._program = Program(explains=explains)
        if error := self._program.load_platform(platform):
            raise PolicyFailed("error", f"the platform policy cannot be loaded: {error.message}")

    async def load(self, policy: Source | None) -> frozenset[str]:
        """Loads a policy in place of the one before, None for the platform policy alone; returns its entry points."""
        if policy is None:
            self._program.unload()
        elif error := self._program.load(policy.text, policy.name):
            raise PolicyFailed(cause_of(error.message), error.message)
        return self._program.entry_points()

    async def decide(self, now_ms: int, seed: int, *, most: int) -> Outcome:
        """Returns what the loaded policy decides about the queue."""
        self._catch_up()
        return _checked(self._program.decide(now_ms, seed, self._deadline_ms), most)

    async def decide_platform(self, now_ms: int, seed: int, *, most: int) -> Outcome:
        """Returns what the platform policy decides about the queue."""
        self._catch_up()
        return _checked(self._program.decide_platform(now_ms, seed, self._deadline_ms), most)

    async def call(
        self, name: str, now_ms: int, seed: int, *, job_id: str = "", attempt: int = 0, error: str = ""
    ) -> Outcome:
        """Returns what should_admit, should_retry or on_idle says."""
        self._catch_up()
        given = {"job_id": job_id, "attempt": attempt, "error": error}
        return _checked(self._program.call(name, given, now_ms, seed, self._deadline_ms), MOST_UNASKED)

    def _catch_up(self) -> None:
        patch(self._program, self.rows.take())


def _checked(outcome: Outcome, most: int) -> Outcome:
    if outcome.error is not None:
        raise PolicyFailed(cause_of(outcome.error.message), outcome.error.message)
    if len(outcome.decisions) > most:
        raise PolicyFailed("flood", f"policy made {len(outcome.decisions):,} decisions where {most:,} can be of use")
    return outcome

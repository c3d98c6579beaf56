"""What a supervisor holds of one worker, from the request to start it until it is forgotten."""

from __future__ import annotations

import asyncio
import hmac
import signal
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from hive.core.lifecycle import WorkerEvent, WorkerState, next_state
from hive.core.model import Backend, Worker, WorkerExit, WorkerSpec
from hive.processes.child import Child
from hive.processes.output import OutputLines

REPORTED_LINES: Final = 20
MESSAGE_BYTES: Final = 2500
"""Room for log lines in an error, percent-encoded as gRPC sends its text.

gRPC begins to refuse trailers above 8 KiB, and an error is in there twice: as text and, in base64, in its details.
"""
MESSAGE_LINE_CHARACTERS: Final = 300


@dataclass
class WorkerProcess:
    """A worker's process and how far it has come. `token` is None once it was used or is void."""

    spec: WorkerSpec
    model_argument: str
    ready_timeout_s: float
    token: str | None
    output: OutputLines
    state: WorkerState = WorkerState.LOADING
    child: Child | None = None
    start_time_s: float | None = None
    address: str | None = None
    backend: Backend | None = None
    slots_total: int | None = None
    context_length: int | None = None
    exit: WorkerExit | None = None
    not_ready_in_time: bool = False
    launched: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def apply(self, event: WorkerEvent) -> None:
        """Moves to the next state; raises `WrongState` for an event the state does not know."""
        self.state = next_state(self.state, event)

    def has_token(self, token: str) -> bool:
        """Tells, in constant time, whether this worker was started with a token that is still good."""
        return self.token is not None and hmac.compare_digest(self.token.encode(), token.encode())

    def end(self, exit_code: int, now_s: float) -> None:
        """Records how the process ended and wakes everybody who waits for that."""
        self.token = None
        self.exit = WorkerExit(exit_code, self.output.tail(REPORTED_LINES), now_s)
        self.apply(WorkerEvent.EXITED)
        self.settled.set()
        self.ended.set()

    @property
    def was_killed(self) -> bool:
        """Whether it was ended by a signal that the hive did not send."""
        killed = self.exit is not None and self.exit.exit_code < 0
        return killed and self.state is WorkerState.FAILED and not self.not_ready_in_time

    def why_not_ready(self) -> str:
        """Returns, for a person, why a worker that was waited for is not ready, with the last lines it logged."""
        what = f"worker {self.spec.worker_id} for {self.spec.model_ref}"
        if self.not_ready_in_time:
            story = f"{what} was not ready within {self.ready_timeout_s:g} s and was killed"
        elif self.exit is None or self.state is WorkerState.STOPPED:
            story = f"{what} is being stopped" if self.exit is None else f"{what} was stopped while it loaded"
        else:
            when = "while it loaded" if self.address is None else "after it was ready"
            story = f"{what} ended {when}, with {describe_exit(self.exit.exit_code)}"
        lines = "".join(f"\n  {line}" for line in _fitting(self.output.tail(REPORTED_LINES)))
        said = f"Its last lines:{lines}" if lines else "It logged nothing."
        return f"{story}. {said}\nIf memory was short, try less: rbee worker spawn MODEL --slots 1"

    def view(self) -> Worker:
        """Returns the worker as reports name it, without what it uses."""
        return Worker(
            worker_id=self.spec.worker_id,
            state=self.state,
            spec=self.spec,
            address=self.address,
            backend=self.backend,
            pid=None if self.child is None or self.exit is not None else self.child.pid,
            slots_total=self.slots_total,
            context_length=self.context_length,
            start_time_s=self.start_time_s,
            exit=self.exit if self.state is WorkerState.FAILED else None,
        )


def _fitting(lines: Sequence[str]) -> list[str]:
    """Returns the last lines that fit into an error's text."""
    kept: list[str] = []
    room = MESSAGE_BYTES
    for line in reversed(lines):
        short = line[:MESSAGE_LINE_CHARACTERS]
        room -= len(quote(short, safe=string.punctuation + " "))
        if room < 0:
            break
        kept.insert(0, short)
    return kept


def describe_exit(exit_code: int) -> str:
    """Returns an exit status in words, such as "exit status 1" or "signal SIGKILL"."""
    if exit_code >= 0:
        return f"exit status {exit_code}"
    try:
        return f"signal {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"signal {-exit_code}"

"""An event loop that never waits, for tests of what takes seconds: its time passes only when it is told to."""

from __future__ import annotations

import asyncio
import selectors
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class VirtualLoop(asyncio.SelectorEventLoop):
    """Goes on turn by turn, or until some seconds are over, and raises what its callbacks and tasks have not caught.

    A loop that is killed is a process that is killed: nothing of it runs again, no timer and no task.
    """

    def __init__(self, begin_s: float = 0.0) -> None:
        self.now_s = self._until_s = begin_s
        self._single = False
        self.defects: list[BaseException] = []
        super().__init__(_Jumping(self))
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self.now_s

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Lets code that is called from outside set timers and start tasks, as if a callback did it."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def turn(self) -> None:
        """Runs what is ready, once."""
        self.stop()
        self.run_forever()
        self._raise_defects()

    def pass_time(self, seconds: float) -> None:
        """Runs everything that is due within some seconds."""
        self._until_s = self.now_s + seconds
        self.run_forever()
        self._raise_defects()

    def turns(self, seconds: float) -> Iterator[None]:
        """Runs what is due within some seconds, and yields after each turn."""
        self._until_s, self._single = self.now_s + seconds, True
        try:
            while self.now_s < self._until_s:
                self.run_forever()
                self._raise_defects()
                yield
        finally:
            self._single = False

    def look(self, timeout: float | None) -> None:
        """Is asked how long to wait for the next timer: goes there, or stops where it lies beyond the end."""
        if self._single:
            self.stop()
        if timeout == 0:
            return
        if timeout is None or self.now_s + timeout > self._until_s:
            self.now_s = self._until_s
            self.stop()
        else:
            self.now_s += timeout

    def kill(self) -> None:
        """Ends all tasks where they stand and forgets all timers."""
        self.set_exception_handler(lambda *_: None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some tasks have not begun
            for task in asyncio.all_tasks(self):
                task.get_coro().close()
            self.close()

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.defects.append(context.get("exception") or AssertionError(context["message"]))

    def _raise_defects(self) -> None:
        if self.defects:
            raise self.defects[0]


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.look(timeout)
        return []


class VirtualClock:
    """A loop's time as the queen's clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

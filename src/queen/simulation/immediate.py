"""Runs coroutines that have nothing to wait for, without an event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from wire import errors

Result = TypeVar("Result")


def immediate(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Returns what a coroutine does; raises `Internal` when it waits for something after all.

    One that only gives others their turn goes on: there are none.
    """
    try:
        while coroutine.send(None) is None:
            pass
    except StopIteration as end:
        result: Result = end.value
        return result
    coroutine.close()
    raise errors.Internal("what waits for something outside cannot be simulated")

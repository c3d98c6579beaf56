"""An event loop for programs that have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


class Loop:
    """An event loop on a thread of its own; Ctrl+C in the waiting thread cancels what it waits for."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rbee-client", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, Item]) -> Item:
        """Returns what a coroutine returns, or raises what it raises."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def each(self, items: AsyncGenerator[Item, None]) -> Iterator[Item]:
        """Yields what an asynchronous generator yields; it is closed when nobody wants more."""
        end = object()
        # After Ctrl+C the cancelled step may still be on its way out when the closing begins.
        turn = asyncio.Lock()

        async def following() -> Item | object:
            async with turn:
                return await anext(items, end)

        async def close() -> None:
            async with turn:
                await items.aclose()

        try:
            while (item := self.wait(following())) is not end:
                yield item  # type: ignore[misc]  # the one object that is no Item is the end
        finally:
            self.wait(close())

    def stop(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

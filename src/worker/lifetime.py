"""When a worker ends: SIGTERM, SIGINT, or its hive gone, which shows as the end of its standard input."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
from typing import Final

log = logging.getLogger(__name__)

_STDIN: Final = 0


class Lifetime:
    """Tells when to end. The first signal asks for an orderly end, a second one ends the process at once."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def watch_signals(self) -> None:
        """Lets SIGTERM and SIGINT ask for the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)

    def watch_hive(self) -> None:
        """Lets the end of standard input ask for the end, where that is a pipe: the hive holds its other side."""
        try:
            mode = os.fstat(_STDIN).st_mode
        except OSError:
            return  # there is none
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            self._loop.add_reader(_STDIN, self._on_input)

    async def over(self) -> None:
        """Returns when the end was asked for."""
        await self._asked.wait()

    def _on_signal(self, number: signal.Signals) -> None:
        if self._asked.is_set():
            os._exit(128 + number)
        log.info("%s: finishing what runs", number.name)
        self._asked.set()

    def _on_input(self) -> None:
        if not os.read(_STDIN, 4096):
            self._loop.remove_reader(_STDIN)
            log.warning("the hive is gone: finishing what runs")
            self._asked.set()

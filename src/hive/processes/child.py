"""One child process: started by argv in a session of its own, ended by signals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from hive.processes.output import OutputLines

_OUTPUT_WAIT_S: Final = 0.5


class Child:
    """A running child. Its standard input is a pipe that stays open as long as this process lives.

    So a child that reads its input to the end notices the hive's death, whatever killed it. Pipes are made here and
    not by asyncio, whose `wait` would otherwise also wait for grandchildren that inherited them.
    """

    def __init__(self, process: asyncio.subprocess.Process, input_fd: int, output: OutputLines) -> None:
        self._process = process
        self._input_fd = input_fd
        self._output = output

    @classmethod
    async def start(cls, argv: Sequence[str], environment: Mapping[str, str], output: OutputLines) -> Child:
        """Starts a process whose output goes to `output`; raises `OSError` when it cannot be started."""
        input_read, input_write = os.pipe()
        output_read, output_write = os.pipe()
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_read_pipe(lambda: output, os.fdopen(output_read, "rb", 0))
            # A session of its own: Ctrl+C in a terminal is for the hive, which stops its workers in order.
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=input_read,
                stdout=output_write,
                stderr=output_write,
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            os.close(input_write)
            raise
        finally:
            os.close(input_read)
            os.close(output_write)
        return cls(process, input_write, output)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Returns the exit status (negative: the signal) once the process has ended and its output is read.

        When cancelled, the process is killed: nobody would watch it any more.
        """
        try:
            code = await self._process.wait()
        finally:
            self.kill()
            os.close(self._input_fd)
        await self._output.drained(_OUTPUT_WAIT_S)
        return code

    def terminate(self) -> None:
        """Asks the process to end; one that has ended stays so."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """Kills the process and what it started, at once; one that has ended stays so."""
        if self._process.returncode is None:
            # The child leads its session, so its group has its id.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

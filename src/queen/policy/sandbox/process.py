"""One sandbox process as the queen sees it: started bare, asked one thing at a time, killed when it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

import queen
from queen.policy.sandbox import frames
from rbee.v1 import sandbox_pb2 as pb

log = logging.getLogger(__name__)

READY_S: Final = 20.0
"""How long a process may take to be ready; it needs 0.1 s on an idle machine."""

STARVED_FACTOR: Final = 2.5
"""How much longer than its processor time a request may take in all, when the machine is busy with other things."""

_SOURCES: Final = str(Path(queen.__file__).parents[1])
_STDERR_BYTES: Final = 4096
_ENDING_S: Final = 0.2
"""How long a process that has closed its socket may take to end by itself, so that its status can be told."""


class SandboxLost(Exception):
    """A sandbox process is gone. `cause` is "timeout", "crash" or "protocol"; the message says it in words."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


class SandboxProcess:
    """A running sandbox. Use `start` to make one; `kill` ends it, and is safe to repeat."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._number = 0
        self._overdue = ""
        self.protections: tuple[str, ...] = ()

    @classmethod
    async def start(cls) -> SandboxProcess:
        """Returns a process that is ready and holds its limits; raises `SandboxLost` when it does not get there."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-s", "-m", "queen.policy.sandbox", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                limit=_STDERR_BYTES,
                pass_fds=(theirs.fileno(),),
                env={"PYTHONPATH": _SOURCES, "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        try:
            ours.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            process.kill()
            raise
        made = cls(process, reader, writer)
        try:
            reply = await made._reply(READY_S, READY_S)
        except BaseException:
            made.kill()
            raise
        made.protections = tuple(reply.hello.protections)
        return made

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet, as far as is known."""
        return self._process.returncode is None and not self._writer.is_closing()

    async def ask(self, request: pb.SandboxRequest, cpu_s: float) -> pb.SandboxOutcome:
        """Returns what came of a request; raises `SandboxLost` when the process is lost over it.

        It is killed when it has not answered within `cpu_s` seconds, or, where other programs keep it from running,
        when it has used that much processor time or `STARVED_FACTOR` times as long has passed.
        """
        self._number += 1
        request.number = self._number
        self._writer.write(frames.framed(request.SerializeToString()))
        return (await self._reply(cpu_s, cpu_s * STARVED_FACTOR)).outcome

    def kill(self) -> None:
        """Ends the process at once."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        """Returns when the process is gone."""
        await self._process.wait()

    async def _reply(self, cpu_s: float, wall_s: float) -> pb.SandboxReply:
        loop = asyncio.get_running_loop()
        begun, used = loop.time(), self._cpu_s()

        limit: asyncio.TimerHandle

        def overdue() -> None:
            nonlocal limit
            left = min(cpu_s - (self._cpu_s() - used), begun + wall_s - loop.time())
            if left > 0:
                limit = loop.call_later(max(left, 0.005), overdue)
                return
            self._overdue = f"did not answer within {1e3 * (loop.time() - begun):,.0f} ms"
            self.kill()

        limit = loop.call_later(cpu_s, overdue)
        try:
            reply = pb.SandboxReply.FromString(await frames.read(self._reader, frames.MAX_REPLY_BYTES))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._lost() from None
        except (frames.FrameTooLong, DecodeError) as error:
            self.kill()
            raise SandboxLost("protocol", f"the sandbox broke the protocol: {error}") from None
        finally:
            limit.cancel()
        if reply.number != self._number:
            self.kill()
            raise SandboxLost("protocol", f"the sandbox answered {reply.number} when asked {self._number}")
        return reply

    async def _lost(self) -> SandboxLost:
        """Returns why the process has closed its socket."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_S):
                await self._process.wait()
        self.kill()
        await self._process.wait()
        assert self._process.stderr is not None, "it was asked for"
        said = await self._process.stderr.read()
        if self._overdue:
            return SandboxLost("timeout", f"the policy {self._overdue}, and was killed")
        status = self._process.returncode
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        how = f"was ended by {signal.Signals(-status).name}" if status and status < 0 else f"ended with {status}"
        return SandboxLost("crash", f"the sandbox {how}" + (f": {last}" if last else ""))

    def _cpu_s(self) -> float:
        """Returns the processor time it has used, seconds; 0 where the kernel does not tell."""
        clock = (~self._process.pid << 3) | 2  # MAKE_PROCESS_CPUCLOCK of Linux, <linux/posix-timers_types.h>
        try:
            return time.clock_gettime(clock)
        except OSError:
            return 0.0

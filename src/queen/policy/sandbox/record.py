"""The flight record: what the sandbox was told and what it answered, so that any decision can be made again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

from queen.policy.language import Program
from queen.policy.sandbox import frames, runner
from rbee.v1 import sandbox_pb2 as pb
from wire import errors

log = logging.getLogger(__name__)


class FlightRecord:
    """Adds requests and their outcomes to a file, in turns, each behind its length. The unanswered is left out.

    A thread of its own writes, so that a slow disk holds up nobody; `close` returns when all is written. What cannot be
    written ends the record, not the deciding. Raises `Invalid` RECORD_UNWRITABLE for a file that cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._stream = file.open("ab")
        except OSError as error:
            raise errors.Invalid(
                f"the policy record {file} cannot be written: {error.strerror}; name another with --policy-record",
                "RECORD_UNWRITABLE",
            ) from error
        self._waiting: SimpleQueue[tuple[pb.SandboxRequest, pb.SandboxOutcome] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="policy record", daemon=True)
        self._thread.start()

    def add(self, request: pb.SandboxRequest, outcome: pb.SandboxOutcome) -> None:
        """Records one request that was answered; neither may change any more."""
        self._waiting.put((request, outcome))

    def close(self) -> None:
        """Returns when everything is written."""
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        try:
            with self._stream as stream:
                while (turn := self._waiting.get()) is not None:
                    stream.write(b"".join(frames.framed(one.SerializeToString()) for one in turn))
                    if self._waiting.empty():
                        stream.flush()
        except OSError as error:
            log.error("the policy record ends here, it cannot be written: %s", error)


def replayed(recorded: bytes) -> Iterator[tuple[pb.SandboxOutcome, pb.SandboxOutcome]]:
    """Yields what came of each recorded request then, and what comes of it now in a fresh sandbox of this process.

    A request with the number 1 was the first one of a new sandbox, and is so again.
    """
    messages = iter(frames.split(recorded))
    program = Program()
    for message, answer in zip(messages, messages, strict=False):
        request = pb.SandboxRequest.FromString(message)
        if request.number == 1:
            program = Program()
        then = pb.SandboxOutcome.FromString(answer)
        now = pb.SandboxReply.FromString(runner.answer(program, request, lambda: 0)).outcome
        now.duration_us = then.duration_us
        yield then, now

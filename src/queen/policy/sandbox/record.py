"""The flight record: what the sandbox was told and what it answered, so that any decision can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from queen.policy.language import Program
from queen.policy.sandbox import frames, runner
from rbee.v1 import sandbox_pb2 as pb


class FlightRecord:
    """Adds requests and their outcomes to a file, in turns, each behind its length. The unanswered is left out."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, request: pb.SandboxRequest, outcome: pb.SandboxOutcome) -> None:
        """Records one request that was answered."""
        with self._file.open("ab") as stream:
            stream.write(b"".join(frames.framed(one.SerializeToString()) for one in (request, outcome)))


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

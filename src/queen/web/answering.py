"""Answers a request with its jobs' tokens: whole when all have ended, or as a stream of events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from queen.core.model import Job
from queen.dispatch.callers import Callers
from queen.registry.jobs import LiveJob
from queen.services.intake import Intake
from queen.web import caller, edge, server, styles, trouble
from queen.web.requests import Asked
from queen.web.styles import ChunkStyle, Part
from rbee.v1 import inference_service_pb2
from wire import errors, telemetry
from wire.clock import Clock

log = logging.getLogger(__name__)

InferResponse = inference_service_pb2.InferResponse
Reader = Callable[[Mapping[str, Any], Scope], Asked]

_HOLE: Final = "\0"
"""Where a chunk's text goes: JSON never holds this character but in a text, as six others."""
_HOLE_JSON: Final = b'"\\u0000"'
_OTHER_FAILED: Final = "another choice of its request failed"
_DONE: Final = b"data: [DONE]\n\n"
_STREAM: Final = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass(frozen=True, slots=True)
class Desk:
    """What answering needs of the queen. `cancel` ends a job and says why.

    `patience_s`: how long a caller may leave his answer unread. `body_bytes`: the largest body.
    """

    intake: Intake
    callers: Callers
    cancel: Callable[[LiveJob, str], Job]
    clock: Clock
    patience_s: float
    body_bytes: int


class SlowReader(Exception):
    """The caller does not read his answer."""


class Answering:
    """An endpoint whose answers are tokens. `read` makes jobs of a body."""

    def __init__(self, desk: Desk, read: Reader) -> None:
        self._desk = desk
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        asked = self._read(await caller.read_json(scope, receive, self._desk.body_bytes), scope)
        try:
            with telemetry.joined(Headers(scope=scope)):
                await caller.while_connected(receive, self._answer(asked, send))
        except SlowReader:
            server.abort(scope)
            await receive()  # returns when the connection is gone

    async def _answer(self, asked: Asked, send: Send) -> None:
        async with self._jobs(asked) as lives:
            answer = _Answer(asked, lives, int(self._desk.clock.now()))
            if asked.stream is not None:
                await _Stream(answer, asked.stream, send, self._desk.patience_s).run()
            else:
                await _whole(answer, send)

    @asynccontextmanager
    async def _jobs(self, asked: Asked) -> AsyncIterator[list[LiveJob]]:
        """Yields a request's jobs, accepted; however it ends, none of them goes on."""
        lives: list[LiveJob] = []
        try:
            deadline_s = asked.extras.deadline_s
            for spec in asked.specs:
                live = await self._desk.intake.accept(spec, "", detached=False, deadline_s=deadline_s)
                lives.append(live)
            yield lives
            self._end(lives, _OTHER_FAILED)  # where that was told at the end of a stream
        except asyncio.CancelledError:
            for live in lives:
                self._desk.callers.went(live)
            raise
        except SlowReader:
            log.warning("the caller of %s does not read what it writes", ", ".join(live.job.id for live in lives))
            self._end(lives, f"its caller did not read what it wrote for {self._desk.patience_s:g} s")
            raise
        except Exception:
            self._end(lives, _OTHER_FAILED)
            raise

    def _end(self, lives: list[LiveJob], why: str) -> None:
        for live in lives:
            self._desk.cancel(live, why)


class _Answer:
    """A request, its jobs, and what all of its answer has in common."""

    def __init__(self, asked: Asked, lives: list[LiveJob], created: int) -> None:
        self.asked = asked
        self.lives = lives
        self._id = asked.style.id_prefix + lives[0].job.id.removeprefix("job-")
        self._created = created

    def headers(self) -> dict[str, str]:
        """Returns the headers that say which jobs these are, who answers, and who decided that."""
        jobs = [live.job for live in self.lives]
        given = [job for job in jobs if job.attempts]
        decided = next((live.decision for live in self.lives if live.decision is not None), None)
        waits = [job.attempts[0].dispatch_time - job.submit_time for job in given]
        return {
            "x-rbee-job": ", ".join(job.id for job in jobs),
            "x-rbee-worker": ", ".join(dict.fromkeys(job.attempt.worker_id for job in given)),
            "x-rbee-hive": ", ".join(dict.fromkeys(job.attempt.hive_id for job in given)),
            "x-rbee-policy": f"{decided.policy}@{decided.policy_version}".rstrip("@") if decided else "",
            "x-rbee-queue-ms": f"{max(waits, default=0.0) * 1000:.1f}",
        }

    def body(self, kind: str, said: styles.Json) -> styles.Json:
        """Returns an answer, or a chunk of one, that says something."""
        return {"id": self._id, "object": kind, "created": self._created, "model": self.asked.model, **said}

    def echo(self, index: int, part: Part) -> Part:
        """Returns a choice's first part, or the whole, with what the answer begins with."""
        return replace(part, text=self.asked.echoed[index] + part.text) if self.asked.echoed else part


async def _whole(answer: _Answer, send: Send) -> None:
    """Sends the answer when all its jobs have ended."""
    parts = []
    for index, live in enumerate(answer.lives):
        with live.feed.reader() as reader:
            parts.append(answer.echo(index, styles.part_of(InferResponse.FromString(await reader.end()).events)))
    style = answer.asked.style
    body = answer.body(style.whole, style.answer(parts, answer.asked.likeliest))
    await edge.respond_json(send, body, headers=answer.headers())


class _Stream:
    """Sends chunks as tokens come. The response begins with the first of them: a job that fails before has a status."""

    def __init__(self, answer: _Answer, style: ChunkStyle, send: Send, patience_s: float) -> None:
        self._answer = answer
        self._style = style
        self._send = send
        self._patience_s = patience_s
        self._begun = False
        self._usage: styles.Json = {"usage": None} if answer.asked.include_usage else {}

    async def run(self) -> None:
        """Sends all of it; raises what a job failed with while nothing was sent."""
        try:
            ends = await self._relay_all()
        except errors.RbeeError as error:
            if not self._begun:
                raise
            await self._write(b"data: " + trouble.json_of(error) + b"\n\n", last=True)
            return
        last = b""
        if self._answer.asked.include_usage:
            told = {"choices": [], "usage": styles.usage(ends)}
            last = _event(self._answer.body(self._style.chunk, told))
        await self._write(last + _DONE, last=True)

    async def _relay_all(self) -> list[Part]:
        """Relays all choices at once; returns how each ended."""
        lives = self._answer.lives
        if len(lives) == 1:
            return [await self._relay(0, lives[0])]
        try:
            async with asyncio.TaskGroup() as group:
                relays = [group.create_task(self._relay(index, live)) for index, live in enumerate(lives)]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [relay.result() for relay in relays]

    async def _relay(self, index: int, live: LiveJob) -> Part:
        head, tail = self._frame(index)
        likeliest = self._answer.asked.likeliest
        first, part, place = True, Part(), 0
        with live.feed.reader() as reader:
            while news := await reader.read():
                part = styles.part_of(InferResponse.FromString(news).events)
                if first:
                    if not part.text and not part.tool_calls and part.done is None:
                        continue  # it waits, or a worker is made ready
                    part = self._answer.echo(index, part)
                    part.first, first = True, False
                elif part.done is None and not part.tool_calls and likeliest is None:
                    if part.text:  # nearly every chunk
                        await self._write(head + orjson.dumps(part.text) + tail)
                    continue
                part.place, place = place, place + len(part.text)
                await self._write(self._chunks(index, part))
        return part

    def _chunks(self, index: int, part: Part) -> bytes:
        """Returns a part as chunks: its ending is one of its own, as clients expect."""
        style, likeliest = self._style, self._answer.asked.likeliest
        told = b""
        if part.text or part.tool_calls or part.logprobs or part.first:
            told = self._chunk(style.delta(index, replace(part, done=None), likeliest))
        if part.done is not None:
            told += self._chunk(style.delta(index, Part(done=part.done), likeliest))
        return told

    def _chunk(self, choice: styles.Json) -> bytes:
        return _event(self._answer.body(self._style.chunk, {"choices": [choice], **self._usage}))

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        """Returns what stands before and after the text in a chunk that has nothing else."""
        whole = self._chunk(self._style.delta(index, Part(text=_HOLE), None))
        head, _, tail = whole.rpartition(_HOLE_JSON)
        return head, tail

    async def _write(self, body: bytes, *, last: bool = False) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                if not self._begun:
                    self._begun = True
                    headers = edge.encoded({**_STREAM, **self._answer.headers()})
                    await self._send({"type": "http.response.start", "status": 200, "headers": headers})
                await self._send({"type": "http.response.body", "body": body, "more_body": not last})
        except TimeoutError:
            raise SlowReader from None


def _event(body: styles.Json) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"

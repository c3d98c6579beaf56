"""A batch: a file of prompts, the jobs they become, and their answers in the file's order."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar, cast

from client.answer import pauses
from client.batch_lines import Asked, read_lines
from client.job import JobOptions
from rbee.v1 import generation_pb2, job_pb2
from wire import errors

if TYPE_CHECKING:
    from client.client import Client

PORTION: Final = 256
"""Most jobs in one call."""
PORTION_BYTES: Final = 1 << 20
"""Most text in one call, unless a single job has more; well below what a call may have."""
SUBMITTING: Final = 2
"""Calls at a time: one is written to the queen's disk while the next is on its way."""
FOLLOWING: Final = 32
"""Answers read at a time."""

_AT_REST: Final = {job_pb2.JOB_STATE_COMPLETE, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}

Item = TypeVar("Item")
Record = dict[str, Any]
"""What became of one line, as it is written as JSON."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A file of prompts that has been read and found right."""

    file: Path
    id: str
    """12 hexadecimal digits of the hash of the file's content; the jobs' label `batch`."""
    model: str
    """What the jobs ask for where their line names no other model."""
    lines: Sequence[Asked]


@dataclass(frozen=True, slots=True)
class Entry:
    """The job a line became; none when the queen refused it, and `error` says why."""

    line: int
    id: str | int | None
    job_id: str
    error: Record | None = None

    def record(self, **what: Any) -> Record:
        """Returns what became of it, as it is written."""
        refused = {} if self.error is None else {"error": self.error}
        return {"line": self.line, "id": self.id, "job_id": self.job_id, **refused, **what}


@dataclass(slots=True)
class Manifest:
    """Which line became which job, in FILE.rbee beside FILE, with the answers that were read already.

    The queen keeps the tokens of a job at rest for a while only; what was seen of a batch is kept here.
    """

    file: Path
    batch: str
    model: str
    entries: Sequence[Entry]
    answers: dict[str, Record] = field(default_factory=dict)
    """What the jobs answered, by job id."""
    missing: int = 0
    """Lines that were not handed in, because that was broken off."""

    @property
    def path(self) -> Path:
        """Returns where it is kept."""
        return manifest_path(self.file)

    def write(self) -> None:
        """Puts it in place at once, never half of it."""
        header = {"batch": self.batch, "model": self.model, "jobs": len(self.entries), "missing": self.missing}
        draft = self.path.with_name(f"{self.path.name}.part")
        lines = [header, *(entry.record() for entry in self.entries), *self.answers.values()]
        try:
            draft.write_text("".join(_json_line(line) for line in lines), encoding="utf-8")
            draft.replace(self.path)
        except OSError as error:
            raise _not_writable(self.file, error) from error

    def keeper(self) -> IO[str]:
        """Opens it for `keep`."""
        try:
            torn = not self.path.read_bytes().endswith(b"\n")
            opened = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise _not_writable(self.file, error) from error
        opened.write("\n" * torn)
        return opened

    def keep(self, record: Record, opened: IO[str]) -> None:
        """Adds an answer, so that nobody has to ask for it again; errors are the queen's to keep."""
        if "text" in record and record["job_id"] not in self.answers:
            self.answers[record["job_id"]] = record
            opened.write(_json_line(record))
            opened.flush()


def manifest_path(file: Path) -> Path:
    """Returns where the manifest of a batch file is: beside it."""
    return file.with_name(f"{file.name}.rbee")


def batch_id(content: bytes) -> str:
    """Returns the id of a batch, by what its file holds."""
    return hashlib.sha256(content).hexdigest()[:12]


def read(file: Path, defaults: JobOptions) -> Batch:
    """Reads a batch file; `defaults` are for what a line does not say. Raises `Invalid` with every bad line."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise errors.Invalid(f"{file} cannot be read: {error.strerror}; see: rbee jobs submit --help") from error
    name = batch_id(content)
    given = {key: value for key, value in defaults.items() if value is not None and key != "prompt"}
    options: Mapping[str, Any] = {"priority": "batch", **given}
    labels = {**(options.get("labels") or {}), "batch": name}
    # The same file with the same options is the same batch, so that the same command goes on with the same jobs.
    seal = hashlib.sha256(content + json.dumps(options, sort_keys=True).encode()).hexdigest()
    lines = read_lines(file, content, {**options, "labels": labels}, seal)
    return Batch(file, name, defaults["model"], lines)


def load(file: Path) -> Manifest:
    """Reads the manifest of a batch file that was submitted."""
    path, again = manifest_path(file), f"rbee jobs submit {file} --model MODEL"
    try:
        found = list(_objects(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise errors.NotFound(
            f"{file} was not submitted from here: there is no {path}; submit it with: {again}", "BATCH_NOT_FOUND"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise errors.WrongState(f"{path} cannot be read: {error}; write it anew with: {again}") from error
    try:
        header, count = found[0], found[0]["jobs"]
        entries = [Entry(one["line"], one["id"], one["job_id"], one.get("error")) for one in found[1 : count + 1]]
        entries[count - 1]  # all of them are there
        answers = {one["job_id"]: one for one in found[count + 1 :] if "text" in one}
        return Manifest(file, header["batch"], header["model"], entries, answers, header.get("missing", 0))
    except (IndexError, KeyError, TypeError) as error:
        raise errors.WrongState(f"{path} is damaged; write it anew with: {again}") from error


async def submit(
    queen: Client, batch: Batch, *, reattach_s: float, read: bool = False, accepted: Callable[[], None] = lambda: None
) -> Manifest:
    """Hands in a batch and writes its manifest; what was handed in before is found again, not doubled.

    A queen without room is asked again when she says, one that went away for `reattach_s` seconds. `read`: what is
    answered meanwhile is read, before the queen drops it. `accepted` is called for each job. A line whose prompt is
    too long is noted with why and does not stop the others. Whatever else breaks it off, the jobs handed in so far are
    noted.
    """
    # Whoever cannot note the jobs down should not start them.
    if not os.access(batch.file.absolute().parent, os.W_OK):
        raise _not_writable(batch.file, "the folder is not writable")
    handing = _HandingIn(queen, batch, reattach_s, accepted)
    try:
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(handing.read_early()) for _ in range(FOLLOWING if read else 0)]
            await _each(_portions(batch.lines), SUBMITTING, handing.hand_in)
            for reader in readers:
                reader.cancel()
    except ExceptionGroup as several:
        raise several.exceptions[0] from several
    finally:
        # Also of what is broken off, by whatever: jobs nobody knows of would be lost.
        if handing.jobs:
            handing.manifest().write()
    return handing.manifest()


class _HandingIn:
    """A batch on its way to the queen: which line became which job so far, and what is known of it from before."""

    def __init__(self, queen: Client, batch: Batch, reattach_s: float, accepted: Callable[[], None]) -> None:
        self.jobs: dict[int, Entry] = {}
        self._queen = queen
        self._batch = batch
        self._reattach_s = reattach_s
        self._accepted = accepted
        self._fresh: asyncio.Queue[Entry] = asyncio.Queue()
        self._before: dict[int, Entry] = {}
        self._answers: dict[str, Record] = {}
        with suppress(errors.RbeeError):
            earlier = load(batch.file)
            self._answers = earlier.answers
            if (earlier.batch, earlier.model) == (batch.id, batch.model):
                self._before = {entry.line: entry for entry in earlier.entries}

    async def hand_in(self, portion: Sequence[Asked]) -> None:
        """Makes jobs of some lines, asking again until the queen has taken all."""
        waits = pauses(self._reattach_s)
        left = list(portion)
        while sent := left:
            try:
                outcomes = await self._queen.submit_batch([(asked.request_id, asked.options) for asked in sent])
            except errors.Unreachable as error:
                # A queen nobody has heard of yet is a wrong address rather than one that went away.
                pause = next(waits, None) if self.jobs else error.retry_after_s
                if pause is None or error.reason == "NOT_A_QUEEN":
                    raise
                await asyncio.sleep(pause)
                continue
            refused = [
                (asked, why) for asked, out in zip(sent, outcomes, strict=True) if (why := self._took(asked, out))
            ]
            if final := [why for _, why in refused if why.retry_after_s is None]:
                raise final[0]
            left = [asked for asked, _ in refused]
            if left:
                await asyncio.sleep(max(why.retry_after_s or 0.0 for _, why in refused))

    def _took(self, asked: Asked, outcome: str | errors.RbeeError) -> errors.RbeeError | None:
        """Notes what a line became: a job, or a prompt that is too long for any worker; returns any other refusal."""
        if isinstance(outcome, str):
            entry = Entry(asked.line, asked.id, outcome)
            self._fresh.put_nowait(entry)
        elif outcome.reason == "PROMPT_TOO_LONG":
            entry = Entry(asked.line, asked.id, "", _told(outcome))
        else:
            return outcome
        self.jobs[asked.line] = entry
        self._accepted()
        return None

    async def read_early(self) -> None:
        """Reads answers as they come, until it is cancelled."""
        while True:
            entry = await self._fresh.get()
            if entry.job_id not in self._answers:
                # What goes wrong here is asked for once more by `follow`.
                with suppress(errors.RbeeError):
                    record = await _outcome(self._queen, entry, wait=True)
                    self._answers.update({entry.job_id: record} if "text" in record else {})

    def manifest(self) -> Manifest:
        """Returns what there is to note."""
        batch, known = self._batch, self._before | self.jobs
        entries = [known[asked.line] for asked in batch.lines if asked.line in known]
        answers = {entry.job_id: self._answers[entry.job_id] for entry in entries if entry.job_id in self._answers}
        return Manifest(batch.file, batch.id, batch.model, entries, answers, len(batch.lines) - len(entries))


async def follow(queen: Client, manifest: Manifest, told: Callable[[Record], None], *, wait: bool = True) -> None:
    """Tells what became of every line, as soon as it is known; with `wait` off also of what is not at rest yet."""
    with manifest.keeper() as opened:

        async def one(entry: Entry) -> None:
            record = manifest.answers.get(entry.job_id) or await _outcome(queen, entry, wait=wait)
            manifest.keep(record, opened)
            told(record)

        await _each(manifest.entries, FOLLOWING, one)


class InOrder:
    """Hands records on in the order of the lines; those that come early are held back."""

    def __init__(self, entries: Iterable[Entry], write: Callable[[Record], None]) -> None:
        self._order = iter([entry.line for entry in entries])
        self._next = next(self._order, None)
        self._held: dict[int, Record] = {}
        self._write = write

    def add(self, record: Record) -> None:
        """Takes a record, and hands on all whose turn it is."""
        self._held[record["line"]] = record
        while self._next in self._held:
            self._write(self._held.pop(self._next))
            self._next = next(self._order, None)


def _portions(lines: Iterable[Asked]) -> Iterator[Sequence[Asked]]:
    """Yields the lines in portions that fit a call."""
    portion: list[Asked] = []
    size = 0
    for asked in lines:
        length = len(json.dumps(asked.options))
        if portion and (len(portion) == PORTION or size + length > PORTION_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(asked)
        size += length
    if portion:
        yield portion


async def _outcome(queen: Client, entry: Entry, *, wait: bool) -> Record:
    if entry.error is not None:
        return entry.record()
    if not wait:
        job = await queen.get_job(entry.job_id)
        if job.state not in _AT_REST:
            return entry.record(state=job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower())
    answer = queen.watch(entry.job_id)
    try:
        text = await answer.text()
    except errors.RbeeError as error:
        # What ended the watching may not have ended the job.
        if not await _is_at_rest(queen, entry.job_id):
            raise
        return entry.record(error=_told(error))
    assert answer.done is not None, "an answer that came to its end says how"
    done = answer.done
    return entry.record(
        text=text,
        finish_reason=generation_pb2.FinishReason.Name(done.finish_reason).removeprefix("FINISH_REASON_").lower(),
        usage={
            "prompt_tokens": done.usage.prompt_tokens,
            "completion_tokens": done.usage.completion_tokens,
            "cached_prompt_tokens": done.usage.cached_prompt_tokens,
        },
        seed=done.seed,
    )


def _told(error: errors.RbeeError) -> Record:
    return {"reason": error.reason, "message": error.message}


async def _is_at_rest(queen: Client, job_id: str) -> bool:
    try:
        return (await queen.get_job(job_id)).state in _AT_REST
    except errors.NotFound:
        return True


async def _each(items: Iterable[Item], limit: int, work: Callable[[Item], Awaitable[None]]) -> None:
    """Does the work for each item, in order and at most `limit` at a time; the first error ends it all."""
    waiting = iter(items)

    async def busy() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(limit):
                group.create_task(busy())
    except ExceptionGroup as several:
        raise several.exceptions[0] from several


def _objects(text: str) -> Iterator[Record]:
    """Yields the JSON objects of a text's lines; one that is torn, by a crash, is left out."""
    for line in text.split("\n"):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield cast("Record", found)


def _json_line(value: Record) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _not_writable(file: Path, why: object) -> errors.RbeeError:
    return errors.WrongState(
        f"{manifest_path(file)} cannot be written ({why}); copy {file} to a folder of yours, then: "
        f"rbee jobs submit {file.name} --model MODEL",
        "NOT_WRITABLE",
    )

"""`rbee jobs submit FILE.jsonl` and `rbee jobs collect FILE.jsonl`: a batch on the screen."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from client.cli.call import settings, with_queen
from client.render import trouble, words
from client.render.table import console, print_json
from wire import errors

if TYPE_CHECKING:
    from rich.progress import Progress

    from client.batch import Manifest, Record
    from client.client import Client
    from client.job import JobOptions

FILE_SUFFIX = ".jsonl"


class BatchScreen:
    """One progress bar on a terminal; elsewhere a line at the start and one at the end."""

    def __init__(self, bar: Progress | None) -> None:
        self.way_back = ""
        """What helps when it is interrupted now; "" when nothing was begun."""
        self.done = 0
        """Steps of this stage."""
        self._bar = bar
        self._task = bar.add_task("") if bar is not None else None

    def begin(self, what: str, total: int, way_back: str) -> None:
        """Begins a stage."""
        self.way_back, self.done = way_back, 0
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, description=what, total=total)
        else:
            note(f"{what} {words.plural(total, 'job')}")

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)


class Tally:
    """How many jobs came to which end."""

    def __init__(self) -> None:
        self.complete = 0
        self.failed = 0
        self.dropped = 0
        self.unfinished = 0

    def add(self, record: Record) -> None:
        """Counts one."""
        self.complete += "text" in record
        self.failed += "error" in record
        self.dropped += record.get("error", {}).get("reason") == "OUTPUT_DROPPED"
        self.unfinished += "state" in record

    def __str__(self) -> str:
        """Returns it in words."""
        parts = [f"{self.complete:,} complete", f"{self.failed:,} failed"]
        if self.dropped:
            parts[1] += f" ({self.dropped:,} of them because the queen no longer keeps their answers; for new ones "
            parts[1] += "submit again with a new --label)"
        if self.unfinished:
            parts.append(f"{self.unfinished:,} not at rest")
        return ", ".join(parts)


def batch_file(prompt: str | None) -> Path | None:
    """Returns the batch file a prompt names, if it names one; a misspelt name is no prompt."""
    if prompt is None or not prompt.endswith(FILE_SUFFIX):
        return None
    file = Path(prompt).expanduser()
    try:
        found = file.is_file()
    except OSError:
        found = False
    if found:
        return file
    if not any(letter.isspace() for letter in prompt):
        raise typer.BadParameter(f"there is no file '{prompt}'; a prompt like this is piped in", param_hint="PROMPT")
    return None


def submit(ctx: typer.Context, file: Path, options: JobOptions, *, wait: bool, as_json: bool) -> None:
    """Hands in a batch and, with `wait`, shows it to its end; ends with 1 when a job failed."""
    from client import batch

    asked = batch.read(file, options)
    tally = Tally()

    async def work(queen: Client) -> Manifest:
        with progress() as screen:
            screen.begin("submitting", len(asked.lines), "")

            def accepted() -> None:
                screen.step()
                screen.way_back = (
                    f"{screen.done:,} of {words.plural(len(asked.lines), 'job')} were handed in; go on with the same "
                    f"command: rbee jobs submit {file} ...; the answers of those: rbee jobs collect {file}"
                )

            reattach_s = settings(ctx).reattach_s
            manifest = await batch.submit(queen, asked, reattach_s=reattach_s, read=wait, accepted=accepted)
            if wait:
                screen.begin("running", len(manifest.entries), way_back(file))

                def told(record: Record) -> None:
                    tally.add(record)
                    screen.step()

                await batch.follow(queen, manifest, told)
        return manifest

    with hangup_interrupts():
        manifest = with_queen(ctx, work)
    count = len(manifest.entries)
    if as_json:
        ends = {"complete": tally.complete, "failed": tally.failed} if wait else {}
        print_json(
            {"batch": asked.id, "model": asked.model, "manifest": str(manifest.path), "jobs": count, "waited": wait}
            | ends
        )
    else:
        print(asked.id)
    note(f"{words.plural(count, 'job')}{f': {tally}' if wait else ' accepted'}; the answers: rbee jobs collect {file}")
    if tally.failed:
        raise typer.Exit(trouble.FAILED)


def collect(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="A batch, as it was given to rbee jobs submit.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="Where to write. Default: standard output."),
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait: of a job that is not at rest, write its state.")
    ] = False,
) -> None:
    """Waits for a batch and writes its answers, one JSON object per line of FILE.jsonl and in its order.

    Ends with 1 when a job failed; its object says why. Ctrl+C leaves the jobs running.
    """
    from client import batch

    manifest = batch.load(file)
    if output is not None and output.absolute() in (file.absolute(), manifest.path.absolute()):
        raise typer.BadParameter(f"'{output}' is the batch itself; name another file", param_hint="--output")
    if file.is_file() and batch.batch_id(file.read_bytes()) != manifest.batch:
        note(f"{file} has changed since; these are the answers to what it was")
    if manifest.missing:
        note(f"{words.plural(manifest.missing, 'line')} more were never handed in: rbee jobs submit {file} ...")
    tally = Tally()

    async def work(queen: Client) -> None:
        # On a terminal the answers themselves show how far it is.
        shown = output is not None or not sys.stdout.isatty()
        with opened(output) as stream, progress(bar=shown) as screen:
            screen.begin("collecting", len(manifest.entries), way_back(file))
            ordered = batch.InOrder(manifest.entries, lambda record: write_line(stream, record))

            def told(record: Record) -> None:
                tally.add(record)
                ordered.add(record)
                screen.step()

            await batch.follow(queen, manifest, told, wait=not no_wait)

    with hangup_interrupts():
        with_queen(ctx, work)
    note(f"{words.plural(len(manifest.entries), 'job')}: {tally}{f', in {output}' if output is not None else ''}")
    if tally.failed:
        raise typer.Exit(trouble.FAILED)


@contextmanager
def progress(*, bar: bool = True) -> Iterator[BatchScreen]:
    """Yields the screen of a batch; tells the way back when what is inside is interrupted or loses the queen."""
    import asyncio

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = console(to_stderr=True)
    shown: Progress | None = None
    if bar and screen.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        shown = Progress(*columns, console=screen, redirect_stdout=False, redirect_stderr=False, transient=True)
    view = BatchScreen(shown)
    try:
        with shown or nullcontext():
            yield view
    except (asyncio.CancelledError, errors.RbeeError):
        if view.way_back:
            note(view.way_back)
        raise


@contextmanager
def hangup_interrupts() -> Iterator[None]:
    """Makes the end of its terminal end a command as Ctrl+C does; under nohup it goes on."""
    before = signal.getsignal(signal.SIGHUP) if hasattr(signal, "SIGHUP") else signal.SIG_IGN
    if before is signal.SIG_IGN:
        yield
        return
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def hung_up(*_: object) -> None:
        # Nobody reads there any more, and writing would fail.
        for number in terminals:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def opened(output: Path | None) -> Iterator[TextIO]:
    """Yields where to write; a file is put in place when all of it is there."""
    if output is None:
        yield sys.stdout
        return
    draft = output.with_name(f"{output.name}.{os.getpid()}.part")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            yield stream
        draft.replace(output)
    except OSError as error:
        raise typer.BadParameter(f"'{output}' cannot be written: {error.strerror}", param_hint="--output") from error
    finally:
        with suppress(OSError):
            draft.unlink()


def way_back(file: Path) -> str:
    """Returns what to say to those who leave a batch alone."""
    return f"the jobs go on; come back with: rbee jobs collect {file}"


def write_line(stream: TextIO, record: dict[str, Any]) -> None:
    """Writes a record at once."""
    stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    stream.flush()


def note(text: str) -> None:
    """Tells something aside."""
    console(to_stderr=True).print(text, style="dim", soft_wrap=True)

"""An answer while it comes: tokens on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Protocol

from client.render import words
from client.render.table import as_dict, console
from wire.clock import Clock

if TYPE_CHECKING:
    from rich.status import Status

    from rbee.v1 import event_pb2, job_pb2


class AnswerView(Protocol):
    """Shows one answer."""

    def event(self, event: event_pb2.JobEvent, job_id: str) -> None:
        """Shows one thing that happened."""
        ...

    def lost(self, job_id: str) -> None:
        """Tells that the connection broke and is being mended."""
        ...

    def pause(self) -> None:
        """Puts the screen in order before anything else is printed, also before an error."""
        ...

    def summary(self, job: job_pb2.Job | None, done: event_pb2.Done) -> None:
        """Shows how it went; `job` is None when the queen could not be asked any more."""
        ...

    def note(self, text: str) -> None:
        """Tells something aside."""
        ...


class JsonView:
    """One JSON object per event and line."""

    def event(self, event: event_pb2.JobEvent, job_id: str) -> None:
        """Prints the event with its job's id."""
        sys.stdout.write(json.dumps({"job_id": job_id, **as_dict(event)}, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def lost(self, job_id: str) -> None:
        """Says nothing: the events go on or an error follows."""

    def pause(self) -> None:
        """Has nothing to put in order."""

    def summary(self, job: job_pb2.Job | None, done: event_pb2.Done) -> None:
        """Says nothing: the last event holds it all."""

    def note(self, text: str) -> None:
        """Says nothing."""


class QuietView:
    """The answer's text and nothing else."""

    def __init__(self) -> None:
        self._line_is_open = False

    def event(self, event: event_pb2.JobEvent, job_id: str) -> None:
        """Prints tokens."""
        if text := event.tokens.text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._line_is_open = not text.endswith("\n")

    def lost(self, job_id: str) -> None:
        """Says nothing."""

    def pause(self) -> None:
        """Ends an open line, for the shell's prompt; a pipe gets the answer's text alone."""
        if self._line_is_open and sys.stdout.isatty():
            sys.stdout.write("\n")
            self._line_is_open = False

    def summary(self, job: job_pb2.Job | None, done: event_pb2.Done) -> None:
        """Says nothing."""

    def note(self, text: str) -> None:
        """Says nothing."""


class TextView:
    """The answer's text on standard output; waiting, decision and figures on standard error."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_s = clock.monotonic()
        self._first_token_s: float | None = None
        self._line_is_open = False
        self._spinner: Status | None = None
        self._told = ""
        self._queue_wait = ""

    def event(self, event: event_pb2.JobEvent, job_id: str) -> None:
        """Prints tokens; tells of waiting while there are none."""
        kind = event.WhichOneof("event")
        if kind == "tokens":
            self._tokens(event.tokens.text)
        elif kind == "queued":
            self._waiting(f"queued, number {event.queued.position}" if event.queued.position else "queued")
        elif kind == "provisioning":
            self._waiting(stage_words(event.provisioning), progress_words(event.provisioning))
        elif kind == "started":
            self._queue_wait = words.duration(event.started.queue_wait)
            again = f", try {event.started.attempt}" if event.started.attempt > 1 else ""
            if again:
                self.pause()
            self._waiting(f"started on worker {event.started.worker_id}{again}")

    def lost(self, job_id: str) -> None:
        """Tells that the connection broke and is being mended."""
        self._waiting("the queen went away; trying to get back to her")

    def pause(self) -> None:
        """Takes the spinner away and ends an open line."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
        if self._line_is_open:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._line_is_open = False

    def summary(self, job: job_pb2.Job | None, done: event_pb2.Done) -> None:
        """Prints the decision and the figures."""
        self.pause()
        if job is not None:
            self._print(decision_words(job), "bold")
        usage, timings = done.usage, done.timings
        parts = [job.model] if job is not None else []
        parts.append(f"{usage.prompt_tokens} + {usage.completion_tokens} tokens")
        if timings.tokens_per_second:
            parts.append(f"{timings.tokens_per_second:.1f} tok/s")
        if self._first_token_s is not None:
            seen = words.span(self._first_token_s - self._start_s)
            spent = [f"queue {self._queue_wait}"] if self._queue_wait else []
            spent.append(f"worker {words.duration(timings.time_to_first_token)}")
            parts.append(f"first token after {seen} ({', '.join(spent)})")
        parts += [f"ended by {words.state(done, 'finish_reason')}", f"seed {done.seed}"]
        if job is not None:
            parts.append(f"job {job.id}")
        self._print(" · ".join(parts), "dim")

    def note(self, text: str) -> None:
        """Prints a line aside."""
        self.pause()
        self._print(text, "dim")

    def _tokens(self, text: str) -> None:
        if not text:
            return
        if self._first_token_s is None:
            self._first_token_s = self._clock.monotonic()
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
        sys.stdout.write(text)
        sys.stdout.flush()
        self._line_is_open = not text.endswith("\n")

    def _waiting(self, text: str, progress: str = "") -> None:
        """Shows what is waited for: a spinner on a terminal; elsewhere a line when the text changes."""
        screen = console(to_stderr=True)
        if not screen.is_terminal:
            if text != self._told:
                self._told = text
                self._print(f"{text}{progress}", "dim")
        elif self._spinner is None:
            # A spinner would overwrite an answer's last line that is still open.
            if not self._line_is_open:
                self._spinner = screen.status(f"{text}{progress}")
                self._spinner.start()
        else:
            self._spinner.update(f"{text}{progress}")

    def _print(self, text: str, style: str) -> None:
        console(to_stderr=True).print(text, style=style, soft_wrap=True)


def decision_words(job: job_pb2.Job) -> str:
    """Returns where a job ran and why: "→ worker w on hive h: the first idle worker that has the model"."""
    last = job.attempts[-1] if job.attempts else None
    worker = last.worker_id if last is not None else job.decision.worker_id
    hive = last.hive_id if last is not None else job.decision.hive_id
    return f"→ worker {worker} on hive {hive}: {job.decision.reason or 'no reason was given'}"


def stage_words(provisioning: event_pb2.Provisioning) -> str:
    """Returns what is being made ready, and where."""
    worker = f" {provisioning.worker_id}" if provisioning.worker_id else ""
    hive = f" on hive {provisioning.hive_id}" if provisioning.hive_id else ""
    return f"{words.state(provisioning, 'stage')}{worker}{hive}"


def progress_words(provisioning: event_pb2.Provisioning) -> str:
    """Returns how far it is, such as ": 37 % of 4.1 GB"; empty when the stage has no byte count."""
    done, total = provisioning.bytes_done, provisioning.bytes_total
    if total:
        return f": {100 * done / total:.0f} % of {words.size(total)}"
    return f": {words.size(done)}" if done else ""

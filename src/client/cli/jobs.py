"""`rbee jobs`: jobs after their submission."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from client.cli import batch
from client.cli.call import collected, with_queen
from client.cli.job_options import job_of, takes_job_options
from client.render import words
from client.render.table import (
    as_dict,
    console,
    print_facts,
    print_json,
    print_json_messages,
    print_table,
    table_of,
)
from wire.clock import SystemClock

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import decision_pb2, job_pb2

app = typer.Typer(help="List, show, watch, cancel and submit jobs.")

app.command()(batch.collect)

_HEADERS: Final = ("id", "state", "model", "tokens", "submitted", "took", "worker", "priority")

JobArgument = Annotated[str, typer.Argument(help="The job's id; see: rbee jobs list.")]


class StateChoice(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


@app.command("list")
def list_jobs(
    ctx: typer.Context,
    *,
    state: Annotated[
        list[StateChoice] | None, typer.Option(help="Only jobs in this state. May be repeated. Default: all.")
    ] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Only the queue, in queue order.")] = False,
    model: Annotated[str, typer.Option(help="Only jobs of this model, by name or reference.")] = "",
    tenant: Annotated[str, typer.Option(help="Only jobs of this tenant.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most jobs to list.")] = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Show the list anew every second, until Ctrl+C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Lists jobs, newest first."""
    if watch and (as_json or not sys.stdout.isatty()):
        raise typer.BadParameter("is for terminals, and not together with --json", param_hint="--watch")
    states = [StateChoice.QUEUED] if queue else state or []

    async def ask(queen: Client) -> list[job_pb2.Job]:
        from rbee.v1 import job_pb2

        wanted = [job_pb2.JobState.Value(f"JOB_STATE_{choice.upper()}") for choice in states]
        return await collected(
            queen.list_jobs(states=wanted, model=model, tenant=tenant, page_size=min(limit, 1000)), limit
        )

    empty = "no such jobs" if states or model or tenant else "no jobs yet; try: rbee infer --model MODEL PROMPT"
    if watch:
        with_queen(ctx, lambda queen: _watch_list(lambda: ask(queen), empty))
        return
    jobs = with_queen(ctx, ask)
    if as_json:
        print_json_messages(jobs)
    else:
        print_table(_HEADERS, _rows(jobs), empty)


@app.command()
def show(
    ctx: typer.Context,
    job_id: JobArgument,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Shows where a job stands, its tries, and the decision about it with every candidate."""

    async def ask(queen: Client) -> job_pb2.Job:
        return await queen.get_job(job_id)

    job = with_queen(ctx, ask)
    if as_json:
        print_json(as_dict(job))
        return
    print_facts(_facts(job))
    if job.attempts:
        print()
        print_table(["try", "worker", "hive", "dispatched", "ended", "failure"], _attempt_rows(job), "")
    if job.HasField("decision"):
        print()
        print_facts(_decision_facts(job.decision))
        print_table(["candidate", "hive", "score", "verdict"], _candidate_rows(job.decision), "no candidates")


@app.command()
def watch(
    ctx: typer.Context,
    job_id: JobArgument,
    *,
    after: Annotated[int, typer.Option(min=0, help="Show events after this sequence; 0: all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per event and line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer and nothing else.")] = False,
) -> None:
    """Prints a job's answer, what has come and what comes. Ctrl+C leaves the job running."""

    async def ask(queen: Client) -> None:
        from client.cli import streaming

        screen = streaming.view(as_json=as_json, quiet=quiet)
        answer = queen.watch(job_id, after, on_lost=screen.lost)
        await streaming.show(queen, answer, screen, cancel=False)

    with_queen(ctx, ask)


@app.command()
def cancel(
    ctx: typer.Context,
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID...", help="Ids of the jobs; see: rbee jobs list.")],
) -> None:
    """Cancels jobs; a job at rest stays as it is."""

    async def ask(queen: Client) -> None:
        for job_id in job_ids:
            job = await queen.cancel(job_id)
            print(f"{job.id} {_state(job)}")

    with_queen(ctx, ask)


@app.command()
@takes_job_options
def submit(
    ctx: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job, or a batch's figures, as JSON.")] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Only a batch: return when its jobs are accepted, not when they ended.")
    ] = False,
    **job: Any,
) -> None:
    """Hands in a job that runs without its caller and prints its id; see: rbee jobs watch.

    A PROMPT that is a FILE.jsonl is a batch: a job for every line, a JSON object with "prompt" or "messages" and, as it
    likes, "id" and options such as "max_tokens"; the options given here are for what a line does not say. The same
    command again goes on with the same jobs. The answers: rbee jobs collect FILE.jsonl.
    """
    options = job_of(job)
    if (file := batch.batch_file(job["prompt"])) is not None:
        batch.submit(ctx, file, options, wait=not no_wait, as_json=as_json)
        return

    async def ask(queen: Client) -> job_pb2.Job:
        from client.cli.keeper_span import traced

        async with traced(queen, "jobs submit"):
            return await queen.submit(**options)

    accepted = with_queen(ctx, ask)
    if as_json:
        print_json(as_dict(accepted))
    else:
        print(accepted.id)


async def _watch_list(ask: Callable[[], Awaitable[list[job_pb2.Job]]], empty: str) -> None:
    import asyncio

    from rich.live import Live

    screen = console()
    with Live(console=screen, auto_refresh=False) as live:
        while True:
            rows = _rows(await ask())
            # What does not fit is left out, as the table would otherwise be drawn below its last self.
            live.update(table_of(_HEADERS, rows[: screen.height - 2], screen.width) if rows else empty, refresh=True)
            await asyncio.sleep(1)


def _rows(jobs: Iterable[job_pb2.Job]) -> list[list[str]]:
    now = SystemClock().now()
    return [
        [
            job.id,
            _state(job),
            job.model,
            f"{job.usage.prompt_tokens} + {job.usage.completion_tokens}" if job.HasField("usage") else words.NOTHING,
            words.ago(job.submit_time, now),
            _took(job),
            job.attempts[-1].worker_id if job.attempts else words.NOTHING,
            words.state(job, "priority"),
        ]
        for job in jobs
    ]


def _state(job: job_pb2.Job) -> str:
    place = f" ({job.queue_position})" if job.queue_position else ""
    return f"{words.state(job, 'state')}{place}"


def _took(job: job_pb2.Job) -> str:
    if not job.HasField("end_time"):
        return words.NOTHING
    return words.span((job.end_time.ToNanoseconds() - job.submit_time.ToNanoseconds()) / 1e9)


def _facts(job: job_pb2.Job) -> Iterator[tuple[str, str]]:
    yield "job", job.id
    yield "state", _state(job)
    yield "model", job.model
    yield "reference", job.model_ref
    yield "priority", words.state(job, "priority")
    yield "tenant", job.tenant_id
    yield "session", job.session_id
    yield "labels", ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))
    yield "detached", "yes" if job.detached else ""
    yield "submitted", words.clock_time(job.submit_time)
    yield "first token", words.clock_time(job.first_token_time)
    yield "ended", words.clock_time(job.end_time)
    yield "took", _took(job)
    if job.HasField("usage"):
        cached = f" ({job.usage.cached_prompt_tokens} cached)" if job.usage.cached_prompt_tokens else ""
        yield "tokens", f"{job.usage.prompt_tokens} in{cached}, {job.usage.completion_tokens} out"
    yield "ended by", words.state(job, "finish_reason")
    yield "seed", str(job.seed) if job.HasField("seed") else ""
    if job.HasField("failure"):
        yield "failure", f"{job.failure.reason}: {job.failure.message}"
    yield "trace", job.trace_id


def _attempt_rows(job: job_pb2.Job) -> list[list[str]]:
    return [
        [
            str(attempt.number),
            attempt.worker_id,
            attempt.hive_id,
            words.clock_time(attempt.dispatch_time),
            words.clock_time(attempt.end_time),
            f"{attempt.failure.reason}: {attempt.failure.message}" if attempt.HasField("failure") else words.NOTHING,
        ]
        for attempt in job.attempts
    ]


def _decision_facts(decision: decision_pb2.Decision) -> Iterator[tuple[str, str]]:
    version = f" {decision.policy_version}" if decision.policy_version else ""
    yield "decision", f"{words.state(decision, 'action')} {decision.worker_id}".strip()
    yield "reason", decision.reason
    yield "refused", decision.refusal
    yield "made by", f"{decision.policy}{version}, in {words.duration(decision.duration)}"
    yield "at", words.clock_time(decision.decide_time)


def _candidate_rows(decision: decision_pb2.Decision) -> list[list[str]]:
    return [
        [
            f"{candidate.alike:,} more" if candidate.alike else candidate.worker_id or "a new worker",
            candidate.hive_id or words.NOTHING,
            f"{candidate.score:g}" if candidate.HasField("score") else words.NOTHING,
            candidate.reject_reason or _verdict(decision, candidate),
        ]
        for candidate in decision.candidates
    ]


def _verdict(decision: decision_pb2.Decision, candidate: decision_pb2.Candidate) -> str:
    if candidate.alike:
        return "eligible"
    chosen = (candidate.worker_id or decision.worker_id, candidate.hive_id) == (decision.worker_id, decision.hive_id)
    return "chosen" if chosen else "eligible"

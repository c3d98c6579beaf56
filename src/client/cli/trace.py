"""`rbee trace`: what was done for a job, step by step, and which jobs were slow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.call import collected, with_queen
from client.render import words
from client.render.table import as_dict, console, print_json, print_json_messages, print_table
from wire.clock import SystemClock

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import trace_pb2, trace_service_pb2

_HEADERS = ("job", "waited", "longest step", "took", "model", "submitted", "error")


def trace(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(help="The job's id; see: rbee jobs list.", metavar="[JOB_ID]")] = "",
    *,
    last_slow: Annotated[
        bool,
        typer.Option("--last-slow", help="Of the recent jobs, those that waited longest for their first token."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most jobs of --last-slow.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the spans, or the jobs, as a JSON array.")] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", dir_okay=False, help="Draw it into this file instead, as a picture.")
    ] = None,
) -> None:
    """Draws what was done for a job, in which program, when and for how long.

    The queen keeps the newest traces in memory. Prompts and answers are never in a trace.
    """
    if bool(job_id) == last_slow:
        raise typer.BadParameter("name a job, or say --last-slow", param_hint="JOB_ID")
    if last_slow:
        _show_slow(ctx, limit, as_json=as_json)
        return

    async def ask(queen: Client) -> list[trace_pb2.Span]:
        return await queen.traces.get(job_id)

    spans = with_queen(ctx, ask)
    if as_json:
        print_json_messages(spans)
        return
    from client.render.trace import WIDTH, picture, table

    now = SystemClock().now()
    if svg is not None:
        svg.write_text(picture(spans, now, f"rbee trace {job_id}"), "utf-8")
        return
    screen = console()
    screen.print(table(spans, now, screen.width if screen.is_terminal else WIDTH))


def _show_slow(ctx: typer.Context, limit: int, *, as_json: bool) -> None:
    async def ask(queen: Client) -> list[trace_service_pb2.TraceSummary]:
        return await collected(queen.traces.slowest(page_size=limit), limit)

    slow = with_queen(ctx, ask)
    if as_json:
        print_json([as_dict(one) for one in slow])
        return
    now = SystemClock().now()
    rows = [
        [
            one.job_id,
            words.duration(one.wait),
            f"{one.longest_step.removeprefix('rbee.')} {words.duration(one.longest_step_duration)}",
            words.duration(one.duration),
            one.model,
            words.ago(one.start_time, now),
            one.error or words.NOTHING,
        ]
        for one in slow
    ]
    print_table(_HEADERS, rows, "no traces of ended jobs are kept; they are of jobs since the queen's start")

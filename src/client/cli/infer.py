"""`rbee infer`: a prompt in, tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli.call import with_queen
from client.cli.job_options import job_of, takes_job_options

if TYPE_CHECKING:
    from client.client import Client


@takes_job_options
def infer(
    ctx: typer.Context,
    *,
    detach: Annotated[
        bool, typer.Option("--detach", help="The job goes on when this command is ended; see: rbee jobs watch.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per event and line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer and nothing else.")] = False,
    **job: Any,
) -> None:
    """Asks a model and prints its answer as it comes.

    Tokens go to standard output, everything else to standard error. Ctrl+C cancels the job.
    """
    options = job_of(job)

    async def ask(queen: Client) -> None:
        from client.cli.keeper_span import traced
        from client.cli.streaming import show, view

        screen = view(as_json=as_json, quiet=quiet)
        async with traced(queen, "infer"):
            answer = queen.infer(detach=detach, on_lost=screen.lost, **options)
            await show(queen, answer, screen, cancel=not detach)

    with_queen(ctx, ask)

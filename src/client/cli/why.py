"""`rbee why`: why a job ran where and when it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.call import with_queen
from client.render.table import as_dict, print_json

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import job_service_pb2


def why(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(help="The job's id; see: rbee jobs list.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object with all decisions.")] = False,
) -> None:
    """Tells why a job ran where and when it did, or why it waits, and what would have changed it."""

    async def ask(queen: Client) -> job_service_pb2.JobServiceExplainResponse:
        return await queen.explain(job_id)

    explained = with_queen(ctx, ask)
    if as_json:
        print_json(as_dict(explained))
        return
    print(explained.text)
    if explained.counterfactual:
        print(f"it {explained.counterfactual}")

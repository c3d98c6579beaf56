"""`rbee policy simulate`: what a policy would do with a workload on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.call import with_queen
from client.render.table import console, print_json, print_table
from wire import errors
from wire.errors import FieldFault

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import policy_service_pb2


def simulate(
    ctx: typer.Context,
    policy: Annotated[
        str, typer.Argument(metavar="FILE", help="The policy's file, a saved NAME[@VERSION], platform or simple.")
    ],
    *,
    cluster: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="The machines, YAML: policies/clusters/.")
    ],
    trace: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Recorded requests: CSV with arrival time, prompt tokens and generated tokens.",
        ),
    ] = None,
    traffic: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Who asks for what, and when without a trace."),
    ] = None,
    synthetic: Annotated[
        float | None,
        typer.Option(metavar="RATE", min=0.000001, help="Requests drawn at random, so many a second on average."),
    ] = None,
    recorded: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="What the queen has served: jobs of the last TIME, such as 24h, or all she keeps."
        ),
    ] = "",
    duration: Annotated[str, typer.Option(metavar="TIME", help="For how long --synthetic draws requests.")] = "10m",
    against: Annotated[
        str, typer.Option(metavar="FILE", help="A second policy; both are shown side by side, and where they differ.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything drawn: the same seed, the same report.")] = 0,
    speed: Annotated[
        float, typer.Option(min=0.000001, help="How much quicker than recorded the requests of a trace come.")
    ] = 1.0,
    limit: Annotated[int, typer.Option(min=0, help="Only so many of the first requests. 0: all.")] = 0,
    horizon: Annotated[str, typer.Option(metavar="TIME", help="End after so long on the simulation's clock.")] = "",
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Write a picture of workers and queue, PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as a JSON object.")] = False,
) -> None:
    """Runs a policy over a workload on a virtual clock and prints waits, utilisation, evictions, cost and fairness.

    For example: rbee policy simulate mine.lua --cluster home.yaml --synthetic 2 --duration 1h --against platform; with
    what the queen has served: rbee policy simulate mine.lua --cluster home.yaml --recorded 24h.
    """
    from rbee.v1 import policy_service_pb2

    if synthetic is not None and (trace or traffic):
        raise errors.Invalid("--synthetic and --trace or --traffic exclude each other; leave one out", "BAD_OPTIONS")
    if not (trace or traffic or recorded or synthetic):
        raise errors.Invalid(
            "say what is to be simulated: --trace FILE, --traffic FILE, --synthetic RATE or --recorded TIME",
            "BAD_OPTIONS",
        )
    if recorded and (trace or synthetic is not None):
        raise errors.Invalid("--recorded and --trace or --synthetic exclude each other; leave one out", "BAD_OPTIONS")
    request = policy_service_pb2.PolicyServiceSimulateRequest(
        cluster_yaml=_read(cluster),
        trace_csv=_read(trace) if trace else "",
        traffic_yaml=_read(traffic) if traffic else "",
        seed=seed,
        speed=speed,
        limit=limit,
        plot=plot is not None,
    )
    request.source, request.file_name = _contestant(policy)
    request.against_source, request.against_name = _contestant(against)
    if synthetic is not None:
        length_s = _span(duration, "--duration")
        request.traffic_yaml = f"arrivals: {{rate: {synthetic:f}, duration: {length_s:g}s}}\n"
    if recorded:
        request.recorded.FromNanoseconds(0 if recorded == "all" else round(_span(recorded, "--recorded") * 1e9))
    if horizon:
        request.horizon.FromNanoseconds(round(_span(horizon, "--horizon") * 1e9))
    last = with_queen(ctx, lambda queen: _run(queen, request))
    report = json.loads(last.report_json)
    if plot is not None:
        _write(plot, last.plot_png)
    if as_json:
        print_json({name: value for name, value in report.items() if name != "tables"})
        return
    for table in report["tables"]:
        console().print(f"\n{table['title']}", style="bold")
        print_table(table["columns"], table["rows"], "nothing")


async def _run(
    queen: Client, request: policy_service_pb2.PolicyServiceSimulateRequest
) -> policy_service_pb2.PolicyServiceSimulateResponse:
    """Returns the last message of a simulation; shows on a terminal how far it is."""
    from rich.progress import Progress

    screen = console(to_stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("simulating", total=None)
        async for message in queen.policies.simulate(request):
            if message.report_json:
                return message
            progress.update(bar, completed=message.requests_done, total=message.requests_total)
    raise errors.Internal("the queen ended the simulation without a report; see her log")


def _contestant(named: str) -> tuple[str, str]:
    """Returns text and name of a policy: a file's, or only the name of one the queen has."""
    file = Path(named)
    if named and file.is_file():
        return _read(file), file.name
    if file.suffix in (".lua", ".yaml", ".yml"):
        raise errors.NotFound(f"there is no file {file}", "FILE_NOT_FOUND")
    return "", named


def _span(text: str, option: str) -> float:
    from wire.settings import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise errors.invalid([FieldFault(option, str(error))], "command") from error


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.Invalid(f"{file} cannot be read: {error}", "NOT_READABLE") from error


def _write(file: Path, picture: bytes) -> None:
    try:
        file.write_bytes(picture)
    except OSError as error:
        raise errors.WrongState(f"{file} cannot be written: {error.strerror}", "NOT_WRITABLE") from error

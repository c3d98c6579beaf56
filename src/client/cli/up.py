"""`rbee up`: a queen and the hive of this machine, serving."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from client.cli.call import settings
from wire import errors


def up(
    ctx: typer.Context,
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when all serves; stop it with: rbee down.")
    ] = False,
    model_dir: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder with GGUF files. May be repeated. Default: RBEE_MODEL_DIR, then the hive's own.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the queen listens. Default: what --queen says."),
    ] = None,
) -> None:
    """Starts a queen and a hive on this machine and waits until they serve.

    Without --detach it stays and shows the queen's log; Ctrl+C stops everything in order.
    """
    import asyncio

    from client.cli import launch
    from client.cli.queen_process import DataDir, address_of
    from wire.channel import split_address

    address, data = listen or settings(ctx).queen, DataDir(settings(ctx).data_dir)
    host, port = split_address(address)
    if port == 0:
        raise typer.BadParameter("a port from 1 to 65535 is needed", param_hint="--listen")
    # A name that means two addresses would be bound twice.
    bind = f"127.0.0.1:{port}" if host == "localhost" else address
    for stop_signal in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop_signal, signal.default_int_handler)
    if asyncio.run(launch.answers(address)):
        print(f"queen  serves already at {address}")
        launch.tell(asyncio.run(launch.serve_hive(address)))
        return
    if (other := data.running()) is not None:
        raise errors.WrongState(
            f"the queen of {data.path} runs already (pid {other.pid}, {address_of(other)}); "
            f"stop her: rbee down, or choose another folder with --data-dir",
            "QUEEN_RUNNING",
        )
    launch.run(data, address, bind, model_dir or [], detach=detach)

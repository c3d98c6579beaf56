"""`rbee down`: the end of what `rbee up` started."""

from __future__ import annotations

import typer

from client.cli.call import settings
from client.render.table import console
from wire import errors
from wire.clock import SystemClock


def down(ctx: typer.Context) -> None:
    """Stops the queen, her hives and their workers in order, and waits until they are gone, at most 60 s."""
    from client.cli import queen_process

    chosen = settings(ctx)
    data = queen_process.DataDir(chosen.data_dir)
    queen, clock = data.running(), SystemClock()
    if queen is None and queen_process.listens(chosen.queen):
        raise errors.WrongState(
            f"something serves at {chosen.queen}, but no rbee up with the data directory {data.path} started it; "
            f"stop it where it was started, or name its folder: rbee --data-dir DIR down",
            "NOT_OURS",
        )
    stopped = 0
    if queen is not None:
        with console(to_stderr=True).status(f"stopping the queen (pid {queen.pid}) and her hives"):
            queen_process.stop(queen, clock)
        data.forget()
        stopped += 1
    # A queen that was killed could not stop her hives.
    for hive in queen_process.orphans(data):
        with console(to_stderr=True).status(f"stopping a hive without a queen (pid {hive.pid}) and its workers"):
            queen_process.stop(hive, clock)
        stopped += 1
    print("stopped" if stopped else "nothing to stop")

"""`rbee` itself: the global options, the commands, and how a run ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, NoReturn

import typer

from client.cli import hive, jobs, model, policy, tenant, worker
from client.cli.call import Settings
from client.cli.down import down
from client.cli.infer import infer
from client.cli.status import status
from client.cli.trace import trace
from client.cli.up import up
from client.cli.why import why
from client.render import trouble
from wire import errors

_EPILOG: Final = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in trouble.EXIT_CODES.items()) + "."

_GLOBAL_OPTIONS: Final = ("--queen", "--data-dir", "--reattach")
"""Options with a value that are understood before and after the command."""

app = typer.Typer(
    name="rbee",
    help="The keeper: asks a queen for tokens from the machines you own.",
    epilog=_EPILOG,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)
app.command()(up)
app.command()(down)
app.command()(status)
app.command()(infer)
app.command()(why)
app.command()(trace)
app.add_typer(jobs.app, name="jobs")
app.add_typer(hive.app, name="hive")
app.add_typer(worker.app, name="worker")
app.add_typer(model.app, name="model")
app.add_typer(policy.app, name="policy")
app.add_typer(tenant.app, name="tenant")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"rbee {version('rbee')}")
    except PackageNotFoundError:
        print("rbee (not installed: run from its source)")
    raise typer.Exit


@app.callback()
def keeper(
    ctx: typer.Context,
    *,
    queen: Annotated[
        str,
        typer.Option(envvar="RBEE_QUEEN", metavar="HOST:PORT", help="The queen. May also be given after the command."),
    ] = "localhost:7833",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="RBEE_DATA_DIR",
            metavar="DIR",
            file_okay=False,
            help="Where rbee up keeps the queen's data, log and pid. Default: the user's data directory.",
        ),
    ] = None,
    reattach: Annotated[
        float,
        typer.Option(
            envvar="RBEE_REATTACH",
            metavar="SECONDS",
            min=0,
            max=3600,
            help="How long an answer tries to get back to a queen that went away, 0 to 3600 s.",
        ),
    ] = 30.0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Reads the global options."""
    if data_dir is None:
        import platformdirs

        data_dir = Path(platformdirs.user_data_dir("rbee"))
    ctx.obj = Settings(queen, data_dir.absolute(), reattach)
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main() -> NoReturn:
    """Runs `rbee` with the process's arguments and ends the process."""
    sys.excepthook = _unexpected
    # A terminal that cannot show a character is no reason to lose the rest.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs a command line without the program's name and returns the exit code; errors are told on standard error."""
    command = typer.main.get_command(app)
    try:
        code = command.main(with_globals_first(arguments), prog_name="rbee", standalone_mode=False)
    except errors.RbeeError as error:
        _tell(trouble.lines(error))
        if os.environ.get("RBEE_DEBUG"):
            raise
        return trouble.exit_code(error)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "rbee"
        _tell([error.format_message(), f"see: {path} --help"])
        return trouble.USAGE
    return code if isinstance(code, int) else 0


def with_globals_first(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with the global options moved to the front; nothing after "--" is touched."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in _GLOBAL_OPTIONS:
            front += [argument, *([value] if (value := next(waiting, None)) is not None else [])]
        elif argument.startswith(tuple(f"{option}=" for option in _GLOBAL_OPTIONS)):
            front.append(argument)
        else:
            rest.append(argument)
    return [*front, *rest]


def _tell(lines: Sequence[str]) -> None:
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo("\n".join(lines), err=True)


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tells of a fault of rbee's own in one line instead of a traceback."""
    if os.environ.get("RBEE_DEBUG"):
        sys.__excepthook__(kind, error, trace)
    else:
        _tell([f"rbee failed: {kind.__name__}: {error}", "RBEE_DEBUG=1 shows the traceback; please report it"])

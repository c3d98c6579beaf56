"""`rbee worker`: loaded models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.call import collected, with_queen
from client.cli.job_options import model_reference, pairs
from client.render import words
from client.render.table import as_dict, console, print_json, print_json_messages, print_table

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import worker_pb2

app = typer.Typer(help="List, spawn and stop workers.")


@app.command("list")
def list_workers(
    ctx: typer.Context,
    *,
    hive: Annotated[str, typer.Option(help="Only this hive's workers.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Lists workers by hive and id."""

    async def ask(queen: Client) -> list[worker_pb2.Worker]:
        return await collected(queen.workers(hive=hive))

    workers = with_queen(ctx, ask)
    if as_json:
        print_json_messages(workers)
    else:
        print_workers(workers)


@app.command()
def spawn(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Name, reference or GGUF file of the model; see: rbee model list.")],
    *,
    hive: Annotated[
        str, typer.Option(help="The hive it runs on. Default: one that has the model and the memory.")
    ] = "",
    slots: Annotated[
        int,
        typer.Option(min=0, max=256, help="Generations it runs at once, 1 to 256. Default: 4.", show_default=False),
    ] = 0,
    context_length: Annotated[
        int, typer.Option(min=0, help="Tokens each slot can hold. Default: the model's own.", show_default=False)
    ] = 0,
    engine: Annotated[str, typer.Option(help="The engine: llamacpp or synthetic. Default: llamacpp.")] = "",
    engine_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the engine. May be repeated.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="A device it may use, such as gpu0. May be repeated. Default: the first that fits."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the worker as a JSON object.")] = False,
) -> None:
    """Starts a worker and waits until it is ready."""
    settings = pairs(engine_option or (), "--engine-option")

    async def ask(queen: Client) -> worker_pb2.Worker:
        with console(to_stderr=True).status(f"starting a worker for {model}"):
            return await queen.spawn_worker(
                model_reference(model, Path.cwd()),
                hive=hive,
                engine=engine,
                slots=slots,
                context_length=context_length,
                devices=device or (),
                engine_options=settings,
            )

    worker = with_queen(ctx, ask)
    if as_json:
        print_json(as_dict(worker))
    else:
        print(f"worker {worker.id} {words.state(worker, 'state')} on hive {worker.hive_id}")


@app.command()
def stop(
    ctx: typer.Context,
    worker_id: Annotated[str, typer.Argument(help="The worker's id; see: rbee worker list.")],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Give up what it runs; such jobs are retried elsewhere.")
    ] = False,
) -> None:
    """Stops a worker when what it runs has ended, and waits until then."""

    async def ask(queen: Client) -> None:
        with console(to_stderr=True).status(f"stopping worker {worker_id}"):
            await queen.stop_worker(worker_id, force=force)

    with_queen(ctx, ask)
    print(f"worker {worker_id} stopped")


def print_workers(workers: Iterable[worker_pb2.Worker]) -> None:
    """Prints workers as a table."""
    print_table(
        ["id", "state", "model", "slots free", "hive", "device", "memory", "tok/s", "jobs", "up", "engine", "context"],
        [
            [
                worker.id,
                words.state(worker, "state"),
                worker.model,
                f"{worker.slots_available} of {worker.slots_total}",
                worker.hive_id,
                ", ".join(worker.device_ids) or words.state(worker, "backend"),
                _memory(worker),
                words.optional(worker, "avg_tokens_per_sec"),
                str(worker.jobs_completed),
                words.duration(worker.uptime),
                worker.engine,
                str(worker.context_length or words.NOTHING),
            ]
            for worker in workers
        ],
        "no workers; one starts with the first: rbee infer --model MODEL PROMPT",
    )


def _memory(worker: worker_pb2.Worker) -> str:
    if worker.HasField("vram_mb") and worker.vram_mb:
        return f"{words.memory(worker.vram_mb)} vram"
    return words.memory(worker.rss_mb) if worker.HasField("rss_mb") else words.NOTHING

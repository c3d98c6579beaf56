"""`rbee model`: models and their files on the machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.call import collected, with_queen
from client.cli.job_options import model_reference
from client.render import words
from client.render.table import as_dict, print_facts, print_json, print_json_messages, print_table

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import model_pb2

app = typer.Typer(help="List and show models.")


@app.command("list")
def list_models(
    ctx: typer.Context,
    *,
    hive: Annotated[str, typer.Option(help="Only models this hive has.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Lists models by name."""

    async def ask(queen: Client) -> list[model_pb2.Model]:
        return await collected(queen.models(hive=hive))

    models = with_queen(ctx, ask)
    if as_json:
        print_json_messages(models)
        return
    print_table(
        ["id", "size", "needs", "context", "hives", "workers", "parameters", "quantisation", "family", "defect"],
        [
            [
                model.name,
                words.size(model.file.file_size_bytes),
                words.memory(model.memory_required_mb),
                str(model.file.context_length or words.NOTHING),
                ", ".join(model.hive_ids) or words.NOTHING,
                str(len(model.worker_ids)),
                words.amount(model.file.parameter_count) if model.file.parameter_count else words.NOTHING,
                model.file.quantization or words.NOTHING,
                model.file.family or words.NOTHING,
                model.file.defect or words.NOTHING,
            ]
            for model in models
        ],
        "no models; put a GGUF file into a model directory and name it with: rbee up --model-dir DIR",
    )


@app.command()
def show(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Alias, name, reference or GGUF file; see: rbee model list.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Shows which model a name means and what is known of it."""

    async def ask(queen: Client) -> model_pb2.Model:
        return await queen.resolve_model(model_reference(model, Path.cwd()))

    found = with_queen(ctx, ask)
    if as_json:
        print_json(as_dict(found))
    else:
        print_facts(_facts(found))


def _facts(model: model_pb2.Model) -> Iterator[tuple[str, str]]:
    file = model.file
    yield "model", model.name
    yield "aliases", ", ".join(model.aliases)
    yield "reference", model.model_ref
    yield "family", file.family
    yield "parameters", f"{file.parameter_count:,}" if file.parameter_count else ""
    yield "context", f"{file.context_length:,} tokens" if file.context_length else ""
    yield "quantisation", file.quantization
    yield "size", words.size(file.file_size_bytes)
    yield "blocks", str(file.block_count or "")
    yield "kv cache", f"{words.size(file.kv_bytes_per_token)} per token" if file.kv_bytes_per_token else ""
    yield "changed", words.clock_time(file.modify_time)
    yield "memory needed", words.memory(model.memory_required_mb) if model.memory_required_mb else ""
    yield "hives", ", ".join(model.hive_ids)
    yield "workers", ", ".join(model.worker_ids)
    yield "defect", file.defect

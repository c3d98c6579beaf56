"""`rbee hive`: machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.call import collected, with_queen
from client.render import words
from client.render.table import as_dict, print_facts, print_json, print_json_messages, print_table
from wire.clock import SystemClock

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import device_pb2, hive_pb2

app = typer.Typer(help="List, show, start and stop hives.")

HiveArgument = Annotated[str, typer.Argument(help="The hive's name; see: rbee hive list.")]


@app.command("list")
def list_hives(
    ctx: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Lists hives by name."""

    async def ask(queen: Client) -> list[hive_pb2.Hive]:
        return await collected(queen.hives())

    hives = with_queen(ctx, ask)
    if as_json:
        print_json_messages(hives)
    else:
        print_hives(hives)


@app.command()
def show(
    ctx: typer.Context,
    hive_id: HiveArgument,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Shows what is known of a hive, its devices and its models."""

    async def ask(queen: Client) -> hive_pb2.Hive:
        return await queen.get_hive(hive_id)

    hive = with_queen(ctx, ask)
    if as_json:
        print_json(as_dict(hive))
        return
    print_facts(_facts(hive))
    print()
    print_devices([hive])
    print()
    print_table(
        ["model", "size", "defect", "reference"],
        [
            [file.name, words.size(file.file_size_bytes), file.defect or words.NOTHING, file.model_ref]
            for file in hive.models
        ],
        "no model files",
    )


@app.command()
def start(
    ctx: typer.Context,
    hive_id: Annotated[
        str, typer.Argument(help="The hive's name; nothing: the hive of the queen's own machine.", show_default=False)
    ] = "",
) -> None:
    """Starts a hive and waits until it reports."""

    async def ask(queen: Client) -> hive_pb2.Hive:
        return await queen.start_hive(hive_id)

    hive = with_queen(ctx, ask)
    print(f"hive {hive.id} {words.state(hive, 'state')} at {hive.address}")


@app.command()
def stop(ctx: typer.Context, hive_id: HiveArgument) -> None:
    """Stops a hive and its workers and waits until they have ended."""

    async def ask(queen: Client) -> hive_pb2.Hive:
        return await queen.stop_hive(hive_id)

    hive = with_queen(ctx, ask)
    print(f"hive {hive.id} stopped")


def print_hives(hives: Iterable[hive_pb2.Hive]) -> None:
    """Prints hives as a table."""
    now = SystemClock().now()
    print_table(
        ["id", "state", "devices", "models", "free ram", "last report", "address", "free disk", "mode"],
        [
            [
                hive.id,
                words.state(hive, "state"),
                ", ".join(device.id for device in hive.devices) or words.NOTHING,
                str(len(hive.models)),
                words.memory(hive.ram_free_mb) if hive.HasField("ram_free_mb") else words.NOTHING,
                words.ago(hive.last_report_time, now),
                hive.address or words.NOTHING,
                words.size(hive.disk_free_bytes) if hive.HasField("disk_free_bytes") else words.NOTHING,
                words.state(hive, "mode"),
            ]
            for hive in hives
        ],
        "no hives; start this machine's with: rbee hive start",
    )


def print_devices(hives: Iterable[hive_pb2.Hive]) -> None:
    """Prints the devices of hives as a table."""
    print_table(
        ["device", "hive", "memory free", "use", "claimed", "foreign", "name", "temperature", "power"],
        [
            [
                device.id,
                hive.id,
                _memory_free(device),
                words.optional(device, "utilization_percent", " %"),
                words.memory(device.memory_claimed_mb) if device.HasField("memory_claimed_mb") else words.NOTHING,
                words.memory(device.memory_foreign_mb) if device.HasField("memory_foreign_mb") else words.NOTHING,
                device.name,
                words.optional(device, "temperature_celsius", " °C"),
                words.optional(device, "power_draw_watts", " W"),
            ]
            for hive in hives
            for device in hive.devices
        ],
        "no devices",
    )


def _memory_free(device: device_pb2.Device) -> str:
    if not device.HasField("memory_free_mb"):
        return words.NOTHING
    total = f" of {words.memory(device.memory_total_mb)}" if device.HasField("memory_total_mb") else ""
    return f"{words.memory(device.memory_free_mb)}{total}"


def _facts(hive: hive_pb2.Hive) -> Iterator[tuple[str, str]]:
    yield "hive", hive.id
    yield "state", words.state(hive, "state")
    yield "address", hive.address
    yield "mode", f"{words.state(hive, 'mode')}{', started and stopped by the queen' if hive.managed else ''}"
    yield "platform", hive.platform
    yield "version", hive.version
    yield "last report", words.ago(hive.last_report_time, SystemClock().now())
    yield "free ram", words.memory(hive.ram_free_mb) if hive.HasField("ram_free_mb") else ""
    yield "free disk", words.size(hive.disk_free_bytes) if hive.HasField("disk_free_bytes") else ""
    yield "labels", ", ".join(f"{key}={value}" for key, value in sorted(hive.labels.items()))
    yield "region", hive.geo.region
    yield "cost per token", f"{hive.cost_per_token:g}" if hive.HasField("cost_per_token") else ""

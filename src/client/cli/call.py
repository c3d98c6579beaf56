"""The way from a command to the queen: settings, one event loop, one connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from client.client import Client

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the global options and RBEE_* variables say."""

    queen: str
    """"host:port" of the queen."""
    data_dir: Path
    """Where `rbee up` keeps the queen's data, log and pid file."""
    reattach_s: float
    """Seconds an answer tries to get back to a queen that went away."""


def settings(ctx: typer.Context) -> Settings:
    """Returns the settings of this run."""
    found = ctx.find_object(Settings)
    assert found is not None, "the app's callback runs before every command"
    return found


def with_queen(ctx: typer.Context, work: Callable[[Client], Awaitable[Result]]) -> Result:
    """Returns what `work` makes of a client of the queen; Ctrl+C cancels it and ends as KeyboardInterrupt."""
    import asyncio

    from client.client import connect

    chosen = settings(ctx)

    async def connected() -> Result:
        async with connect(chosen.queen, reattach_s=chosen.reattach_s) as queen:
            return await work(queen)

    return asyncio.run(connected())


async def collected(items: AsyncIterator[Result], limit: int | None = None) -> list[Result]:
    """Returns the first `limit` items, or all."""
    found: list[Result] = []
    async for item in items:
        if limit is not None and len(found) >= limit:
            break
        found.append(item)
    return found

"""The Lua library that policies see, in the order its files are loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

LOAD_ORDER: Final = (
    "views",
    "lists",
    "kinds",
    "state",
    "signatures",
    "workers",
    "pools",
    "models",
    "jobs",
    "tenants",
    "eviction",
    "values",
    "debugging",
    "decisions",
    "environment",
    "cycle",
)


@cache
def sources() -> list[tuple[str, str]]:
    """Returns (name, source) of each file, in load order; they are read once."""
    folder = Path(__file__).parent
    return [(name, (folder / f"{name}.lua").read_text("utf-8")) for name in LOAD_ORDER]

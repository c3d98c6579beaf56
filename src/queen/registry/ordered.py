"""Dictionaries that are kept in order of their keys: they change far less often than they are listed."""

from __future__ import annotations

from typing import TypeVar

Value = TypeVar("Value")


def put_in_order(index: dict[str, Value], key: str, value: Value) -> None:
    """Puts a value under its key; a new key goes to its place among the sorted ones."""
    is_new = key not in index
    last = next(reversed(index), "")
    index[key] = value
    if is_new and key < last:
        ordered = sorted(index.items())
        index.clear()
        index.update(ordered)

"""Tables for people, JSON for programs; both on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console
    from rich.table import Table

_GAP: Final = 2
UNLIMITED_COLUMNS: Final = 10_000
"""Width of what is no terminal: a pipe gets every line whole."""


def console(*, to_stderr: bool = False) -> Console:
    """Returns the console of a stream: colours and wrapping on a terminal only, text taken as it is."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() else UNLIMITED_COLUMNS
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Prints a table whose columns come in the order of their weight; `empty` when there are no rows.

    On a terminal that is too narrow the last columns are left out, and it says so; what is shown is shown whole.
    """
    screen, lines = console(), list(rows)
    if not lines:
        sys.stderr.write(f"{empty}\n")
        return
    table = table_of(headers, lines, screen.width)
    screen.print(table)
    if left_out := headers[len(table.columns) :]:
        sys.stderr.write(f"(not shown for want of width: {', '.join(left_out)})\n")


def table_of(headers: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> Table:
    """Returns the table of as many of the first columns as fit."""
    from rich.table import Table

    shown = _columns_that_fit([headers, *lines], width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for index, header in enumerate(headers[:shown]):
        table.add_column(header.upper(), overflow="fold", no_wrap=index == 0)
    for line in lines:
        table.add_row(*line[:shown])
    return table


def _columns_that_fit(lines: Sequence[Sequence[str]], width: int) -> int:
    """Returns how many of the first columns fit side by side; at least two, which are folded if they must."""
    from rich.cells import cell_len

    used, shown = 0, 0
    for column in zip(*lines, strict=True):
        used += max(cell_len(cell) for cell in column) + _GAP
        if used - _GAP > width and shown >= 2:
            break
        shown += 1
    return shown


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Prints names and values, one per line; those without a value are left out."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value and value != "-":
            table.add_row(name, value)
    console().print(table)


def as_dict(message: Message) -> dict[str, Any]:
    """Returns a message as its JSON object, with the contract's field names; numbers that are 0 are there too."""
    from google.protobuf import json_format

    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def print_json(value: Any) -> None:
    """Prints a JSON value, indented."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_json_messages(messages: Iterable[Message]) -> None:
    """Prints messages as an array of JSON objects."""
    print_json([as_dict(message) for message in messages])

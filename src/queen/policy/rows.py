"""The queen's copy of the rows a sandbox holds: it tells what has changed since it was asked last, or all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from queen.policy.language import Program
from queen.policy.language import Rows as Kind

Row = dict[str, Any]
Change = list[Any]
"""["put", kind, id, fields, absent fields], ["remove", kind, id] or ["queue", ids], as in `SandboxRequest`."""

KINDS: Final[tuple[Kind, ...]] = ("config", "metrics", "models", "tenants", "pools", "workers", "jobs")


class Rows:
    """Rows by kind and id, and the changes that nobody has taken yet. Metrics and config have the id ""."""

    def __init__(self) -> None:
        self._rows: dict[Kind, dict[str, Row]] = {kind: {} for kind in KINDS}
        self._queue: tuple[str, ...] = ()
        self._changes: list[Change] = []

    def put(self, kind: Kind, row_id: str, row: Row) -> None:
        """Sets a whole row; a field that is None or left out is absent. What is as before changes nothing."""
        row = {name: value for name, value in row.items() if value is not None}
        before = self._rows[kind].get(row_id)
        if before is None:
            self._changes.append(["put", kind, row_id, row, []])
        elif before != row:
            changed = {name: value for name, value in row.items() if name not in before or before[name] != value}
            self._changes.append(["put", kind, row_id, changed, [name for name in before if name not in row]])
        self._rows[kind][row_id] = row

    def patch(self, kind: Kind, row_id: str, fields: Mapping[str, Any]) -> None:
        """Sets some fields of a row that is there."""
        self.put(kind, row_id, {**self._rows[kind][row_id], **fields})

    def remove(self, kind: Kind, row_id: str) -> None:
        """Removes a row; safe to repeat."""
        if self._rows[kind].pop(row_id, None) is not None:
            self._changes.append(["remove", kind, row_id])

    def queue(self, job_ids: Sequence[str]) -> None:
        """Sets the order of the queue."""
        ordered = tuple(job_ids)
        if ordered != self._queue:
            self._queue = ordered
            self._changes.append(["queue", ordered])

    def ids(self, kind: Kind) -> frozenset[str]:
        """Returns the ids of the rows of a kind."""
        return frozenset(self._rows[kind])

    def has(self, kind: Kind, row_id: str) -> bool:
        """Returns whether there is such a row."""
        return row_id in self._rows[kind]

    def take(self) -> list[Change]:
        """Returns the changes since this or `everything` was last called, in order."""
        changes, self._changes = self._changes, []
        return changes

    def everything(self) -> list[Change]:
        """Returns what makes an empty sandbox the same as this; nothing is left to take then."""
        self._changes = []
        rows: list[Change] = [
            ["put", kind, row_id, row, []] for kind in KINDS for row_id, row in sorted(self._rows[kind].items())
        ]
        return [*rows, ["queue", self._queue]]


def patch(program: Program, changes: Sequence[Change]) -> None:
    """Applies changes to the state of a program, in order."""
    for what, *rest in changes:
        if what == "put":
            program.put(*rest)
        elif what == "remove":
            program.remove(*rest)
        else:
            program.queue(*rest)

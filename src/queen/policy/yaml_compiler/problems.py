"""Faults in a policy's text: where, what, what was expected; gathered, so that a person sees all of them at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

MOST_PROBLEMS: Final = 100
"""Problems kept of one text; a file with more is better mended from the top."""

_LINE_END: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What ends a line in YAML 1.1, so that lines are counted as the parser counts them."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """A fault, with the fields of the contract's PolicyProblem.

    `line` and `column` are from 1; 0 when it concerns the whole. `fatal` keeps the policy from being saved.
    """

    line: int
    column: int
    message: str
    source_line: str
    fatal: bool = True


class Place(Protocol):
    """Where something stands in the text: line and column, from 1."""

    @property
    def line(self) -> int: ...  # noqa: D102
    @property
    def column(self) -> int: ...  # noqa: D102


class Problems:
    """The problems of one text, in the making."""

    def __init__(self, text: str) -> None:
        self._lines = _LINE_END.split(text)
        self._found: dict[tuple[int, int, str], Problem] = {}

    def error(self, place: Place, message: str) -> None:
        """Notes a fault that keeps the policy from running."""
        self.note(place.line, place.column, message)

    def warn(self, place: Place, message: str) -> None:
        """Notes a doubt about a policy that can run."""
        self.note(place.line, place.column, message, fatal=False)

    def note(self, line: int, column: int, message: str, *, fatal: bool = True) -> None:
        """Notes a problem by line and column, once (an alias shows a node twice)."""
        if len(self._found) < MOST_PROBLEMS:
            source = self._lines[line - 1] if 0 < line <= len(self._lines) else ""
            self._found.setdefault((line, column, message), Problem(line, column, message, source[:500], fatal))

    @property
    def fatal(self) -> bool:
        """Whether any of them keeps the policy from running."""
        return any(problem.fatal for problem in self._found.values())

    def found(self) -> tuple[Problem, ...]:
        """Returns what was noted, in the order of the text."""
        return tuple(sorted(self._found.values()))


def nearest(word: str, names: Iterable[str]) -> str:
    """Returns the name most like a misspelt word, or an empty text when none is near."""
    known = list(names)
    flat = {name.lower().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(word.lower().replace("-", "_"), flat, n=1, cutoff=0.6)
    if close:
        return flat[close[0]]
    return ""


def nearest_path(path: str, paths: Iterable[str]) -> str:
    """Returns the dotted path most like a misspelt one: a field of the same object, else of this name elsewhere."""
    known = list(paths)
    owner, _, name = path.rpartition(".")
    same = {each.rpartition(".")[2]: each for each in known if owner and each.rpartition(".")[0] == owner}
    if near := nearest(name, same):
        return same[near]
    elsewhere = next((each for each in known if each.rpartition(".")[2] == name), "")
    return elsewhere or ("" if same else nearest(path, known))


def unknown(what: str, word: str, names: Iterable[str]) -> str:
    """Returns a message about a word that is none of the names: the nearest one, else all."""
    known = list(names)
    near = nearest(word, known)
    advice = f"did you mean {near}?" if near else f"expected {listed(known)}"
    return f'there is no {what} "{shortened(word)}"; {advice}'


def listed(names: Iterable[str]) -> str:
    """Returns names as people list them: a, b or c."""
    *most, last = list(names)
    if len(most) > 12:
        return f"{', '.join(most[:12])}, ..."
    return f"{', '.join(most)} or {last}" if most else last


def shortened(text: str) -> str:
    """Returns a text on one line of at most 60 characters, for messages."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"

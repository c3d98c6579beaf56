"""YAML as nodes that know their line and column; the traps of YAML are problems here, nothing is guessed.

Scalars are read by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), so `on`, `no` and
`22:30` are texts and only `true` and `false` are booleans. Tags, merge keys and repeated keys are refused; aliases are
followed within a limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from queen.policy.yaml_compiler.problems import Problems, shortened

MOST_BYTES: Final = 1024 * 1024
MOST_NODES: Final = 10_000
"""Nodes of a document with its aliases followed; the largest policies people write have a few hundred."""
MOST_DEPTH: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A part of the document: where it begins (from 1) and which characters of the text it takes."""

    line: int
    column: int
    start: int
    end: int

    @property
    def kind(self) -> str:
        """What it is, in words for messages."""
        return "nothing"


@dataclass(frozen=True, slots=True, eq=False)
class Scalar(Node):
    """A single value: as written, and as the core schema reads it."""

    text: str
    value: str | int | float | bool | None

    @property
    def kind(self) -> str:
        """What it is, in words for messages."""
        if self.value is None:
            return "nothing"
        if isinstance(self.value, bool):
            return self.text
        return f"the text {shortened(self.text)!r}" if isinstance(self.value, str) else f"the number {self.text}"


@dataclass(frozen=True, slots=True, eq=False)
class Items(Node):
    """A list."""

    items: tuple[Node, ...]

    @property
    def kind(self) -> str:
        """What it is, in words for messages."""
        return "a list" if self.items else "an empty list"


@dataclass(frozen=True, slots=True, eq=False)
class Fields(Node):
    """A mapping, in the order of the text."""

    entries: tuple[tuple[Scalar, Node], ...]

    @property
    def kind(self) -> str:
        """What it is, in words for messages."""
        return "a mapping"


@dataclass(frozen=True, slots=True)
class Spot:
    """A place within a node."""

    line: int
    column: int


class _Unreadable(Exception):
    """The text is no YAML from here on; the problem is noted already."""


def parse(text: str, problems: Problems) -> Node | None:
    """Returns the document's root, or None when there is none to speak of; what is wrong is noted."""
    if len(text.encode(errors="surrogatepass")) > MOST_BYTES:
        problems.note(0, 0, "the policy is larger than 1 MiB")
        return None
    try:
        return _Reader(text, problems).read()
    except _Unreadable:
        return None
    except yaml.reader.ReaderError as fault:
        before = text[: fault.position]
        line = before.count("\n") + 1
        problems.note(
            line, fault.position - before.rfind("\n"), f"the character {fault.character!r} cannot stand in YAML"
        )
    except yaml.MarkedYAMLError as fault:
        _explain(fault, text, problems)
    return None


def spot(text: str, node: Scalar, offset: int) -> Spot:
    """Returns where the character at `offset` of a scalar's value stands in the text.

    The value's visible characters stand in the text in the same order, with quotes, escapes and indentation between
    them: they are found one by one.
    """
    begin = node.start
    if text[begin] in "|>":  # skip the header of a block
        begin = text.index("\n", begin) + 1
    elif text[begin] in "\"'":
        begin += 1
    at = begin
    for character in node.text[: offset + 1].lstrip():
        if not character.isspace():
            found = text.find(character, at, node.end)
            at = found + 1 if found >= 0 else at
    at = max(at - 1, begin)
    line_start = max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1
    return Spot(node.line + text.count("\n", node.start, at), at - line_start + 1)


class _Reader:
    """Composes nodes from the parser's events, which come one by one, so that limits hold before memory is taken."""

    def __init__(self, text: str, problems: Problems) -> None:
        self._text = text
        self._problems = problems
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._nodes = 0

    def read(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._note(event, 'expected the end of the file: one policy a file, no second "---"')
                    return root
                root = self._node(next(self._events), 0)
        return root

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._nodes
        self._count(event, 1)
        if depth > MOST_DEPTH:
            self._note(event, f"nested deeper than {MOST_DEPTH} levels")
            raise _Unreadable
        if event.tag is not None:
            self._note(event, f"tags such as {shortened(event.tag)} are not read; write the value alone")
        node = self._content(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._nodes - before)
        return node

    def _content(self, event: Any, depth: int) -> Node:
        mark = event.start_mark
        place = (mark.line + 1, mark.column + 1, mark.index)
        if isinstance(event, yaml.ScalarEvent):
            value = _core_schema(event.value) if event.style is None else event.value
            return Scalar(*place, _end(event), event.value, value)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(event, depth + 1))
            return Items(*place, _end(event), tuple(items))
        return self._fields(place, depth)

    def _fields(self, place: tuple[int, int, int], depth: int) -> Fields:
        entries: dict[str, tuple[Scalar, Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key, Scalar):
                self._problems.error(key, f"expected a name before the colon, got {key.kind}")
            elif key.text == "<<":
                self._problems.error(key, "merge keys (<<) are not read; write the fields out")
            elif key.text in entries:
                first = entries[key.text][0].line
                self._problems.error(key, f'"{shortened(key.text)}" stands here twice, first in line {first}')
            else:
                entries[key.text] = (key, value)
        return Fields(*place, _end(event), tuple(entries.values()))

    def _alias(self, event: Any) -> Node:
        found = self._anchors.get(event.anchor)
        if found is None:
            self._note(event, f"there is no finished anchor &{shortened(event.anchor)} above this alias")
            raise _Unreadable
        node, size = found
        self._count(event, size)
        return node

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            self._note(event, f"more than {MOST_NODES:,} values, aliases counted as often as they are used")
            raise _Unreadable

    def _note(self, event: Any, message: str) -> None:
        self._problems.note(event.start_mark.line + 1, event.start_mark.column + 1, message)


def _end(event: yaml.Event) -> int:
    """Returns where an event ends; the parser marks every one of them."""
    assert event.end_mark is not None
    return event.end_mark.index


_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,15}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")


def _core_schema(text: str) -> str | int | float | bool | None:
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE"}:
        return True
    if text in {"false", "False", "FALSE"}:
        return False
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


_EXPLAINED: Final = (
    (
        "mapping values are not allowed",
        'a ": " cannot stand here; indent the line as its neighbours, or quote the text',
    ),
    ("expected <block end>", "the indentation of this line fits no line above it"),
    ("could not find expected ':'", 'expected ":" after the name above'),
    ("found unexpected end of stream", "expected a closing quote before the end of the file"),
    ("found undefined alias", "there is no anchor of this name"),
    ("expected ',' or ']'", 'expected "," or "]"'),
    ("expected ',' or '}'", 'expected "," or "}"'),
    ("found character '%'", 'a text that begins with "%" needs quotes'),
    ("found character '@'", 'a text that begins with "@" needs quotes'),
    ("found character '`'", 'a text that begins with "`" needs quotes'),
)


def _explain(fault: yaml.MarkedYAMLError, text: str, problems: Problems) -> None:
    """Notes what the parser could not read, in words that say what to do."""
    message = fault.problem or "this is not YAML"
    if "'\\t'" in message:
        for number, written in enumerate(text.splitlines(), 1):
            indent = written[: len(written) - len(written.lstrip())]
            if "\t" in indent:
                problems.note(number, indent.index("\t") + 1, "a tab cannot indent YAML; use spaces")
    mark = fault.problem_mark or fault.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    told = next((words for start, words in _EXPLAINED if start in message), f"this is not YAML: {message}")
    if "'\\t'" not in message or not problems.fatal:
        problems.note(line, column, told)

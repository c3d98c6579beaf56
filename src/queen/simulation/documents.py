"""Reads YAML documents key by key: every fault at once, each with its line, what was expected and the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Final

import yaml

from wire import errors
from wire.errors import FieldFault

MAX_BYTES: Final = 2**20
_UNITS_MB: Final = {"kb": 2**-10, "mb": 1.0, "gb": 2.0**10, "tb": 2.0**20}
_UNITS_S: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY: Final = re.compile(r"(-?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")


class Section:
    """A mapping of a document. Every reader notes a fault and returns something harmless where a value is wrong.

    Keys are known by being read: `close` finds those that nobody asked for.
    """

    def __init__(self, node: yaml.Node, path: str, faults: list[FieldFault]) -> None:
        self._path = path
        self._node = node
        self._faults = faults
        self._values: dict[str, yaml.Node] = {}
        self._keys: dict[str, yaml.Node] = {}
        self._asked: list[str] = []
        if not isinstance(node, yaml.MappingNode):
            self.fault(f"keys with values, not {_said(node)}")
            return
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if not name:
                self._note(key, path, f"a name as key, not {_said(key)}")
            elif name in self._values:
                self._note(key, self._of(name), "to stand once")
            else:
                self._values[name], self._keys[name] = value, key

    def fault(self, expected: str, name: str = "") -> None:
        """Notes that the section, or the value of one of its keys, is not what was expected."""
        self._note(self._values.get(name, self._node), self._of(name) if name else self._path, expected)

    def has(self, name: str) -> bool:
        """Returns whether a key stands there; it counts as read."""
        return self._value(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        """Returns a text; required unless a default is given."""
        node = self._scalar(name, "a text", default is None)
        if node is None:
            return default or ""
        if not node.value.strip():
            self.fault("a text, not an empty one", name)
        return str(node.value)

    def word(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """Returns one of some words."""
        text = self.text(name, default)
        if text not in allowed:
            self.fault(f"{_nearest(text, allowed)}one of {', '.join(allowed)}, not '{text}'", name)
            return default
        return text

    def number(self, name: str, default: float | None = None, *, least: float = 0.0, most: float = 1e12) -> float:
        """Returns a number within a range."""
        return self._quantity(name, default, {"": 1.0}, "a number", least, most)

    def whole(self, name: str, default: int | None = None, *, least: int = 0, most: int = 10**9) -> int:
        """Returns a whole number within a range."""
        value = self._quantity(name, default, {"": 1.0}, "a whole number", least, most)
        if not value.is_integer():
            self.fault(f"a whole number, not {value:g}", name)
        return int(value)

    def size_mb(self, name: str, default: float | None = None, *, least: float = 1.0) -> int:
        """Returns a size in MB (2^20 bytes); a number without a unit is MB already."""
        return round(self._quantity(name, default, {"": 1.0, **_UNITS_MB}, "a size such as 24GB", least, 2**30))

    def span_s(self, name: str, default: float | None = None, *, least: float = 0.0) -> float:
        """Returns a span in seconds; a number without a unit is seconds already."""
        return self._quantity(name, default, {"": 1.0, **_UNITS_S}, "a span such as 90s or 5min", least, 1e9)

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns a list of texts; empty where there is none."""
        found = []
        for node in self._items(name):
            if isinstance(node, yaml.ScalarNode):
                found.append(str(node.value))
            else:
                self._note(node, self._of(name), f"a list of texts, not {_said(node)} in it")
        return tuple(found)

    def labels(self, name: str) -> dict[str, str]:
        """Returns a mapping of texts to texts; empty where there is none."""
        section = self.section(name)
        return {} if section is None else {key: section.text(key) for key in section.names()}

    def section(self, name: str) -> Section | None:
        """Returns the mapping below a key; None where there is none."""
        node = self._value(name)
        return None if node is None else Section(node, self._of(name), self._faults)

    def sections(self, name: str) -> list[Section]:
        """Returns a list of mappings; empty where there is none."""
        path = self._of(name)
        return [Section(node, f"{path}[{index}]", self._faults) for index, node in enumerate(self._items(name))]

    def names(self) -> tuple[str, ...]:
        """Returns the keys in the order they stand; all count as read."""
        self._asked.extend(self._values)
        return tuple(self._values)

    def close(self) -> None:
        """Notes the keys that nobody asked for, each with the nearest one that is known."""
        for name, key in self._keys.items():
            if name not in self._asked:
                known = ", ".join(dict.fromkeys(self._asked))
                self._note(key, self._of(name), f"{_nearest(name, self._asked)}known here: {known}")

    def unknown(self, name: str, wanted: str, known: Iterator[str] | tuple[str, ...], what: str) -> None:
        """Notes that the value of a key names something that does not exist."""
        known = tuple(known)
        self.fault(f"{_nearest(wanted, known)}there is no {what} '{wanted}'; there are: {', '.join(known)}", name)

    def _value(self, name: str) -> yaml.Node | None:
        self._asked.append(name)
        node = self._values.get(name)
        return None if node is None or node.tag == "tag:yaml.org,2002:null" else node

    def _scalar(self, name: str, expected: str, required: bool) -> yaml.ScalarNode | None:
        node = self._value(name)
        if node is None:
            if required:
                self.fault(f"{expected}; it is missing", name)
            return None
        if isinstance(node, yaml.ScalarNode):
            return node
        self.fault(f"{expected}, not {_said(node)}", name)
        return None

    def _items(self, name: str) -> list[yaml.Node]:
        node = self._value(name)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self.fault(f"a list, not {_said(node)}", name)
            return []
        return list(node.value)

    def _quantity(
        self, name: str, default: float | None, units: dict[str, float], expected: str, least: float, most: float
    ) -> float:
        node = self._scalar(name, expected, default is None)
        if node is None:
            return float(least if default is None else default)
        match = _QUANTITY.fullmatch(node.value.strip())
        unit = match[2].lower().replace("ib", "b") if match else ""
        if match is None or unit not in units:
            self.fault(f"{expected}, not '{node.value}'", name)
            return float(least if default is None else default)
        value = float(match[1].replace("_", "")) * units[unit]
        if not least <= value <= most:
            self.fault(f"{expected}, {_plain(least)} to {_plain(most)}, not {node.value}", name)
            return float(least)
        return value

    def _of(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _note(self, node: yaml.Node, path: str, expected: str) -> None:
        line = node.start_mark.line + 1
        self._faults.append(FieldFault(f"line {line}{': ' if path else ''}{path}", f"expected {expected}"))


class Document(Section):
    """A whole document. Raises `Invalid` when it is no YAML at all; `finish` raises it for all faults noted."""

    def __init__(self, source: str, what: str) -> None:
        self._what = what
        super().__init__(_composed(source, what), "", [])

    def finish(self) -> None:
        """Raises `Invalid` naming every fault that was found, in the order of their lines."""
        if self._faults:
            ordered = sorted(self._faults, key=lambda fault: int(re.findall(r"\d+", fault.field)[0]))
            raise errors.invalid(ordered, self._what)


def _composed(source: str, what: str) -> yaml.Node:
    if len(source.encode()) > MAX_BYTES:
        raise errors.invalid([FieldFault("line 1", f"expected at most {MAX_BYTES:,} bytes")], what)
    try:
        node = yaml.compose(source, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1"
        raise errors.invalid([FieldFault(place, f"{error.problem or error.context}")], what) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise errors.invalid([FieldFault("line 1", f"expected YAML: {error}".splitlines()[0])], what) from None
    if node is None:
        raise errors.invalid([FieldFault("line 1", "expected keys with values; it is empty")], what)
    return node


def _nearest(wanted: str, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(wanted, known, 1)
    return f"perhaps '{close[0]}'; " if close else ""


def _said(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"'{node.value}'" if node.value else "nothing"
    return "a list" if isinstance(node, yaml.SequenceNode) else "keys with values"


def _plain(value: float) -> str:
    return f"{int(value):,}" if value.is_integer() else f"{value:g}"

"""JSON Schema as the published document uses it, made into checks that name every bad field at once.

Only the words in openapi.yaml are known; another one is an error at start, not a rule that nobody keeps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

import orjson
import yaml

from wire.errors import FieldFault

Check = Callable[[Any, str, list[FieldFault]], None]
"""Takes a value, its path and where to put faults."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "object": ("an object", lambda value: isinstance(value, dict)),
    "array": ("a list", lambda value: isinstance(value, list)),
    "string": ("a text", lambda value: isinstance(value, str)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("a whole number", lambda value: _is_number(value) and value == value // 1),
    "number": ("a number", _is_number),
    "null": ("null", lambda value: value is None),
}
_NOTES: Final = {"description"}
_UNSERVED: Final = "is not served here: leave it out"
_SHOWN: Final = 40


@cache
def document() -> dict[str, Any]:
    """Returns the published document."""
    text = resources.files("queen.web").joinpath("openapi.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
    return loaded


@cache
def document_json() -> bytes:
    """Returns the published document as JSON text."""
    return orjson.dumps(document())


@cache
def checker(name: str) -> Check:
    """Returns the check of a schema of the document."""
    return _compiled(document()["components"]["schemas"][name])


def prepare() -> None:
    """Makes all checks, so that no request has to wait for them."""
    document_json()
    for name in document()["components"]["schemas"]:
        checker(name)


def faults_of(name: str, value: Any) -> list[FieldFault]:
    """Returns every fault of a value by a schema of the document."""
    faults: list[FieldFault] = []
    checker(name)(value, "", faults)
    return faults


def _compiled(schema: Mapping[str, Any]) -> Check:
    """Returns the check of a schema: its type first, the rest only where that is right."""
    if "$ref" in schema:
        return checker(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return _any_of([_compiled(one) for one in schema["anyOf"]])
    if "const" in schema or "enum" in schema:
        return _one_of(schema.get("enum", [schema.get("const")]))
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    rules = [_RULES[word](schema[word], schema) for word in schema if word not in {"type", *_NOTES}]
    return _typed(types, rules) if types else _all(rules)


def _typed(types: list[str], rules: list[Check]) -> Check:
    tests = [_TYPES[one][1] for one in types]
    expected = " or ".join(_TYPES[one][0] for one in types if one != "null" or len(types) == 1)

    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        if not any(test(value) for test in tests):
            faults.append(FieldFault(path or "body", f"{expected}, not {_shown(value)}"))
        elif value is not None:
            for rule in rules:
                rule(value, path, faults)

    return check


def _all(rules: list[Check]) -> Check:
    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        for rule in rules:
            rule(value, path, faults)

    return check


def _any_of(branches: list[Check]) -> Check:
    """Returns the check that one of several holds; the faults are those of the one that came nearest."""

    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        nearest: list[FieldFault] | None = None
        for branch in branches:
            found: list[FieldFault] = []
            branch(value, path, found)
            if not found:
                return
            if nearest is None or _depth(found) > _depth(nearest):
                nearest = found
        faults.extend(nearest or ())

    return check


def _depth(faults: list[FieldFault]) -> tuple[int, int]:
    """Orders branches: one whose faults lie inside the value came nearer than one of another type."""
    return min(len(fault.field) for fault in faults), -len(faults)


def _one_of(allowed: list[Any]) -> Check:
    kinds = [(type(one), one) for one in allowed]
    words = " or ".join(orjson.dumps(one).decode() for one in allowed if one is not None or len(allowed) == 1)

    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        # True equals 1 in Python, and is another thing in JSON.
        if not any(type(value) is kind and value == one for kind, one in kinds):
            faults.append(FieldFault(path, f"{words}, not {_shown(value)}"))

    return check


def _bound(holds: Callable[[float], bool], expected: str) -> Check:
    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        if not holds(value):
            faults.append(FieldFault(path, f"{expected}, not {_shown(value)}"))

    return check


def _size(holds: Callable[[int], bool], expected: str) -> Check:
    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        if not holds(len(value)):
            faults.append(FieldFault(path, f"{expected}, not {len(value):,}"))

    return check


def _pattern(pattern: str, schema: Mapping[str, Any]) -> Check:
    matches = re.compile(pattern).search

    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        if matches(value) is None or value.endswith("\n"):
            faults.append(FieldFault(path, f"a text like {pattern}, not {_shown(value)}"))

    return check


def _items(items: Mapping[str, Any], schema: Mapping[str, Any]) -> Check:
    inner = _compiled(items)

    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        for index, one in enumerate(value):
            inner(one, f"{path}[{index}]", faults)

    return check


def _properties(properties: Mapping[str, Any], schema: Mapping[str, Any]) -> Check:
    known = {name: _compiled(one) for name, one in properties.items()}

    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        for name, one in value.items():
            if (inner := known.get(name)) is not None:
                inner(one, f"{path}.{name}" if path else name, faults)

    return check


def _others(others: bool | Mapping[str, Any], schema: Mapping[str, Any]) -> Check:
    known = schema.get("properties", {})
    inner = None if isinstance(others, bool) else _compiled(others)
    assert others is not True, "true is the default"

    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        for name, one in value.items():
            if name in known:
                continue
            place = f"{path}.{name[:64]}" if path else name[:64]
            if inner is None:
                faults.append(FieldFault(place, _UNSERVED))
            else:
                inner(one, place, faults)

    return check


def _names(names: Mapping[str, Any], schema: Mapping[str, Any]) -> Check:
    inner = _compiled(names)

    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        for name in value:
            inner(name, f"{path}.{name[:64]}", faults)

    return check


def _required(names: list[str], schema: Mapping[str, Any]) -> Check:
    def check(value: Any, path: str, faults: list[FieldFault]) -> None:
        faults.extend(FieldFault(f"{path}.{name}" if path else name, "required") for name in names if name not in value)

    return check


_RULES: Final[dict[str, Callable[[Any, Mapping[str, Any]], Check]]] = {
    "minimum": lambda least, _: _bound(lambda value: value >= least, f"at least {least:,}"),
    "maximum": lambda most, _: _bound(lambda value: value <= most, f"at most {most:,}"),
    "exclusiveMinimum": lambda least, _: _bound(lambda value: value > least, f"above {least:,}"),
    "minLength": lambda least, _: _size(lambda size: size >= least, f"at least {least:,} characters"),
    "maxLength": lambda most, _: _size(lambda size: size <= most, f"at most {most:,} characters"),
    "minItems": lambda least, _: _size(lambda size: size >= least, f"at least {least:,} of them"),
    "maxItems": lambda most, _: _size(lambda size: size <= most, f"at most {most:,} of them"),
    "maxProperties": lambda most, _: _size(lambda size: size <= most, f"at most {most:,} of them"),
    "pattern": _pattern,
    "items": _items,
    "properties": _properties,
    "additionalProperties": _others,
    "propertyNames": _names,
    "required": _required,
}


def _shown(value: Any) -> str:
    """Returns a value as a message may show it: nothing long, no text of a prompt."""
    if isinstance(value, bool | int | float | None):
        return orjson.dumps(value).decode()
    if isinstance(value, str) and len(value) <= _SHOWN:
        return f"'{value}'"
    return next(words for words, test in _TYPES.values() if test(value))

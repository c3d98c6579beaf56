"""Engine options, "name=value" texts, read into a frozen dataclass; what it does not know is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from wire import errors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def read_options(kind: type[Options], given: Mapping[str, str], engine: str) -> Options:
    """Returns the options of an engine; a field's type is that of its default. Raises `Invalid` with every fault."""
    known = {option.name: option for option in fields(kind)}
    faults: list[errors.FieldFault] = []
    values: dict[str, object] = {}
    for name, text in given.items():
        if name not in known:
            faults.append(errors.FieldFault(name, f"not an option of engine {engine}; those are {', '.join(known)}"))
            continue
        number = type(known[name].default)
        try:
            values[name] = number(text)  # type: ignore[misc]  # every option has a default
        except ValueError:
            faults.append(errors.FieldFault(name, f"a number, not '{text}'"))
            continue
        if not 0 <= values[name] < float("inf"):  # type: ignore[operator]  # every option is a number
            faults.append(errors.FieldFault(name, f"0 or more, not {text}"))
    if faults:
        raise errors.invalid(faults, "list of engine options")
    return kind(**values)


def describe_options(kind: type[Options]) -> str:
    """Returns one line per option: its name, what it means, its default."""
    return "; ".join(
        f"{option.name}: {option.metadata['help']} (default {option.default:g})" for option in fields(kind)
    )

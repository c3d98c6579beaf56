"""A program's settings: one table of keys, read once. A flag wins over the environment, that over the file."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from wire import errors
from wire.channel import split_address

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
FLAG_WORDS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: its name (the flag is --name-with-dashes), its variable, how its text is read, default and help.

    `read` returns the value or raises ValueError saying what was expected. A `repeated` key collects a tuple.
    """

    name: str
    variable: str
    read: Callable[[str], Any]
    default: str
    help: str
    metavar: str = "VALUE"
    repeated: str = ""  # separator of several values in the environment; "" when the key has one value
    flag: bool = False

    @property
    def option(self) -> str:
        """Returns the key as it is typed on a command line."""
        return f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Table:
    """What only the configuration file can say, because a flag has no room for it: one table with others inside.

    `read` returns its value and every fault, each with its place in the file; it is given {} when there is no table.
    """

    name: str
    read: Callable[[Any], tuple[Any, list[errors.FieldFault]]]


def read_settings(
    keys: Sequence[Key],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    tables: Sequence[Table] = (),
) -> dict[str, Any]:
    """Returns the value of every key and table; raises `Invalid` naming all bad ones at once.

    A key named `config` names a TOML file with the same names as keys; it comes before the defaults only.
    """
    for key in keys:
        _add(parser, key)
    typed = vars(parser.parse_args(arguments))
    file = _file(typed.get("config") or next((environment.get(k.variable) for k in keys if k.name == "config"), None))
    faults = unknown_names("", file, [*(key.name for key in keys), *(table.name for table in tables)])
    values: dict[str, Any] = {}
    for table in tables:
        values[table.name], wrong = table.read(file.get(table.name, {}))
        faults += wrong
    for key in keys:
        source, texts = _texts(key, typed, environment, file)
        try:
            read = tuple(key.read(text) for text in texts)
            values[key.name] = read if key.repeated else read[0]
        except ValueError as error:
            faults.append(errors.FieldFault(source, str(error)))
    if faults:
        raise errors.invalid(faults, "configuration")
    return values


def unknown_names(place: str, given: Mapping[str, Any], known: Collection[str]) -> list[errors.FieldFault]:
    """Returns a fault for each name that is not known, with the one that may be meant."""
    return [
        errors.FieldFault(f"{place}{name}", f"no such setting; {_meant(name, known)}")
        for name in given
        if name not in known
    ]


def _meant(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"{near[0]} is meant?" if near else f"there are {', '.join(sorted(known))}"


def _add(parser: argparse.ArgumentParser, key: Key) -> None:
    default = f"default {key.default}; " if key.default else ""
    text = f"{key.help} ({default}{key.variable})".replace("%", "%%")
    if key.flag:
        parser.add_argument(key.option, action="store_const", const="1", help=text)
    else:
        parser.add_argument(key.option, action="append" if key.repeated else "store", metavar=key.metavar, help=text)


def _texts(
    key: Key, typed: Mapping[str, Any], environment: Mapping[str, str], file: Mapping[str, Any]
) -> tuple[str, list[str]]:
    """Returns where a key's value comes from, for messages, and its texts."""
    if typed[key.name] is not None:
        given = typed[key.name]
        return key.option, list(given) if key.repeated else [given]
    if environment.get(key.variable):
        text = environment[key.variable]
        return key.variable, [part for part in text.split(key.repeated) if part] if key.repeated else [text]
    if key.name in file:
        given = file[key.name]
        return f"{key.name} in the configuration file", [str(one) for one in given] if key.repeated else [str(given)]
    if key.repeated:
        return key.option, [key.default] if key.default else []
    return key.option, [key.default]


def _file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise errors.invalid(
            [errors.FieldFault("--config", f"a readable TOML file; {error}")], "configuration"
        ) from None


# Readers of texts. Each raises ValueError saying what was expected.


def address(text: str) -> str:
    """Reads "host:port"."""
    try:
        split_address(text)
    except errors.Invalid as error:
        raise ValueError(error.message) from None
    return text


def one_of(*allowed: str) -> Callable[[str], str]:
    """Returns a reader of one of some words."""

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}, not '{text}'")
        return text

    return read


def path(text: str) -> Path:
    """Reads a path, made absolute."""
    return Path(text).expanduser().absolute()


def seconds_or_zero(text: str) -> float:
    """Reads a time such as 500ms, 12h or 7d, in seconds; 0 where there is to be none."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"a time such as 30m, 12h or 7d, or 0, not '{text}'")
    return float(match[1]) * _SECONDS[match[2]]


def switch(text: str) -> bool:
    """Reads a yes or no."""
    if text.lower() not in FLAG_WORDS:
        raise ValueError(f"1 or 0, not '{text}'")
    return FLAG_WORDS[text.lower()]


def seconds(text: str) -> float:
    """Reads a time above 0, such as 500ms, 1s, 10m or 1h; a number alone is seconds. Returns seconds."""
    match = _SPAN.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"a time above 0, such as 500ms, 1s or 10m, not '{text}'")
    return float(match[1]) * _SECONDS[match[2]]


def seconds_or_none(text: str) -> float | None:
    """Reads a time as `seconds` does; None for an empty text."""
    return seconds(text) if text else None

"""The hive's settings and the only place that reads its environment: flag over environment over default."""

from __future__ import annotations

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from wire import errors
from wire.channel import split_address
from wire.logs import LogFormat

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,63}")
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}

# setting: (environment variable, default as text; empty: see the help, help with unit)
KEYS: Final[dict[str, tuple[str, str, str]]] = {
    "queen": ("RBEE_QUEEN", "127.0.0.1:7833", "the queen's gRPC address, host:port"),
    "listen": ("RBEE_HIVE_LISTEN", "127.0.0.1:7835", "where to serve, host:port; port 0: any free one"),
    "advertise": ("RBEE_HIVE_ADVERTISE", "", "host:port under which the queen reaches this hive (default: as served)"),
    "name": ("RBEE_HIVE_NAME", "", "unique name, 1 to 63 letters, digits, '.', '_', '-' (default: the host's name)"),
    "data_dir": ("RBEE_DATA_DIR", "", "where rbee keeps its files (default: the user's data directory)"),
    "report_interval": ("RBEE_REPORT_INTERVAL", "1s", "time between reports until the queen sets it: 500ms, 1s"),
    "orphan_timeout": ("RBEE_ORPHAN_TIMEOUT", "600", "time without a queen after which idle workers stop: 600, 10m"),
    "log_format": ("RBEE_LOG_FORMAT", "text", "text or json"),
    "log_level": ("RBEE_LOG_LEVEL", "info", "debug (with the workers' own lines), info, warning or error"),
}
MODEL_DIR: Final = ("RBEE_MODEL_DIR", "directory with GGUF files; may be given again (default: DATA_DIR/models)")
MANAGED: Final = ("RBEE_HIVE_MANAGED", "a queen started this hive as her child (1 in the environment)")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a hive is told. Times in seconds; `advertise` empty: as served."""

    queen: str
    listen: str
    advertise: str
    name: str
    data_dir: Path
    model_dirs: tuple[Path, ...]
    managed: bool
    report_interval_s: float
    orphan_timeout_s: float
    log_format: LogFormat
    log_level: str


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Returns the settings; raises `Invalid` naming every bad one."""
    chosen = vars(_parser().parse_args(arguments))
    for key, (variable, default, _) in KEYS.items():
        if chosen[key] is None:
            chosen[key] = environment.get(variable) or default
    name = chosen["name"] or _host_name()
    _check(chosen, name)
    data_dir = Path(chosen["data_dir"] or platformdirs.user_data_dir("rbee")).expanduser().resolve()
    named = chosen["model_dir"] or [part for part in environment.get(MODEL_DIR[0], "").split(os.pathsep) if part]
    model_dirs = [Path(folder).expanduser().resolve() for folder in named] or [data_dir / "models"]
    bundled = bundled_model_dir()
    return Settings(
        queen=chosen["queen"],
        listen=chosen["listen"],
        advertise=chosen["advertise"],
        name=name,
        data_dir=data_dir,
        model_dirs=(*model_dirs, *([bundled] if bundled is not None else [])),
        managed=chosen["managed"] or environment.get(MANAGED[0]) == "1",
        report_interval_s=_seconds(chosen["report_interval"]) or 0.0,
        orphan_timeout_s=_seconds(chosen["orphan_timeout"]) or 0.0,
        log_format="json" if chosen["log_format"] == "json" else "text",
        log_level=chosen["log_level"],
    )


def bundled_model_dir() -> Path | None:
    """Returns where the model that comes with rbee lies: in the package when installed, in a checkout's models/."""
    package = Path(__file__).resolve().parent
    installed = package / "models" / "bundled"
    checkout = package.parent.parent
    if installed.is_dir():
        return installed
    return checkout / "models" if (checkout / "pyproject.toml").is_file() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rbee-hive", description="Starts and watches the workers of one machine for a queen.", allow_abbrev=False
    )
    for key, (variable, default, text) in KEYS.items():
        shown = f"{text} (default {default}; {variable})" if default else f"{text} ({variable})"
        parser.add_argument(f"--{key.replace('_', '-')}", metavar="VALUE", help=shown)
    parser.add_argument("--model-dir", action="append", metavar="DIR", help=f"{MODEL_DIR[1]} ({MODEL_DIR[0]})")
    parser.add_argument("--managed", action="store_true", help=f"{MANAGED[1]} ({MANAGED[0]})")
    return parser


def _check(chosen: Mapping[str, str], name: str) -> None:
    faults: list[errors.FieldFault] = []
    for key in ("queen", "listen", "advertise"):
        try:
            if chosen[key] or key != "advertise":
                split_address(chosen[key])
        except errors.Invalid as error:
            faults.append(errors.FieldFault(f"--{key}", error.message))
    if not NAME.fullmatch(name):
        faults.append(errors.FieldFault("--name", f"1 to 63 letters, digits, '.', '_' and '-', not '{name}'"))
    for key in ("report_interval", "orphan_timeout"):
        if not _seconds(chosen[key]):
            flag = f"--{key.replace('_', '-')}"
            faults.append(errors.FieldFault(flag, f"a time above 0, such as 500ms, 1s or 10m, not '{chosen[key]}'"))
    for key, allowed in (("log_format", ("text", "json")), ("log_level", ("debug", "info", "warning", "error"))):
        if chosen[key] not in allowed:
            faults.append(errors.FieldFault(f"--{key.replace('_', '-')}", f"one of {', '.join(allowed)}"))
    if faults:
        raise errors.invalid(faults, "command line")


def _seconds(text: str) -> float | None:
    """Returns the seconds of "500ms", "1s", "10m" or "600"; None for anything else."""
    match = _SPAN.fullmatch(text.strip())
    return None if match is None else float(match[1]) * _SECONDS[match[2]]


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63] or "hive"

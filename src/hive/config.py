"""The hive's settings."""

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

from wire.logs import LogFormat
from wire.settings import Key, address, one_of, path, seconds, switch
from wire.settings import read_settings as read_keys

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,63}")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"1 to 63 letters, digits, '.', '_' and '-', not '{text}'")
    return text


def _address_or_none(text: str) -> str:
    return address(text) if text else ""


_HOST: Final = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63] or "hive"

KEYS: Final = (
    Key("queen", "RBEE_QUEEN", address, "127.0.0.1:7833", "the queen's gRPC address", "HOST:PORT"),
    Key("listen", "RBEE_HIVE_LISTEN", address, "127.0.0.1:7835", "where to serve; port 0: any free one", "HOST:PORT"),
    Key("advertise", "RBEE_HIVE_ADVERTISE", _address_or_none, "", "where the queen reaches this hive; empty: as served",
        "HOST:PORT"),
    Key("name", "RBEE_HIVE_NAME", _name, _HOST, "unique name, 1 to 63 letters, digits, '.', '_', '-'", "NAME"),
    Key("data_dir", "RBEE_DATA_DIR", path, platformdirs.user_data_dir("rbee"), "where rbee keeps its files", "DIR"),
    Key("model_dir", "RBEE_MODEL_DIR", path, "", "directory with GGUF files, repeatable; empty: DATA_DIR/models", "DIR",
        repeated=os.pathsep),
    Key("managed", "RBEE_HIVE_MANAGED", switch, "0", "a queen started this hive as her child", flag=True),
    Key("report_interval", "RBEE_REPORT_INTERVAL", seconds, "1s", "time between reports until the queen sets it",
        "TIME"),
    Key("orphan_timeout", "RBEE_ORPHAN_TIMEOUT", seconds, "10m", "time without a queen after which idle workers stop",
        "TIME"),
    Key("log_format", "RBEE_LOG_FORMAT", one_of("text", "json"), "text", "text or json", "FORMAT"),
    Key("log_level", "RBEE_LOG_LEVEL", one_of("debug", "info", "warning", "error"), "info",
        "least grave; debug has the workers' own lines", "LEVEL"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What a hive is told; see `KEYS`. Times in seconds; `model_dirs` ends with the bundled model's."""

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
    parser = argparse.ArgumentParser(
        prog="rbee-hive", description="Starts and watches the workers of one machine for a queen.", allow_abbrev=False
    )
    read = read_keys(KEYS, parser, arguments, environment)
    named = read.pop("model_dir") or (read["data_dir"] / "models",)
    bundled = bundled_model_dir()
    return Settings(
        model_dirs=(*named, *([bundled] if bundled is not None else [])),
        report_interval_s=read.pop("report_interval"),
        orphan_timeout_s=read.pop("orphan_timeout"),
        **read,
    )


def bundled_model_dir() -> Path | None:
    """Returns where the model that comes with rbee lies: in the package when installed, in a checkout's models/."""
    package = Path(__file__).resolve().parent
    installed = package / "models" / "bundled"
    checkout = package.parent.parent
    if installed.is_dir():
        return installed
    return checkout / "models" if (checkout / "pyproject.toml").is_file() else None

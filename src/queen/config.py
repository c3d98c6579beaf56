"""The queen's settings."""

from __future__ import annotations

import argparse
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from wire.logs import LogFormat
from wire.settings import Key, address, one_of, path, read_settings, switch


def _count(text: str) -> int | None:
    """Reads a number of things, empty for none told."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"a whole number from 0, not '{text}'")
    return int(text)


KEYS: Final = (
    Key("listen", "RBEE_QUEEN_LISTEN", address, "127.0.0.1:7833", "where to serve gRPC", "HOST:PORT"),
    Key("database", "RBEE_DATABASE", str, "", "URL of the database; empty: SQLite in the data directory", "URL"),
    Key("data_dir", "RBEE_DATA_DIR", path, platformdirs.user_data_dir("rbee"), "where rbee keeps its files", "DIR"),
    Key("config", "RBEE_QUEEN_CONFIG", str, "", "TOML file with these settings, named with underscores", "FILE"),
    Key("hive_listen", "RBEE_QUEEN_HIVE_LISTEN", address, "127.0.0.1:7835", "where the local hive serves", "HOST:PORT"),
    Key("hive_name", "RBEE_HIVE_NAME", str, re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63] or "hive",
        "name of the local hive", "NAME"),
    Key("scheduler", "RBEE_SCHEDULER", one_of("simple"), "simple", "who decides which worker serves a job", "NAME"),
    Key("mode", "RBEE_MODE", one_of("home", "lab", "platform"), "home",
        "who shares the machines: one household, a lab, or tenants of a platform", "NAME"),
    Key("queue_capacity", "RBEE_QUEUE_CAPACITY", _count, "",
        "jobs of one class that may wait, 0: any number; empty: 100 in platform mode, else any number", "N"),
    Key("no_migrate", "RBEE_NO_MIGRATE", switch, "0", "refuse to start on an older database", flag=True),
    Key("migrate_only", "RBEE_MIGRATE_ONLY", switch, "0", "bring the database up to date and end", flag=True),
    Key("log_format", "RBEE_LOG_FORMAT", one_of("text", "json"), "text", "text or json", "FORMAT"),
    Key("log_level", "RBEE_LOG_LEVEL", one_of("debug", "info", "warning", "error"), "info", "least grave", "LEVEL"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What a queen is told; see `KEYS` for defaults and `queen-rbee --help` for meanings."""

    listen: str
    database: str
    data_dir: Path
    config: str
    hive_listen: str
    hive_name: str
    scheduler: str
    mode: str
    queue_capacity: int | None
    no_migrate: bool
    migrate_only: bool
    log_format: LogFormat
    log_level: str

    @property
    def database_url(self) -> str:
        """Returns the database's URL, SQLite in the data directory unless told otherwise."""
        return self.database or f"sqlite:///{self.data_dir / 'queen.db'}"


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Returns the settings; raises `Invalid` naming every bad one."""
    parser = argparse.ArgumentParser(
        prog="queen-rbee",
        description="The queen: takes jobs, decides which worker serves them, keeps their state. A daemon.",
        epilog="Traces are exported by the standard OTEL_* variables.",
        allow_abbrev=False,
    )
    return Settings(**read_settings(KEYS, parser, arguments, environment))

"""The queen's settings."""

from __future__ import annotations

import argparse
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import platformdirs

from queen.core.limits import LimitRules, Wanted, model_key
from queen.core.model import StageLimits
from wire.errors import FieldFault
from wire.logs import LogFormat
from wire.settings import (
    Key,
    Table,
    address,
    one_of,
    path,
    read_settings,
    seconds,
    seconds_or_none,
    seconds_or_zero,
    switch,
    unknown_names,
)


def _count(text: str) -> int | None:
    """Reads a number of things, empty for none told."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"a whole number from 0, not '{text}'")
    return int(text)


def _most(text: str) -> int:
    """Reads a number of things."""
    return _count(text) or 0


KEYS: Final = (
    Key("listen", "RBEE_QUEEN_LISTEN", address, "127.0.0.1:7833", "where to serve gRPC", "HOST:PORT"),
    Key("database", "RBEE_DATABASE", str, "", "URL of the database; empty: SQLite in the data directory", "URL"),
    Key("data_dir", "RBEE_DATA_DIR", path, platformdirs.user_data_dir("rbee"), "where rbee keeps its files", "DIR"),
    Key("config", "RBEE_QUEEN_CONFIG", str, "", "TOML file with these settings, named with underscores", "FILE"),
    Key("hive_listen", "RBEE_QUEEN_HIVE_LISTEN", address, "127.0.0.1:7835", "where the local hive serves", "HOST:PORT"),
    Key("hive_name", "RBEE_HIVE_NAME", str, re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63] or "hive",
        "name of the local hive", "NAME"),
    Key("scheduler", "RBEE_SCHEDULER", one_of("simple", "policy"), "policy", "who decides which worker serves a job",
        "NAME"),
    Key("policy", "RBEE_POLICY", str, "", "Lua file of the policy that decides; empty: the platform policy", "FILE"),
    Key("policy_dir", "RBEE_POLICY_DIR", str, "",
        "directory whose policies are taken in as they change; empty: policies in the data directory", "DIR"),
    Key("policy_record", "RBEE_POLICY_RECORD", str, "", "file that gets all a policy is told and answers", "FILE"),
    Key("keep_jobs", "RBEE_KEEP_JOBS", seconds_or_zero, "7d", "how long finished jobs are kept; 0: for ever", "TIME"),
    Key("keep_requests", "RBEE_KEEP_REQUESTS", switch, "0", "keep prompts as long as their jobs", flag=True),
    Key("traces", "RBEE_TRACES", _most, "1000", "recent traces kept in memory for rbee trace; 0: none", "N"),
    Key("mode", "RBEE_MODE", one_of("home", "lab", "platform"), "home",
        "who shares the machines: one household, a lab, or tenants of a platform", "NAME"),
    Key("queue_capacity", "RBEE_QUEUE_CAPACITY", _count, "",
        "jobs of one class that may wait, 0: any number; empty: 100 in platform mode, else any number", "N"),
    Key("job_timeout", "RBEE_JOB_TIMEOUT", seconds, "300s", "longest time of a whole job", "TIME"),
    Key("queue_timeout", "RBEE_QUEUE_TIMEOUT", seconds_or_none, "", "longest stay in the queue; empty: the whole job's",
        "TIME"),
    Key("start_timeout", "RBEE_START_TIMEOUT", seconds, "300s", "longest wait for a worker that is started", "TIME"),
    Key("first_token_timeout", "RBEE_FIRST_TOKEN_TIMEOUT", seconds_or_none, "",
        "longest time from a worker to its first token; empty: the whole job's", "TIME"),
    Key("stall_timeout", "RBEE_STALL_TIMEOUT", seconds, "60s", "longest pause between two tokens", "TIME"),
    Key("max_job_timeout", "RBEE_MAX_JOB_TIMEOUT", seconds, "1800s", "the longest of these a request may ask for",
        "TIME"),
    Key("no_migrate", "RBEE_NO_MIGRATE", switch, "0", "refuse to start on an older database", flag=True),
    Key("migrate_only", "RBEE_MIGRATE_ONLY", switch, "0", "bring the database up to date and end", flag=True),
    Key("log_format", "RBEE_LOG_FORMAT", one_of("text", "json"), "text", "text or json", "FORMAT"),
    Key("log_level", "RBEE_LOG_LEVEL", one_of("debug", "info", "warning", "error"), "info", "least grave", "LEVEL"),
)  # fmt: skip


STAGES: Final = tuple(stage.name.removesuffix("_s") for stage in fields(Wanted))
"""What a model's table `timeouts` may set."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a queen is told; see `KEYS` for defaults and `queen-rbee --help` for meanings. Times in seconds."""

    listen: str
    database: str
    data_dir: Path
    config: str
    hive_listen: str
    hive_name: str
    scheduler: str
    keep_jobs: float
    keep_requests: bool
    traces: int
    mode: str
    queue_capacity: int | None
    limits: LimitRules
    policy: str
    policy_dir: str
    policy_record: str
    no_migrate: bool
    migrate_only: bool
    log_format: LogFormat
    log_level: str

    @property
    def database_url(self) -> str:
        """Returns the database's URL, SQLite in the data directory unless told otherwise."""
        return self.database or f"sqlite:///{self.data_dir / 'queen.db'}"

    @property
    def policy_folder(self) -> Path:
        """Returns the policy directory, in the data directory unless told otherwise."""
        return Path(self.policy_dir) if self.policy_dir else self.data_dir / "policies"


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Returns the settings; raises `Invalid` naming every bad one."""
    parser = argparse.ArgumentParser(
        prog="queen-rbee",
        description="The queen: takes jobs, decides which worker serves them, keeps their state. A daemon.",
        epilog="Traces are exported by the standard OTEL_* variables.",
        allow_abbrev=False,
    )
    said = read_settings(KEYS, parser, arguments, environment, [Table("models", _model_limits)])
    default = StageLimits(
        total_s=said.pop("job_timeout"),
        queue_s=said.pop("queue_timeout"),
        start_s=said.pop("start_timeout"),
        first_token_s=said.pop("first_token_timeout"),
        stall_s=said.pop("stall_timeout"),
    )
    return Settings(limits=LimitRules(default, said.pop("models"), said.pop("max_job_timeout")), **said)


def _model_limits(table: Any) -> tuple[dict[str, Wanted], list[FieldFault]]:
    """Reads [models."NAME-OR-REF".timeouts]."""
    faults: list[FieldFault] = []

    def inner(place: str, found: Any, known: Sequence[str]) -> Mapping[str, Any]:
        """Returns a table's known members; notes the others, and what is no table."""
        if not isinstance(found, Mapping):
            faults.append(FieldFault(place, f"a table, not '{found}'"))
            return {}
        faults.extend(unknown_names(f"{place}.", found, known) if known else ())
        return {name: value for name, value in found.items() if not known or name in known}

    limits: dict[str, Wanted] = {}
    for name, model in inner("models", table, ()).items():
        place = f'models."{name}"'
        timeouts = inner(place, model, ("timeouts",)).get("timeouts", {})
        read: dict[str, float] = {}
        for stage, text in inner(f"{place}.timeouts", timeouts, STAGES).items():
            try:
                read[f"{stage}_s"] = seconds(str(text))
            except ValueError as error:
                faults.append(FieldFault(f"{place}.timeouts.{stage}", str(error)))
        limits[model_key(name)] = Wanted(**read)
    return limits, faults

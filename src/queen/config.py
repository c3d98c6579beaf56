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
from wire import channel
from wire.errors import FieldFault, Invalid
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


def _mebibytes(text: str) -> int:
    """Reads a size in MiB, 1 to 1024. Returns bytes."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1024):
        raise ValueError(f"1 to 1024 MiB, not '{text}'")
    return int(text) * 2**20


def _address_or_off(text: str) -> str:
    """Reads an address, "" for off."""
    return "" if text == "off" else address(text)


def _most(text: str) -> int:
    """Reads a number of things."""
    return _count(text) or 0


KEYS: Final = (
    Key("listen", "RBEE_QUEEN_LISTEN", address, "127.0.0.1:7833", "where to serve gRPC", "HOST:PORT"),
    Key("http", "RBEE_QUEEN_HTTP", _address_or_off, "127.0.0.1:7834", "where to serve HTTP; off: nowhere", "HOST:PORT"),
    Key("http_origin", "RBEE_HTTP_ORIGIN", str, "",
        "web page that may ask over HTTP, such as https://chat.example, or *; may be repeated", "ORIGIN", repeated=","),
    Key("http_body_limit_mb", "RBEE_HTTP_BODY_LIMIT_MB", _mebibytes, "16", "largest body of an HTTP request, MiB", "N"),
    Key("http_patience", "RBEE_HTTP_PATIENCE", seconds, "30s",
        "how long a caller may leave a streamed answer unread before its job is cancelled", "TIME"),
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
    Key("min_residency", "RBEE_MIN_RESIDENCY", seconds_or_zero, "0",
        "how long a worker is not evicted after its start", "TIME"),
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


PolicyValue = str | int | float | bool
"""What a setting of a policy can be: it is `context.config.NAME` there."""

STAGES: Final = tuple(stage.name.removesuffix("_s") for stage in fields(Wanted))
"""What a model's table `timeouts` may set."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a queen is told; see `KEYS` for defaults and `queen-rbee --help` for meanings. Times in seconds."""

    listen: str
    http: str
    http_origin: tuple[str, ...]
    http_body_limit: int
    http_patience: float
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
    min_residency: float
    limits: LimitRules
    policy: str
    policy_dir: str
    policy_record: str
    policy_config: Mapping[str, PolicyValue]
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
    tables = [Table("models", _model_limits), Table("policy_config", _policy_config)]
    said = read_settings(KEYS, parser, arguments, environment, tables)
    default = StageLimits(
        total_s=said.pop("job_timeout"),
        queue_s=said.pop("queue_timeout"),
        start_s=said.pop("start_timeout"),
        first_token_s=said.pop("first_token_timeout"),
        stall_s=said.pop("stall_timeout"),
    )
    said["http_body_limit"] = said.pop("http_body_limit_mb")
    return Settings(limits=LimitRules(default, said.pop("models"), said.pop("max_job_timeout")), **said)


def check(settings: Settings) -> None:
    """Raises `Invalid` for what a queen does not start with: an address others reach, two that exclude each other."""
    for served, safe in ((settings.listen, "--listen 127.0.0.1:7833"), (settings.http, "--http 127.0.0.1:7834")):
        host = channel.split_address(served)[0] if served else ""
        if host and not channel.is_loopback(host):
            raise Invalid(
                f"the queen does not serve on {host}: any address but this machine's own needs TLS and keys, which "
                f"this version does not have yet. Use {safe} and reach it through an SSH tunnel",
                "EXPOSED_WITHOUT_TLS",
            )
    if settings.mode == "platform" and settings.policy:
        raise Invalid(
            "--policy and --mode platform exclude each other: there the built-in policy alone decides; leave one out",
            "PLATFORM_MODE",
        )
    if settings.scheduler == "simple" and settings.policy:
        raise Invalid(
            "--policy and --scheduler simple exclude each other: there no policy decides; leave one out",
            "NO_POLICIES_RUN",
        )


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


def _policy_config(table: Any) -> tuple[dict[str, PolicyValue], list[FieldFault]]:
    """Reads [policy_config]."""
    if not isinstance(table, Mapping):
        return {}, [FieldFault("policy_config", f"a table, not '{table}'")]
    bad = {name: value for name, value in table.items() if not isinstance(value, PolicyValue)}
    expected = "a text, a number, true or false, not '{}'"
    faults = [FieldFault(f"policy_config.{name}", expected.format(value)) for name, value in bad.items()]
    return {name: value for name, value in table.items() if name not in bad}, faults

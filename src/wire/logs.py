"""Structured logs, one line per fact: text for people, JSON for machines, always with trace and job id."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

from wire import telemetry

LogFormat = Literal["text", "json"]

_FIELDS: Final = ("job_id", "worker_id", "hive_id", "trace_id")


def setup(program: str, log_format: LogFormat, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Sends this process's logs to `stream` (default: standard error) in the chosen format.

    Pass facts about a line as `extra={"job_id": ...}`; prompts and outputs never go into a log.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter(program) if log_format == "json" else _TextFormatter(program))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("aiosqlite", "alembic", "grpc", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _facts(record: logging.LogRecord) -> dict[str, str]:
    facts = {name: str(value) for name in _FIELDS if (value := getattr(record, name, None))}
    if "trace_id" not in facts and (current := telemetry.trace_id()):
        facts["trace_id"] = current
    return facts


class _TextFormatter(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items())
        line = f"{when} {record.levelname:<7} {self._program}: {record.getMessage()}{facts}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class _JsonFormatter(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "program": self._program,
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)

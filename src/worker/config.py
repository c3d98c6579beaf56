"""The worker's settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wire import errors
from wire.logs import LogFormat
from wire.settings import Key, address, one_of, path, read_settings
from worker.engines.llamacpp import LlamaOptions
from worker.engines.options import describe_options
from worker.engines.synthetic import Pace

FIRST_PORT: Final = 7900
LAST_PORT: Final = 7999


def _between(least: int, most: int) -> Callable[[str], int]:
    """Returns a reader of a whole number in a range."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"{least:,} to {most:,}, not '{text}'")
        return int(text)

    return read


def _optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Returns a reader that reads an empty text as None."""
    return lambda text: read(text) if text else None


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"NAME=VALUE, not '{text}'")
    return name, value


_ENGINE_OPTIONS: Final = (
    f"a setting of the engine, repeatable. llamacpp has {describe_options(LlamaOptions)}. "
    f"synthetic has {describe_options(Pace)}"
)

KEYS: Final = (
    Key("model", "RBEE_WORKER_MODEL", _optional(path), "", "path of the GGUF file; synthetic needs none", "PATH"),
    Key("model_ref", "RBEE_WORKER_MODEL_REF", str, "", "name of the model to report; empty: file:PATH", "REF"),
    Key("worker_id", "RBEE_WORKER_ID", str, "", "id its hive knows it by; calls for another are refused", "ID"),
    Key("engine", "RBEE_WORKER_ENGINE", one_of("llamacpp", "synthetic"), "llamacpp", "llamacpp or synthetic", "NAME"),
    Key("port", "RBEE_WORKER_PORT", _optional(_between(0, 65_535)), "",
        f"TCP port, 0: any free one; empty: first free of {FIRST_PORT} to {LAST_PORT}", "N"),
    Key("listen_host", "RBEE_WORKER_LISTEN_HOST", str, "127.0.0.1", "address to listen on", "HOST"),
    Key("slots", "RBEE_WORKER_SLOTS", _between(1, 256), "4", "generations run at once, 1 to 256", "N"),
    Key("context_length", "RBEE_WORKER_CONTEXT_LENGTH", _between(0, 2**24), "0",
        "tokens each slot holds, 0: what the model was trained on, at most 8192", "N"),
    Key("device", "RBEE_WORKER_DEVICE", str, "", "gpu0, gpu1, ... or cpu, repeatable; empty: cpu", "ID", repeated=","),
    Key("engine_option", "RBEE_WORKER_ENGINE_OPTION", _option, "", _ENGINE_OPTIONS, "NAME=VALUE", repeated=","),
    Key("hive", "RBEE_WORKER_HIVE", _optional(address), "", "the hive to announce to; empty: none", "HOST:PORT"),
    Key("token", "RBEE_SPAWN_TOKEN", str, "", "one-time token the hive gave", "T"),
    Key("log_format", "RBEE_LOG_FORMAT", one_of("text", "json"), "text", "text or json", "FORMAT"),
    Key("log_level", "RBEE_LOG_LEVEL", one_of("debug", "info", "warning", "error"), "info", "least grave", "LEVEL"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is told at its start; see `KEYS`. `port` is None for the first free one of 7900 to 7999."""

    model: Path | None
    model_ref: str
    worker_id: str
    engine: str
    port: int | None
    listen_host: str
    slots: int
    context_length: int
    devices: tuple[str, ...]
    engine_options: Mapping[str, str]
    hive: str
    token: str
    log_format: LogFormat
    log_level: str


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Returns the settings; raises `Invalid` naming every bad one."""
    parser = argparse.ArgumentParser(
        prog="llm-worker-rbee",
        description="Serves one loaded model as rbee.v1.EngineService. Normally started by rbee-hive.",
        epilog="Traces are exported by the standard OTEL_* variables. Exit status: 0 ended in order, 1 could not "
        "start, 2 bad settings, 3 the hive does not know the token.",
        allow_abbrev=False,
    )
    told = read_settings(KEYS, parser, arguments, environment)
    if told["model"] is None and told["engine"] != "synthetic":
        fault = errors.FieldFault("--model", "the path of a GGUF file (only engine synthetic needs none)")
        raise errors.invalid([fault], "configuration")
    told["model_ref"] = told["model_ref"] or (f"file:{told['model']}" if told["model"] else "synthetic")
    told["hive"] = told["hive"] or ""
    return Settings(devices=told.pop("device"), engine_options=dict(told.pop("engine_option")), **told)

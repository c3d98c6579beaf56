"""The worker's settings: one frozen object, read once from flags and RBEE_* variables. A flag wins over a variable."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from wire import errors
from wire.channel import split_address
from wire.logs import LogFormat
from worker.engines.llamacpp import LlamaOptions
from worker.engines.options import describe_options
from worker.engines.synthetic import Pace

FIRST_PORT: Final = 7900
LAST_PORT: Final = 7999


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is told at its start. `port` is None for the first free one of 7900 to 7999."""

    model: Path | None
    model_ref: str
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


def read(argv: Sequence[str] | None = None) -> Settings:
    """Returns the settings from the command line and the environment; ends the process with status 2 on bad ones."""
    parser = _parser()
    told = parser.parse_args(argv)
    if told.model is None and told.engine != "synthetic":
        parser.error("--model is required: the path of a GGUF file (only engine synthetic has none)")
    try:
        options = dict(map(_option, _several(told.engine_option, "RBEE_WORKER_ENGINE_OPTION")))
    except argparse.ArgumentTypeError as error:
        parser.error(f"--engine-option: {error}")
    return Settings(
        model=told.model,
        model_ref=told.model_ref or (f"file:{told.model.absolute()}" if told.model else "synthetic"),
        engine=told.engine,
        port=told.port,
        listen_host=told.listen_host,
        slots=told.slots,
        context_length=told.context_length,
        devices=tuple(_several(told.device, "RBEE_WORKER_DEVICE")),
        engine_options=options,
        hive=told.hive,
        token=told.token,
        log_format=cast("LogFormat", told.log_format),
        log_level=told.log_level,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llm-worker-rbee",
        description="Serves one loaded model as rbee.v1.EngineService. Normally started by rbee-hive.",
        epilog="Every setting NAME can also be given as RBEE_WORKER_NAME (the token as RBEE_SPAWN_TOKEN); a flag wins. "
        "Traces are exported by the standard OTEL_* variables. Exit status: 0 ended in order, 1 could not start, "
        "2 bad settings, 3 the hive does not know the token.",
    )

    def add(flag: str, text: str, **more: object) -> None:
        variable = "RBEE_SPAWN_TOKEN" if flag == "--token" else f"RBEE_WORKER_{flag[2:].replace('-', '_').upper()}"
        more["default"] = os.environ.get(variable, more.get("default"))
        parser.add_argument(flag, help=f"{text} [{variable}]", **more)  # type: ignore[arg-type]

    add("--model", "path of the GGUF file (no default; engine synthetic needs none)", type=Path, metavar="PATH")
    add("--model-ref", "name of the model to report (default: file:PATH)", default="", metavar="REF")
    add("--engine", "llamacpp or synthetic (default llamacpp)", default="llamacpp", choices=("llamacpp", "synthetic"))
    add(
        "--port",
        f"TCP port, 0: any free one (default: first free of {FIRST_PORT}-{LAST_PORT})",
        type=_port,
        metavar="N",
    )
    add("--listen-host", "address to listen on (default 127.0.0.1)", default="127.0.0.1", metavar="HOST")
    add("--slots", "generations run at once, 1 to 256 (default 4)", type=_slots, default="4", metavar="N")
    add(
        "--context-length",
        "tokens each slot holds, 0: what the model was trained on, at most 8192 (default 0)",
        type=_context_length,
        default="0",
        metavar="N",
    )
    _add_devices_and_options(parser)
    add("--hive", "host:port of the hive to announce to (default: none)", type=_address, default="", metavar="ADDR")
    add("--token", "one-time token the hive gave (default: none)", default="", metavar="T")
    add("--log-format", "text or json, on standard error (default text)", default="text", choices=("text", "json"))
    add(
        "--log-level",
        "least level that is logged (default INFO)",
        default="INFO",
        type=str.upper,
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
    )
    return parser


def _add_devices_and_options(parser: argparse.ArgumentParser) -> None:
    """Adds the settings that can be given several times; their variables take a comma-separated list."""
    parser.add_argument(
        "--device",
        action="append",
        metavar="ID",
        help="gpu0, gpu1, ... or cpu; may be repeated (default cpu) [RBEE_WORKER_DEVICE, comma-separated]",
    )
    parser.add_argument(
        "--engine-option",
        action="append",
        metavar="NAME=VALUE",
        help="a setting of the engine; may be repeated (default: none). "
        f"llamacpp has {describe_options(LlamaOptions)}. "
        f"synthetic has {describe_options(Pace)}. "
        "[RBEE_WORKER_ENGINE_OPTION, comma-separated]",
    )


def _several(told: list[str] | None, variable: str) -> list[str]:
    texts = told if told is not None else [os.environ.get(variable, "")]
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _port(text: str) -> int:
    return _between(text, 0, 65_535)


def _slots(text: str) -> int:
    return _between(text, 1, 256)


def _context_length(text: str) -> int:
    return _between(text, 0, 2**24)


def _address(text: str) -> str:
    try:
        if text:
            split_address(text)
    except errors.Invalid as error:
        raise argparse.ArgumentTypeError(error.message) from error
    return text


def _between(text: str, least: int, most: int) -> int:
    number = int(text) if text.isdecimal() else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least:,} to {most:,}")
    return number


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value

"""The options of a job, declared once for every command that asks for one."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from client.job import JobOptions

Command = TypeVar("Command", bound=Callable[..., None])

_SAMPLING = "How tokens are drawn"
_OUTPUT = "What the output must obey"
_QUEUE = "How it is scheduled"


class PriorityChoice(StrEnum):
    """How urgent a job is."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


def job_options(
    *,
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to say to the model; - or nothing reads standard input.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="RBEE_MODEL",
            help="Name, reference (file:..., hf:...) or GGUF file of the model. Required; see: rbee model list.",
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw/--chat", help="--raw continues the prompt as it stands; --chat uses the model's chat template."
        ),
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="Standing instructions, put before the prompt. Only --chat.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            "-n",
            help="Most tokens to generate, 1 to 1,048,576. Default: up to the context length.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", "-t", help="0 (always the likeliest) to 2. Default: 0.8.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Keep the likeliest tokens whose probabilities add up to this, above 0 up to 1. Default: 0.95.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Keep this many likeliest tokens, 0 (all) to 1,000,000. Default: 40.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Keep tokens at least this fraction as likely as the likeliest, 0 to 1. Default: 0.05.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            help="Divide the score of tokens already present by this, above 0 up to 2. Default: 1.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    presence_penalty: Annotated[
        float | None,
        typer.Option(
            help="Subtract this from the score of tokens already present, -2 to 2. Default: 0.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    frequency_penalty: Annotated[
        float | None,
        typer.Option(
            help="Subtract this for every time a token is present, -2 to 2. Default: 0.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the draw, 0 to 4,294,967,295. Default: drawn by the worker and reported.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            help="Report the log probabilities of this many likeliest tokens, 0 to 20; shown by --json. Default: 0.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="End when this text comes. May be given 16 times; 1 to 256 bytes each.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    json_schema: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|TEXT", help="The output is JSON that satisfies this JSON Schema.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    grammar: Annotated[
        str | None,
        typer.Option(metavar="FILE|TEXT", help="The output obeys this GBNF grammar.", rich_help_panel=_OUTPUT),
    ] = None,
    priority: Annotated[
        PriorityChoice | None,
        typer.Option(help="Interactive jobs go before batch jobs. Default: interactive.", rich_help_panel=_QUEUE),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(help="Groups requests of one conversation; at most 256 bytes.", rich_help_panel=_QUEUE),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Who asks. Default: the default tenant.", rich_help_panel=_QUEUE)
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A mark for policies and lists. At most 64.", rich_help_panel=_QUEUE),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest time from submission to the end, up to 1800 s unless the queen allows more. Default: 300.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    queue_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest stay in the queue. Default: the whole --timeout.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    start_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest wait for a worker that is started for the job. Default: 300.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    first_token_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest time from a worker to its first token. Default: the whole --timeout.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    stall_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest pause between two tokens before another worker goes on. Default: 60.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    no_failover: Annotated[
        bool,
        typer.Option(
            "--no-failover",
            help="Fail when the worker is lost, instead of going on elsewhere.",
            rich_help_panel=_QUEUE,
        ),
    ] = False,
) -> JobOptions:
    """Returns the library's options for what was said on the command line; raises usage errors."""
    if not model:
        raise typer.BadParameter(
            "say which model: --model NAME or RBEE_MODEL; see: rbee model list", param_hint="--model"
        )
    return {
        "model": model_reference(model, Path.cwd()),
        "prompt": prompt_text(prompt, raw=raw),
        "raw": raw,
        "system": system,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "logprobs": logprobs,
        "stop": stop,
        "json_schema": file_or_text(json_schema, "{", "--json-schema"),
        "grammar": file_or_text(grammar, "::=", "--grammar"),
        "priority": priority.value if priority is not None else None,
        "session": session,
        "tenant": tenant,
        "labels": pairs(label or (), "--label"),
        "timeout_s": timeout,
        "queue_timeout_s": queue_timeout,
        "start_timeout_s": start_timeout,
        "first_token_timeout_s": first_token_timeout,
        "stall_timeout_s": stall_timeout,
        "no_failover": no_failover,
    }


def takes_job_options(command: Command) -> Command:
    """Puts the parameters of `job_options` in the place of a command's `**job`."""
    shared = inspect.signature(job_options, eval_str=True, locals={"JobOptions": dict}).parameters
    own = inspect.signature(command, eval_str=True).parameters.values()
    before = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = inspect.Signature([*before, *shared.values()])  # type: ignore[attr-defined]
    return command


def model_reference(given: str, folder: Path) -> str:
    """Returns what the queen is asked for: a file as "file:/abs/path", anything else as it was given."""
    if given.startswith(("file:", "hf:", "https:", "http:")):
        return given
    path = Path(given).expanduser()
    if path.is_absolute():
        return f"file:{os.path.normpath(path)}"
    looks_like_a_path = os.sep in given or path.suffix.lower() == ".gguf"
    if looks_like_a_path and (folder / path).is_file():
        return f"file:{os.path.normpath(folder / path)}"
    return given


def prompt_text(given: str | None, *, raw: bool) -> str:
    """Returns the prompt, read from standard input for "-" and where none was given and something is piped in."""
    if given is None and sys.stdin.isatty():
        raise typer.BadParameter("say something, or pipe it in", param_hint="PROMPT")
    if given is not None and given != "-":
        text = given
    else:
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"standard input is not UTF-8: {error}", param_hint="PROMPT") from error
        # The line end belongs to the pipe, not to what a person says.
        text = text if raw else text.removesuffix("\n")
    if not text:
        raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
    return text


def file_or_text(given: str | None, mark: str, option: str) -> str | None:
    """Returns the text of a file, or the argument itself when it is no file and holds the mark of such a text."""
    if given is None:
        return None
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if mark in given:
            return given
        raise typer.BadParameter(
            f"'{given}' cannot be read, and is no such text: {error}", param_hint=option
        ) from error


def pairs(given: Iterable[str], option: str) -> Mapping[str, str]:
    """Returns "key=value" arguments as a mapping."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"'{text}' is not KEY=VALUE", param_hint=option)
        found[key] = value
    return found


def job_of(options: Mapping[str, Any]) -> JobOptions:
    """Returns the library's options for the `**job` a command was called with."""
    return job_options(**options)

"""The span of a generation, in the words of OpenTelemetry's GenAI conventions. Never a prompt, never an output."""

from __future__ import annotations

from wire import telemetry
from wire.spans import Recorder, Span, Value
from worker.engines.port import Engine, Request
from worker.generation import Generation, Ticket


def begin(
    recorder: Recorder, ticket: Ticket, request: Request, model: str, model_ref: str, engine: Engine
) -> Span | None:
    """Returns the span of a generation, child of the caller's; end it with `end`. `model` is as the caller named it.

    None where the caller traces nothing.
    """
    asked: dict[str, Value] = {
        telemetry.JOB_ID: ticket.job_id,
        "rbee.attempt": ticket.attempt,
        "gen_ai.operation.name": _operation(request),
        "gen_ai.provider.name": f"rbee.{engine.name}",
        "gen_ai.output.type": "json" if request.json_schema else "text",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model_ref,
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.top_k": request.top_k,
        "gen_ai.request.presence_penalty": request.presence_penalty,
        "gen_ai.request.frequency_penalty": request.frequency_penalty,
        "gen_ai.request.seed": request.seed,
    }
    if request.max_tokens is not None:
        asked["gen_ai.request.max_tokens"] = request.max_tokens
    return recorder.begin(telemetry.SPAN_GENERATE, asked, kind="server")


def _operation(request: Request) -> str:
    if request.texts:
        return "embeddings"
    return "chat" if request.messages else "text_completion"


def end(recorder: Recorder, span: Span | None, generation: Generation) -> None:
    """Ends the span with how the generation went. Times in seconds, as the conventions have them."""
    if span is None or span.end_ns:
        return
    result = generation.result
    if result is not None:
        made = result.completion_tokens - generation.made_before
        span.attributes |= {
            "gen_ai.response.finish_reasons": (result.ending.finish,),
            "gen_ai.usage.input_tokens": result.ending.prompt_tokens,
            "gen_ai.usage.output_tokens": result.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": result.ending.cached_prompt_tokens,
            "gen_ai.server.time_to_first_token": result.first_token_s,
        }
        if made > 1:
            span.attributes["gen_ai.server.time_per_output_token"] = result.generation_s / (made - 1)
    if generation.failure is not None:
        span.fail(generation.failure.reason)
    recorder.end(span)

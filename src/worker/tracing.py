"""The span of a generation, in the words of OpenTelemetry's GenAI conventions. Never a prompt, never an output."""

from __future__ import annotations

from opentelemetry import trace

from wire import telemetry
from worker.engines.port import Engine, Request
from worker.generation import Generation, Ticket


def begin(ticket: Ticket, request: Request, model: str, model_ref: str, engine: Engine) -> trace.Span:
    """Returns the span of a generation, child of the caller's; end it with `end`. `model` is as the caller named it."""
    span = telemetry.tracer().start_span(telemetry.SPAN_GENERATE)
    if span.is_recording():
        span.set_attributes(
            {
                "gen_ai.operation.name": _operation(request),
                "gen_ai.provider.name": f"rbee.{engine.name}",
                "gen_ai.request.model": model,
                "gen_ai.response.model": model_ref,
                "gen_ai.request.temperature": request.temperature,
                "gen_ai.request.top_p": request.top_p,
                "gen_ai.request.top_k": request.top_k,
                "gen_ai.request.presence_penalty": request.presence_penalty,
                "gen_ai.request.frequency_penalty": request.frequency_penalty,
                "gen_ai.request.seed": request.seed,
                "rbee.job_id": ticket.job_id,
                "rbee.attempt": ticket.attempt,
            }
        )
        if request.max_tokens is not None:
            span.set_attribute("gen_ai.request.max_tokens", request.max_tokens)
    return span


def _operation(request: Request) -> str:
    if request.texts:
        return "embeddings"
    return "chat" if request.messages else "text_completion"


def end(span: trace.Span, generation: Generation) -> None:
    """Ends the span with how the generation went."""
    result = generation.result
    if result is not None and span.is_recording():
        span.set_attributes(
            {
                "gen_ai.response.finish_reasons": [result.ending.finish],
                "gen_ai.usage.input_tokens": result.ending.prompt_tokens,
                "gen_ai.usage.output_tokens": result.completion_tokens,
                "rbee.cached_prompt_tokens": result.ending.cached_prompt_tokens,
                "rbee.time_to_first_token_ms": result.first_token_s * 1000,
                "rbee.tokens_per_second": result.tokens_per_second,
            }
        )
    if generation.failure is not None:
        span.set_attribute("error.type", generation.failure.reason)
        span.set_status(trace.StatusCode.ERROR, generation.failure.reason)
    span.end()

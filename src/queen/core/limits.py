"""How long a job may take, by stage: what its request says wins over what is set for its model, that over the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from queen.core.model import StageLimits


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one level says of the stages, seconds; None: nothing, the next level decides."""

    total_s: float | None = None
    queue_s: float | None = None
    start_s: float | None = None
    first_token_s: float | None = None
    stall_s: float | None = None


@dataclass(frozen=True, slots=True)
class LimitRules:
    """What is set for all jobs, for those of single models, and the most a request may ask for, seconds."""

    default: StageLimits = field(default_factory=StageLimits)
    models: Mapping[str, Wanted] = field(default_factory=dict)
    """By name, case ignored and without ".gguf", or by reference."""
    most_s: float = 1800.0

    def of_model(self, model_ref: str, name: str) -> Wanted:
        """Returns what is set for a model; by its reference before by its name."""
        return self.models.get(model_ref) or self.models.get(model_key(name)) or Wanted()


def model_key(name: str) -> str:
    """Returns a model's name or reference as `LimitRules.models` has it."""
    return name if ":" in name else name.removesuffix(".gguf").casefold()


def resolve(request: Wanted, model: Wanted, default: StageLimits, caller_s: float | None = None) -> StageLimits:
    """Returns a job's limits. `caller_s`: what the deadline of the caller's own call leaves; it can only shorten."""
    total_s = _first(request.total_s, model.total_s) or default.total_s
    return StageLimits(
        total_s=total_s if caller_s is None else min(total_s, caller_s),
        queue_s=_first(request.queue_s, model.queue_s, default.queue_s),
        start_s=_first(request.start_s, model.start_s) or default.start_s,
        first_token_s=_first(request.first_token_s, model.first_token_s, default.first_token_s),
        stall_s=_first(request.stall_s, model.stall_s) or default.stall_s,
        by_caller=caller_s is not None and caller_s < total_s,
    )


def _first(*levels: float | None) -> float | None:
    return next((limit for limit in levels if limit is not None), None)

"""What a job asks for as policies may know it: numbers and hashes, never a prompt."""

from __future__ import annotations

import hashlib
from typing import Final

from queen.core.model import Asks
from rbee.v1 import job_pb2

PREFIX_BYTES: Final = 1024
"""How much of a prompt's beginning makes two prompts alike: most system prompts, some 250 tokens of KV cache."""
BYTES_PER_TOKEN: Final = 4
"""Of English text in the usual vocabularies; prompts are counted exactly by the worker alone."""


def asks_in(spec: bytes) -> Asks:
    """Returns what a job with this serialised JobSpec asks for."""
    return asks_of(job_pb2.JobSpec.FromString(spec))


def asks_of(spec: job_pb2.JobSpec) -> Asks:
    """Returns what a job asks for."""
    prompt = _prompt(spec)
    sampling = spec.sampling
    prompt_hash = _hash(prompt)
    geo = {field.name: value for field, value in spec.user_geo.ListFields()} if spec.HasField("user_geo") else {}
    return Asks(
        max_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else None,
        temperature=round(sampling.temperature, 6) if sampling.HasField("temperature") else None,
        seed=sampling.seed if sampling.HasField("seed") else None,
        prompt_hash=prompt_hash,
        prefix_hash=_hash(prompt[:PREFIX_BYTES]) if len(prompt) > PREFIX_BYTES else prompt_hash,
        prompt_tokens=-(-len(prompt) // BYTES_PER_TOKEN),
        user_geo=geo,
    )


def _prompt(spec: job_pb2.JobSpec) -> bytes:
    if spec.HasField("chat"):
        return spec.chat.SerializeToString(deterministic=True)
    if spec.HasField("embedding"):
        return spec.embedding.SerializeToString(deterministic=True)
    return spec.prompt.encode()


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:32]

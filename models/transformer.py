"""A llama-architecture transformer in JAX: weights, forward pass, loss. Float32 throughout.

Rotary pairs are interleaved (2i, 2i+1), as llama.cpp expects for architecture `llama`: no weight is permuted.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

Weights = dict[str, jax.Array]


@dataclass(frozen=True)
class Shape:
    """The sizes of the network; `width` must divide by `heads` into an even number."""

    vocabulary: int
    layers: int = 4
    width: int = 192
    heads: int = 6
    inner: int = 512
    rope_base: float = 10_000.0  # Su et al. 2021, RoFormer
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


def initial_weights(shape: Shape, seed: int) -> Weights:
    """Random weights by GGUF tensor name; matrices are stored (outputs, inputs)."""
    source = np.random.default_rng(seed)

    def matrix(outputs: int, inputs: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(source.normal(0.0, scale * inputs**-0.5, (outputs, inputs)), jnp.float32)

    weights = {"token_embd.weight": matrix(shape.vocabulary, shape.width, 0.5)}
    # The last matrix of each residual branch starts small, as in GPT-2: 1 / sqrt(2 * layers).
    small = (2 * shape.layers) ** -0.5
    for layer in range(shape.layers):
        sizes = {
            "attn_q": (shape.width, shape.width, 1.0), "attn_k": (shape.width, shape.width, 1.0),
            "attn_v": (shape.width, shape.width, 1.0), "attn_output": (shape.width, shape.width, small),
            "ffn_gate": (shape.inner, shape.width, 1.0), "ffn_up": (shape.inner, shape.width, 1.0),
            "ffn_down": (shape.width, shape.inner, small),
        }  # fmt: skip
        for name, (outputs, inputs, scale) in sizes.items():
            weights[f"blk.{layer}.{name}.weight"] = matrix(outputs, inputs, scale)
        for name in ("attn_norm", "ffn_norm"):
            weights[f"blk.{layer}.{name}.weight"] = jnp.ones(shape.width)
    weights["output_norm.weight"] = jnp.ones(shape.width)
    weights["output.weight"] = matrix(shape.vocabulary, shape.width, 0.5)
    return weights


def logits(shape: Shape, weights: Weights, tokens: jax.Array, positions: jax.Array, segments: jax.Array) -> jax.Array:
    """Next-token logits (rows, length, vocabulary).

    tokens, positions and segments are integers (rows, length). A token sees earlier ones of its own segment.
    """
    rows, length = tokens.shape
    rotation = _rotation(shape, positions)
    seen = (segments[:, :, None] == segments[:, None, :]) & jnp.tril(jnp.ones((length, length), bool))
    bias = jnp.where(seen, 0.0, -1e9)[:, None]
    state = weights["token_embd.weight"][tokens]
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        normed = _normed(state, weights[at + "attn_norm.weight"], shape.norm_epsilon)
        split = (rows, length, shape.heads, shape.head_width)
        query, key, value = (
            (normed @ weights[at + f"attn_{part}.weight"].T).reshape(split).transpose(0, 2, 1, 3) for part in "qkv"
        )
        scores = _rotated(query, rotation) @ _rotated(key, rotation).swapaxes(-1, -2) * shape.head_width**-0.5
        mixed = jax.nn.softmax(scores + bias, axis=-1) @ value
        mixed = mixed.transpose(0, 2, 1, 3).reshape(rows, length, shape.width)
        state = state + mixed @ weights[at + "attn_output.weight"].T
        normed = _normed(state, weights[at + "ffn_norm.weight"], shape.norm_epsilon)
        gate = jax.nn.silu(normed @ weights[at + "ffn_gate.weight"].T)
        state = state + (gate * (normed @ weights[at + "ffn_up.weight"].T)) @ weights[at + "ffn_down.weight"].T
    return _normed(state, weights["output_norm.weight"], shape.norm_epsilon) @ weights["output.weight"].T


def mean_loss(shape: Shape, weights: Weights, rows: tuple[jax.Array, ...]) -> jax.Array:
    """Cross entropy in nats per token over rows of tokens, positions, segments and weights, each (rows, length).

    The weight of a token says how much predicting it counts.
    """
    tokens, positions, segments, weight = rows
    scores = logits(shape, weights, tokens[:, :-1], positions[:, :-1], segments[:, :-1])
    chosen = jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(scores, axis=-1) - chosen
    return (losses * weight[:, 1:]).sum() / weight[:, 1:].sum()


def _normed(state: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """Root-mean-square normalisation over the last axis (Zhang and Sennrich 2019)."""
    return state * jax.lax.rsqrt(jnp.mean(state * state, axis=-1, keepdims=True) + epsilon) * scale


def _rotation(shape: Shape, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the rotary angles, each (rows, 1, length, head_width / 2)."""
    steps = jnp.arange(0, shape.head_width, 2, dtype=jnp.float32) / shape.head_width
    angles = positions[:, None, :, None].astype(jnp.float32) * shape.rope_base**-steps
    return jnp.cos(angles), jnp.sin(angles)


def _rotated(vectors: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The vectors (rows, heads, length, head_width) turned by their positions, in interleaved pairs."""
    cosine, sine = rotation
    even, odd = vectors[..., 0::2], vectors[..., 1::2]
    return jnp.stack((even * cosine - odd * sine, even * sine + odd * cosine), axis=-1).reshape(vectors.shape)

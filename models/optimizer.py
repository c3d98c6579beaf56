"""Muon for the matrices inside the blocks, Adam for embeddings, output and norms.

Muon: K. Jordan and others, "Muon: An optimizer for hidden layers in neural networks" (2024), from which the
five Newton-Schulz steps and their coefficients are taken. Adam: Kingma and Ba (2015).
"""

import jax
import jax.numpy as jnp
from transformer import Weights

State = dict[str, tuple[jax.Array, jax.Array]]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
MOMENTUM = 0.95
ADAM_DECAYS = (0.9, 0.98)
ADAM_EPSILON = 1e-9
WEIGHT_DECAY = 0.1  # per unit of learning rate, on Muon's matrices


def initial_state(weights: Weights) -> State:
    """Zero moments for every weight."""
    return {name: (jnp.zeros_like(value), jnp.zeros_like(value)) for name, value in weights.items()}


def updated(
    weights: Weights, gradients: Weights, state: State, step: jax.Array, rates: tuple[jax.Array, jax.Array]
) -> tuple[Weights, State]:
    """The weights and the state after step `step`, counted from 0; `rates` are those of Muon and of Adam."""
    fresh_weights, fresh_state = {}, {}
    for name, value in weights.items():
        first, second = state[name]
        if name.startswith("blk.") and value.ndim == 2:
            first = MOMENTUM * first + gradients[name]
            stretch = max(1.0, value.shape[0] / value.shape[1]) ** 0.5
            change = stretch * _orthogonal(gradients[name] + MOMENTUM * first)
            fresh_weights[name] = value * (1 - rates[0] * WEIGHT_DECAY) - rates[0] * change
        else:
            first = ADAM_DECAYS[0] * first + (1 - ADAM_DECAYS[0]) * gradients[name]
            second = ADAM_DECAYS[1] * second + (1 - ADAM_DECAYS[1]) * gradients[name] ** 2
            mean = first / (1 - ADAM_DECAYS[0] ** (step + 1))
            spread = second / (1 - ADAM_DECAYS[1] ** (step + 1))
            fresh_weights[name] = value - rates[1] * mean / (jnp.sqrt(spread) + ADAM_EPSILON)
        fresh_state[name] = (first, second)
    return fresh_weights, fresh_state


def _orthogonal(matrix: jax.Array) -> jax.Array:
    """The matrix with its singular values moved close to one, by five Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    wide: jax.Array = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (jnp.linalg.norm(wide) + 1e-7)
    for _ in range(5):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide

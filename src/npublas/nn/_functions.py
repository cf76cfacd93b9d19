"""What a transformer computes between its products: on the last axis, in the input's dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

# erf(x) = 1 - (a1 t + a2 t^2 + ... + a5 t^5) exp(-x^2),  t = 1 / (1 + p x),  x >= 0:
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26; |error| <= 1.5e-7.
_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)

# GELU makes a dozen passes over its input. A piece of this many elements stays in the cache.
_PIECE = 16384


def erf(x: Floats) -> Floats:
    """The error function, to within 1.5e-7 plus a few units of rounding of the input's dtype."""
    size = np.minimum(np.abs(x), 9)  # where erf has long been 1, and x^2 can't overflow
    t = 1 / (1 + _P * size)
    series = t * (_A[0] + t * (_A[1] + t * (_A[2] + t * (_A[3] + t * _A[4]))))
    result: Floats = np.copysign(1 - series * np.exp(-size * size), x)
    return result


def gelu(x: Floats) -> Floats:
    """x times the normal distribution's cumulative function: x (1 + erf(x / sqrt 2)) / 2."""
    x = np.ascontiguousarray(x)
    result = np.empty_like(x)
    inputs, outputs = x.reshape(-1), result.reshape(-1)
    for start in range(0, x.size, _PIECE):
        piece = inputs[start : start + _PIECE]
        outputs[start : start + _PIECE] = 0.5 * piece * (1 + erf(piece * 0.5**0.5))
    return result


def softmax(x: Floats) -> Floats:
    """exp(x) / sum(exp(x)), with the largest x taken off first, so that nothing overflows."""
    powers: Floats = np.exp(x - x.max(axis=-1, keepdims=True))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


def layer_norm(x: Floats, weight: Floats, bias: Floats, epsilon: float) -> Floats:
    """Zero mean and unit variance per row, then the learnt scale and offset."""
    centred: Floats = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    centred /= np.sqrt(variance + epsilon)
    return centred * weight + bias

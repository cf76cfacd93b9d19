"""Families of float32 data that products are judged by, and how an error is measured.

A family makes two operands: family(rng, m, k, n) -> A, B. Those that the criterion of
docs/precision.md can't promise anything for are under WIDE: they are refused, or right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from split_model import U, magnitudes

Family = Callable[[np.random.Generator, int, int, int], tuple[np.ndarray, np.ndarray]]


def both(draw) -> Family:
    """Both operands of the same kind."""

    def family(rng, m, k, n):
        return draw(rng, (m, k)).astype(np.float32), draw(rng, (k, n)).astype(np.float32)

    return family


def signs(rng, shape):
    return rng.choice([-1.0, 1.0], shape)


def lognormal(sigma, signed=False):
    return both(
        lambda rng, s: rng.lognormal(0, sigma, s) * (signs(rng, s) if signed else np.ones(s))
    )


def rows_graded(rng, m, k, n, decades=30):
    """Rows of A over 60 decades."""
    grades = 10.0 ** rng.uniform(-decades, decades, (m, 1))
    a = rng.standard_normal((m, k)) * grades
    return a.astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)


def columns_graded(rng, m, k, n):
    b, a = rows_graded(rng, n, k, m)
    return a.T.copy(), b.T.copy()


def both_graded(rng, m, k, n):
    a, _ = rows_graded(rng, m, k, 1, 15)
    b, _ = rows_graded(rng, n, k, 1, 15)
    return a, b.T.copy()


def depth_graded(decades, inverse):
    """Along K: A from 1e-decades to 1e+decades, B in the same direction or in the other."""

    def family(rng, m, k, n):
        grades = 10.0 ** np.linspace(-decades, decades, k)
        a = rng.standard_normal((m, k)) * grades
        b = rng.standard_normal((k, n)) * (grades[::-1] if inverse else grades)[:, None]
        return a.astype(np.float32), b.astype(np.float32)

    return family


def cancelling(rng, m, k, n):
    """The second half of each sum takes away the first, but for some millionths."""
    half = k // 2
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    a[:, half : 2 * half] = a[:, :half]
    b[half : 2 * half] = -b[:half] * (1 + 1e-6 * rng.standard_normal((half, n)))
    return a.astype(np.float32), b.astype(np.float32)


def subnormal(rng, m, k, n):
    """Operands below float32's normal range, with results that are representable."""
    a, b = rng.standard_normal((m, k)) * 1e-40, rng.standard_normal((k, n)) * 1e20
    return a.astype(np.float32), b.astype(np.float32)


def softmax(rng, m, k, n):
    """Attention: rows of probabilities over many orders of magnitude."""
    a = np.exp(5 * rng.standard_normal((m, k)))
    return (a / a.sum(1, keepdims=True)).astype(np.float32), rng.standard_normal((k, n)).astype(
        np.float32
    )


def as_bfloat16(x):
    """float32 rounded to bfloat16's eight bits, still in float32."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def half_weights(rng, m, k, n):
    """float32 activations, weights that were trained or stored in float16."""
    b = (0.05 * rng.standard_normal((k, n))).astype(np.float16).astype(np.float32)
    return rng.standard_normal((m, k)).astype(np.float32), b


# What the NPU takes, at least 19 times in 20.
ORDINARY: dict[str, Family] = {
    "normal": both(lambda rng, s: rng.standard_normal(s)),
    "uniform, 0 to 1": both(lambda rng, s: rng.uniform(0, 1, s)),
    "uniform, -1 to 1": both(lambda rng, s: rng.uniform(-1, 1, s)),
    "log-normal, σ = 1": lognormal(1),
    "log-normal, σ = 2": lognormal(2),
    "log-normal, σ = 3": lognormal(3),
    "log-normal, σ = 3, both signs": lognormal(3, signed=True),
    "integers to ±9": both(lambda rng, s: rng.integers(-9, 10, s)),
    "integers to ±1000": both(lambda rng, s: rng.integers(-1000, 1001, s)),
    "integers to ±2²⁴": both(lambda rng, s: rng.integers(-(2**24), 2**24 + 1, s)),
    "rows graded, 1e±30": rows_graded,
    "columns graded, 1e±30": columns_graded,
    "rows and columns graded, 1e±15": both_graded,
    "exact in float16": both(lambda rng, s: rng.standard_normal(s).astype(np.float16)),
    "exact in bfloat16": both(lambda rng, s: as_bfloat16(rng.standard_normal(s))),
    "float16 weights": half_weights,
    "nearly cancelling": cancelling,
    "subnormal": subnormal,
    "half zeros (ReLU)": both(lambda rng, s: np.maximum(rng.standard_normal(s), 0)),
    "sparse, 1 in 20": both(lambda rng, s: rng.standard_normal(s) * (rng.random(s) < 0.05)),
    "softmax rows": softmax,
    "Student t, 3 degrees": both(lambda rng, s: rng.standard_t(3, s)),
    "Student t, 2 degrees": both(lambda rng, s: rng.standard_t(2, s)),
    "Student t, 1 degree": both(lambda rng, s: rng.standard_t(1, s)),
    "Pareto, α = 1": both(lambda rng, s: 1 + rng.pareto(1, s)),
    "K graded, 1e±5 in both": depth_graded(5, inverse=False),
    "K graded inversely, 1e±1": depth_graded(1, inverse=True),
}

# What it may refuse.
WIDE: dict[str, Family] = {
    "Pareto, α = 1/2": both(lambda rng, s: 1 + rng.pareto(0.5, s)),
    "one in 300 is 10⁶ times larger": both(
        lambda rng, s: rng.standard_normal(s) * np.where(rng.random(s) < 1 / 300, 1e6, 1)
    ),
    "K graded inversely, 1e±4": depth_graded(4, inverse=True),
    "K graded inversely, 1e±30": depth_graded(30, inverse=True),
}

ALL = ORDINARY | WIDE


def errors(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The largest error by element, and that of the whole matrix, in units of 2^-24 |A||B|.

    Half of float32's smallest subnormal is no error: a result can't be closer.
    """
    sizes = magnitudes(a, b)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    off = np.maximum(np.abs(result.astype(np.float64) - exact) - 2.0**-150, 0)
    by_element = np.max(off / np.where(sizes > 0, sizes, 1), initial=0) / U
    whole = np.linalg.norm(off) / (np.linalg.norm(sizes) or 1) / U
    return float(by_element), float(whole)

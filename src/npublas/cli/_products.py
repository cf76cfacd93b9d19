"""The demo's first part: one square product per type, with its answer checked.

The oracle is the same product of the same operands in float64, which holds every sum of int8
products exactly. A float product may differ from it by what float32 sums and one final rounding
allow, and by no more:

    |C - AB| <= n 2^-24 |A||B|  +  u (|AB| + n 2^-24 |A||B|)      u: half a unit of the result type

(N. J. Higham, Accuracy and Stability of Numerical Algorithms, 3.5, for any order of the sums.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import npublas
from npublas._stats import Counters

_TIMES = 3
_NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


@dataclass(frozen=True)
class Product:
    """One product: what, where, the best time of three, and whether the answer is right."""

    operands: str
    result: str
    where: str
    seconds: float
    right: bool
    answer: str  # in words


def square_products(size: int) -> list[Product]:
    """float16, int8 and float32 on the NPU, and float32 as NumPy does it."""
    random = np.random.default_rng(0)
    halves = random.standard_normal((2, size, size)).astype(np.float16)
    bytes_ = random.integers(-128, 128, (2, size, size), np.int8)
    singles = random.standard_normal((2, size, size), np.float32)
    on_npu = partial(npublas.matmul, device="npu")
    # NumPy 1.26 has no loop for int8 products as int32, so there the sums wrap to int8 as NumPy's.
    wide = {"dtype": np.int32} if _NUMPY_2 else {}
    return [
        _run(halves, on_npu),
        _run(bytes_, partial(on_npu, **wide)),
        _run(singles, on_npu),
        _run(singles, np.matmul),
    ]


def _run(operands: NDArray[Any], matmul: Callable[..., Any]) -> Product:
    a, b = operands
    matmul(a, b)  # sets up the NPU's contexts for this shape
    npublas.reset_counters()
    seconds = float("inf")
    for _ in range(_TIMES):
        start = time.perf_counter()
        c = matmul(a, b)
        seconds = min(seconds, time.perf_counter() - start)
    counters = npublas.counters()
    where = npu_name(counters) if counters.npu.products == _TIMES else "CPU"
    right, answer = check(a, b, c)
    return Product(str(a.dtype), str(c.dtype), where, seconds, right, answer)


def npu_name(counters: Counters) -> str:
    """What to call the place where the NPU's products ran."""
    return "simulated NPU" if counters.simulated else "NPU"


def check(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> tuple[bool, str]:
    """Whether c = a b as well as its type and float32 sums allow, and in words how well."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    exact = wide_a @ wide_b
    if c.dtype.kind == "i":
        right = np.array_equal(c, exact.astype(np.int64).astype(c.dtype))
        return right, "exact" if right else "WRONG"
    error = np.abs(c - exact)
    sums = a.shape[1] * 2.0**-24 * (np.abs(wide_a) @ np.abs(wide_b))
    unit = float(np.finfo(c.dtype).eps) / 2
    right = bool(np.all(error <= sums + unit * (np.abs(exact) + sums)))  # False for NaN
    largest = error.max() / np.abs(exact).max()
    return right, f"{'right' if right else 'WRONG'}, to {largest:.0e} of the largest entry"

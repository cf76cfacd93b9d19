"""The CPU path beside NumPy: the types for which NumPy has no BLAS, and float32, for which it has.

What to conclude: how much faster a product is that can't go to the NPU, or must come back from it.
float32 is NumPy's own loop, so it is equal but for chance. int8 and float16 go through that loop in
blocks and come close to it, where NumPy's own loops for them take 60 to 200 times as long; so those
are timed at 256³ only, and once at 1024³ with ``--slow``.
"""

from __future__ import annotations

import numpy as np
import pytest
import timing

import npublas

SIDES = [256, 1024]
CASES = {
    "float32": ("float32", "float32"),
    "float16": ("float16", "float16"),
    "int8": ("int8", "int8"),
    "uint8": ("uint8", "uint8"),
    "int8 to int32": ("int8", "int32"),
}
if np.lib.NumpyVersion(np.__version__) < "2.0.0":
    del CASES["int8 to int32"]  # NumPy 1.26 has no such loop


def operands(dtype, side):
    """Whole numbers whose sums are exact in every type, so that the answers are equal."""
    rng = np.random.default_rng(3)
    if dtype in ("int8", "uint8"):
        limits = np.iinfo(dtype)
        return tuple(rng.integers(limits.min, limits.max, (side, side), dtype) for _ in "ab")
    return tuple(rng.integers(-3, 4, (side, side)).astype(dtype) for _ in "ab")


def exact(a, b, out):
    return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64).astype(out)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", CASES)
def test_cpu_path(benchmark, case, side, slow):
    dtype, out = CASES[case]
    a, b = operands(dtype, side)
    benchmark.group = f"{side}³"
    result = benchmark.pedantic(
        npublas.matmul,
        (a, b),
        {"dtype": out, "device": "cpu"},
        rounds=15,
        warmup_rounds=2,
    )
    np.testing.assert_array_equal(result, exact(a, b, out), strict=True)
    if benchmark.disabled or (side > 256 and dtype != "float32" and not slow):
        return
    rounds = 15 if dtype == "float32" else 1
    numpys = timing.fastest(lambda: np.matmul(a, b, dtype=out), rounds)
    times = numpys / benchmark.stats.stats.min
    benchmark.extra_info["NumPy's ms"] = round(1e3 * numpys, 2)
    benchmark.extra_info["times as fast"] = round(times, 1)
    print(f"\n{case}, {side}³: {times:.1f} times as fast as NumPy ({1e3 * numpys:.1f} ms)")

"""What a call of npublas.matmul costs beyond the same call of numpy.matmul, on the CPU path.

What to conclude: the cost of asking where a product is to run and of counting it. It is found in
pairs, because the machine's mood changes faster than a call takes: some hundred calls of the one,
then as many of the other, in turns, and the median of the differences. The goal is at most 40 ns.
Only what the NPU does not gain on pays it; at 128×128 it can no longer be seen.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter_ns

import numpy as np
import pytest

import npublas

PAIRS = 401


def nanoseconds(matmul, calls, arguments, options):
    start = perf_counter_ns()
    for _ in range(calls):
        matmul(*arguments, **options)
    return (perf_counter_ns() - start) / calls


def overhead(calls, arguments, options):
    """The median of the paired differences, and NumPy's own time."""
    differences, numpys = [], []
    for pair in range(PAIRS):
        order = (npublas.matmul, np.matmul) if pair % 2 else (np.matmul, npublas.matmul)
        times = {matmul: nanoseconds(matmul, calls, arguments, options) for matmul in order}
        differences.append(times[npublas.matmul] - times[np.matmul])
        numpys.append(times[np.matmul])
    return round(median(differences), 1), round(median(numpys), 1)


@pytest.mark.parametrize("out", [False, True], ids=["new result", "out="])
@pytest.mark.parametrize(("side", "calls"), [(8, 300), (128, 10)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_call_overhead(benchmark, dtype, side, calls, out):
    a = (np.arange(side * side) % 5 - 2).reshape(side, side).astype(dtype)
    options = {"out": np.empty_like(a)} if out else {}
    benchmark.group = f"{dtype}, {side}×{side}"
    if not benchmark.disabled:
        more, numpys = overhead(calls, (a, a), options)
        benchmark.extra_info["ns more than NumPy"] = more
        benchmark.extra_info["NumPy's ns"] = numpys
        print(f"\n{benchmark.group}: {more} ns more than NumPy's {numpys} ns")
    result = benchmark(npublas.matmul, a, a, **options)
    np.testing.assert_array_equal(result, np.matmul(a, a), strict=True)
    assert npublas.counters().npu.products == 0


@pytest.mark.parametrize("where", ["after a config_context", "within one", "device= in the call"])
def test_call_overhead_of_settings(benchmark, where):
    a = np.ones((8, 8), np.float32)
    benchmark.group = "settings, float32, 8×8"
    with npublas.config_context(device="cpu"):
        if where == "within one":
            result = benchmark(npublas.matmul, a, a)
    if where == "after a config_context":
        result = benchmark(npublas.matmul, a, a)
    elif where == "device= in the call":
        result = benchmark(npublas.matmul, a, a, device="cpu")
    np.testing.assert_array_equal(result, np.matmul(a, a), strict=True)

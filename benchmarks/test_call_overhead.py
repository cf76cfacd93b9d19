"""What a call of npublas.matmul costs beyond the same call of numpy.matmul, on the CPU path.

What to conclude: the cost of asking where a product is to run and of counting it. It is found in
pairs (see timing.py), and shown beside NumPy's own time: where other programs share the machine's
cores, both take half as long again, so only figures beside the like of NumPy's can be compared. The
goal is at most 60 ns. Only what the NPU does not gain on pays it; at 128×128 it can no longer be
seen. float16 is faster than NumPy's from 8×8 on, by way of float32. While nothing is profiled,
tracing is part of it: two loads and two branches. Builds with and without them differ by -3 to 6
ns, as any two builds do, if only processes are compared in which NumPy's time is the same. What a
profile costs while it is open is shown beside it.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import timing

import npublas

DTYPES = ["float32", "float64", "int32", "int64", "int8", "float16", "complex128", "bool"]


@pytest.mark.parametrize("out", [False, True], ids=["new result", "out="])
@pytest.mark.parametrize(("side", "calls"), [(8, 300), (128, 10)])
@pytest.mark.parametrize("right", ["matrix", "vector"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_call_overhead(benchmark, dtype, right, side, calls, out):
    a = (np.arange(side * side) % 5 - 2).reshape(side, side).astype(dtype)
    b = a if right == "matrix" else a[0].copy()
    options = {"out": np.empty_like(b)} if out else {}
    benchmark.group = f"{dtype}, {side}×{side} by a {right}"
    if not benchmark.disabled:
        ours, theirs = (partial(f, a, b, **options) for f in (npublas.matmul, np.matmul))
        more, numpys = timing.difference(ours, theirs, calls)
        benchmark.extra_info["ns more than NumPy"] = more
        benchmark.extra_info["NumPy's ns"] = numpys
        print(f"\n{benchmark.group}: {more} ns more than NumPy's {numpys} ns")
    result = benchmark(npublas.matmul, a, b, **options)
    np.testing.assert_array_equal(result, np.matmul(a, b), strict=True)
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


@pytest.mark.parametrize("profiled", [False, True], ids=["no profile", "profile"])
def test_call_in_a_profile(benchmark, profiled):
    a = np.ones((8, 8), np.float32)
    benchmark.group = "profile, float32, 8×8"
    if not profiled:
        result = benchmark(npublas.matmul, a, a)
    else:
        with npublas.profile() as profile:
            result = benchmark.pedantic(npublas.matmul, (a, a), rounds=500, iterations=100)
        assert profile.dropped == 0
        assert profile.total.products == npublas.counters().cpu.products
    np.testing.assert_array_equal(result, np.matmul(a, a), strict=True)

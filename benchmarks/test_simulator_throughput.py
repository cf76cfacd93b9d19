"""How fast the simulator computes: one run of one core, on one thread.

What to conclude: how long simulated tests and demonstrations take, on this machine. Nothing about
the NPU: these are the speeds of a CPU that imitates it, bit for bit. The goals are 20 GOPS in what
every x86-64 processor can do and 30 with AVX2, so that a model's worth of products is a matter of
seconds. NumPy's float32 product of the same shape, which uses all cores of the machine and rounds
everywhere, stands beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from npublas.testing import simulator

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import vendor

SHAPES = [(512, 1024, 1024), (128, 384, 1536), (4, 1024, 1024)]
GROUPS = {shape: "simulator, " + "×".join(map(str, shape)) for shape in SHAPES}


def instruction_sets() -> list[str]:
    try:
        with simulator.settings(isa="avx2"):
            return ["baseline", "avx2"]
    except ValueError:
        return ["baseline"]


def operands(dtype, m, k, n):
    rng = np.random.default_rng(4)
    if dtype == "int8":
        return rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
    return tuple(rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n)))


def note_speed(benchmark, m, k, n):
    if not benchmark.disabled:
        benchmark.extra_info["GOPS"] = round(2e-9 * m * k * n / benchmark.stats.stats.min, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "×".join(map(str, s)))
@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_one_simulated_core(benchmark, dtype, isa, shape):
    a, b = operands(dtype, *shape)
    kind = vendor.INT8_TO_INT32 if dtype == "int8" else vendor.FLOAT16_TO_FLOAT32
    library = vendor.load(str(simulator.path()))
    benchmark.group = GROUPS[shape]
    with (
        simulator.settings(isa=isa),
        vendor.Matmul(library, *shape, kind, vendor.NATIVE, vendor.NATIVE) as matmul,
    ):
        c = matmul(a, b)
        assert benchmark.pedantic(matmul.run, rounds=10, warmup_rounds=1) == 0
        np.testing.assert_array_equal(matmul.read_c(), c)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    if dtype == "int8":
        np.testing.assert_array_equal(c, exact)
    else:
        np.testing.assert_allclose(c, exact, rtol=0, atol=1e-4)
    note_speed(benchmark, *shape)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "×".join(map(str, s)))
def test_numpy_float32(benchmark, shape):
    a, b = operands("float32", *shape)
    benchmark.group = GROUPS[shape]
    c = benchmark.pedantic(np.matmul, (a, b), rounds=10, warmup_rounds=1)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, rtol=0, atol=1e-3)
    note_speed(benchmark, *shape)

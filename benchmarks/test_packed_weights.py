"""Packed weights beside unpacked ones, and loading a file of them beside packing.

Everything is host-measured, and simulated where it says NPU: the simulator multiplies on the CPU
and takes most of the time of the larger products, so what packing saves is clearest at few rows. It
is the difference that carries over to a board, where the CPU packs as it does here (if slower) and
the NPU multiplies: packing B costs the same for every M. What to conclude: how long a product waits
for B, at which M that is the most of it, and how much sooner a program can start that loads its
weights than one that packs them.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
import pytest

import npublas

K, N = 2048, 2048
ROWS = [1, 16, 128, 1024]


def operands(m):
    rng = np.random.default_rng(5)
    return (
        rng.standard_normal((m, K), dtype=np.float32),
        rng.standard_normal((K, N), dtype=np.float32),
    )


@pytest.fixture(autouse=True)
def _simulator():
    npublas.set_config(runtime="simulator")
    with npublas.config_context(device="npu"):
        yield


@pytest.mark.parametrize("kind", ["unpacked", "packed"])
@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_product(benchmark, precision, m, kind):
    x, b = operands(m)
    with npublas.config_context(precision=precision):
        right = npublas.pack(b) if kind == "packed" else b
        benchmark.group = f"{precision}, M = {m}, K = N = {K} (simulated)"
        rounds = 3 if m > 128 else 7
        wanted = npublas.matmul(x, b)
        npublas.reset_counters()
        result = benchmark.pedantic(
            npublas.matmul, (x, right), rounds=rounds, warmup_rounds=1, iterations=1
        )
        assert npublas.counters().cpu.products == 0
        np.testing.assert_array_equal(result, wanted, strict=True)
    if kind == "packed" and not benchmark.disabled:
        unpacked = min(seconds(x, b, precision) for _ in range(rounds))
        packed = benchmark.stats.stats.min
        benchmark.extra_info["times as fast as unpacked"] = round(unpacked / packed, 2)
        print(
            f"\n{precision}, M = {m}: {1e3 * packed:.1f} ms packed, {1e3 * unpacked:.1f} ms "
            f"unpacked: {unpacked / packed:.2f} times as fast"
        )


def seconds(x, b, precision):
    start = perf_counter()
    npublas.matmul(x, b, precision=precision)
    return perf_counter() - start


@pytest.mark.parametrize("start", ["pack", "load", "load and check every tile"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_start(benchmark, tmp_path, precision, start):
    """From an array in memory, and from a file that the system has in its cache."""
    x, b = operands(4)
    path = tmp_path / "w"
    packed = npublas.pack(b, precision=precision)
    packed.save(path)

    def begin():
        if start == "pack":
            return npublas.pack(b, precision=precision)
        w = npublas.load(path)
        if start != "load":
            w._weights.check()
        return w

    benchmark.group = f"{precision}, {K} × {N}: ready for the first product (host-measured)"
    w = benchmark.pedantic(begin, rounds=7, warmup_rounds=1)
    np.testing.assert_array_equal(x @ w, x @ packed, strict=True)

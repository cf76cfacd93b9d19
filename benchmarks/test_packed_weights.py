"""Loading a file of packed weights beside packing them; products with them are in test_products.py.

Everything is host-measured. What to conclude: how much sooner a program can start that loads its
weights than one that packs them. A board's CPU packs as this one does, only slower, so it is the
ratio that carries over.
"""

from __future__ import annotations

import numpy as np
import pytest

import npublas

K, N = 2048, 2048


@pytest.fixture(autouse=True)
def _simulator():
    npublas.set_config(runtime="simulator")


@pytest.mark.parametrize("start", ["pack", "load", "load and check every tile"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_start(benchmark, tmp_path, precision, start):
    """From an array in memory, and from a file that the system has in its cache."""
    rng = np.random.default_rng(5)
    x, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((4, K), (K, N)))
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
    with npublas.config_context(device="npu"):
        np.testing.assert_array_equal(x @ w, x @ packed, strict=True)

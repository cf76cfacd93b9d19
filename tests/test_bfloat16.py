"""ml_dtypes' bfloat16: known without being imported, and multiplied without being widened.

numpy.matmul widens it to float32, and gives float32; so does npublas.matmul. ``dtype=bfloat16``,
and `linear` and `gemm`, round the sums to it once.
"""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import npublas
from npublas import _engine
from npublas.testing import simulator

BF16 = np.dtype(ml_dtypes.bfloat16)
U = 2.0**-24
SHAPES = [(1, 1, 1), (3, 5, 7), (4, 32, 16), (5, 33, 17), (1, 700, 65), (33, 2049, 130)]


@pytest.fixture(autouse=True, params=["npu", "cpu"])
def where(request):
    npublas.set_config(runtime="simulator", device=request.param, on_fallback="error")
    yield request.param
    _engine.close_engine()


def random(seed, *shape, dtype=BF16):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def exact(a, b):
    return np.matmul(a.astype(np.float64), b.astype(np.float64))


def bound(a, b):
    """Sums of exact products in float32, in any order; on the NPU 10u if K is long."""
    size = np.matmul(abs(a.astype(np.float64)), abs(b.astype(np.float64)))
    return max(a.shape[-1], 10) * U * size


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_summed_in_float32_and_stay_it(shape, where):
    m, k, n = shape
    a, b = random(m, m, k), random(n, n, k).T
    result = npublas.matmul(a, b)
    assert result.dtype == np.matmul(a, b).dtype == np.float32
    assert (abs(result - exact(a, b)) <= bound(a, b)).all()
    (row,) = npublas.counters().reasons
    assert (row.dtype, row.on_npu) == ("bfloat16", where == "npu")


@pytest.mark.parametrize("shape", SHAPES)
def test_dtype_bfloat16_rounds_the_float32_sums_once(shape):
    m, k, n = shape
    a, b = random(m, m, k), random(n, k, n)
    result = npublas.matmul(a, b, dtype=BF16)
    assert result.dtype == BF16
    once = 2.0**-8 * abs(exact(a, b)) + (1 + 2.0**-8) * bound(a, b)
    assert (abs(result.astype(np.float64) - exact(a, b)) <= once).all()
    whole = np.rint(4 * a.astype(np.float32)).astype(BF16), np.rint(4 * b.astype(np.float32))
    whole = whole[0], whole[1].astype(BF16)  # of which float32 sums are exact
    np.testing.assert_array_equal(
        npublas.matmul(*whole, dtype=BF16), np.matmul(*whole).astype(BF16), strict=True
    )


@pytest.mark.parametrize("other", list("?bBhHiIlefdgFDO"))
def test_mixed_operands_are_promoted_as_for_numpy(other):
    npublas.set_config(on_fallback="allow")
    a = np.rint(random(0, 6, 8).astype(np.float32)).astype(BF16)
    b = np.rint(abs(random(1, 8, 5, dtype=np.float32))).astype(other)
    for x, y in ((a, b), (b.T, a.T)):
        expected = np.matmul(x, y)
        np.testing.assert_array_equal(npublas.matmul(x, y), expected, strict=True)


def test_other_types_of_ml_dtypes_are_numpys():
    a = np.rint(random(0, 6, 8).astype(np.float32))
    for dtype in (ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn, ml_dtypes.int4):
        x = a.astype(dtype)
        npublas.set_config(on_fallback="allow")
        np.testing.assert_array_equal(npublas.matmul(x, x.T), np.matmul(x, x.T), strict=True)


def test_views_stacks_vectors_and_out_are_as_numpys():
    a, b = random(0, 2, 6, 40), random(1, 40, 9)
    for x, y in [
        (a[:, ::-2, ::2], b[:20]),
        (a[1].T[:6].T, b[::-1][:6]),
        (a[0, 0], b),
        (b.T, b.T[0]),
    ]:
        result = npublas.matmul(x, y)
        assert result.shape == np.matmul(x, y).shape
        assert (abs(result - exact(x, y)) <= bound(x, y)).all()
    out = np.empty((2, 6, 9), BF16)
    assert npublas.matmul(a, b, out=out) is out
    np.testing.assert_array_equal(out, npublas.matmul(a, b).astype(BF16))
    scalar = npublas.matmul(a[0, 0], b[:, 0])
    assert type(scalar) is np.float32


def test_no_depth_gives_zeros():
    out = np.ones((3, 4), BF16)
    npublas.matmul(np.ones((3, 0), BF16), np.ones((0, 4), BF16), out=out, dtype=BF16)
    assert not out.any()


@pytest.mark.parametrize("size", [4, 40])  # a plain loop, and blocks of float32
def test_the_whole_range_is_kept(size):
    with np.errstate(all="raise"):
        a = np.diag(np.full(size, 2.0**100, np.float32)).astype(BF16)
        result = npublas.matmul(a, np.full((size, 3), 2.0**20, np.float32).astype(BF16), dtype=BF16)
        assert (result.astype(np.float64) == 2.0**120).all()


@pytest.mark.parametrize("size", [4, 40])
def test_what_rounds_to_infinity_is_an_overflow(size):
    a = np.diag(np.full(size, 2.0**64, np.float32)).astype(BF16)
    b = np.full((size, 3), 2.0**63 * (2 - 2.0**-7), np.float32).astype(BF16)
    b[:] = 2.0**63 * (2 - 2.0**-7)
    finite = npublas.matmul(a, b, dtype=BF16)
    assert np.isfinite(finite.astype(np.float32)).all()
    # One more unit of float32 than half of bfloat16's last place.
    c = np.full((size, 3), 2.0**-2, np.float32).astype(BF16)
    wide_a, wide_b = np.hstack([a, a]), np.vstack([b, c * BF16.type(2.0**57)])
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
        npublas.matmul(wide_a, wide_b, dtype=BF16)


def test_linear_and_gemm_round_to_bfloat16_once():
    x, w, bias = random(0, 30, 70), random(1, 50, 70).T, random(2, 50)
    y = npublas.linear(x, w, bias, activation="relu")
    e = np.maximum(exact(x, w) + bias.astype(np.float64), 0)
    assert y.dtype == BF16
    assert (abs(y.astype(np.float64) - e) <= 2.0**-8 * e + 2 * bound(x, w)).all()
    c = random(3, 30, 50)
    g = npublas.gemm(0.5, x, w, beta=2.0, c=c)
    e = 0.5 * exact(x, w) + 2.0 * c.astype(np.float64)
    assert g.dtype == BF16
    assert (abs(g.astype(np.float64) - e) <= 2.0**-8 * abs(e) + 2 * bound(x, w)).all()


def test_explain_knows_it(where):
    a, b = random(0, 30, 70), random(1, 70, 50)
    explained = npublas.explain(a, b)
    assert explained.dtypes == ("bfloat16", "bfloat16", "float32")
    assert explained.on_npu == (where == "npu")
    if where == "npu":
        assert explained.products == 1, "bfloat16 is exact in one part of float16 after scaling"
        before = npublas.counters().work["runs"]
        npublas.matmul(a, b)
        assert npublas.counters().work["runs"] - before == explained.plan.runs


@pytest.mark.parametrize("fault", ["submit_failure", "zeros", "lost_device"])
def test_a_failing_npu_leaves_right_numbers(fault):
    npublas.set_config(device="npu", on_fallback="allow")
    a, b = random(0, 30, 70), random(1, 70, 50)
    npublas.matmul(a, b)
    with simulator.fault(fault, count=0):
        assert (abs(npublas.matmul(a, b) - exact(a, b)) <= bound(a, b)).all()
    assert npublas.counters().fallbacks == 1


def test_npublas_imports_no_ml_dtypes_and_learns_of_it_when_the_program_has():
    program = """
import sys, numpy as np, npublas
npublas.matmul([[1.0]], [[2.0]], dtype=np.float32)
assert "ml_dtypes" not in sys.modules
import ml_dtypes
a = np.ones((2, 2), ml_dtypes.bfloat16)
assert npublas.matmul(a, a).dtype == np.float32
assert [row.dtype for row in npublas.counters().reasons if row.dtype == "bfloat16"]
assert npublas.matmul(a, a, dtype=ml_dtypes.bfloat16).dtype == a.dtype
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_dtype_alone_makes_it_known():
    program = """
import ml_dtypes, numpy as np, npublas
a = np.ones((2, 2), np.int8)
assert npublas.matmul(a, a, dtype=ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16
assert npublas.matmul([[ml_dtypes.bfloat16(2)]], [[ml_dtypes.bfloat16(3)]]).tolist() == [[6.0]]
"""
    subprocess.run([sys.executable, "-c", program], check=True)

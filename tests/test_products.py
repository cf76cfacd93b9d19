"""Products on the NPU: integers exact, floats within the bound that docs/precision.md derives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import npublas

pytestmark = pytest.mark.usefixtures("device")

SIZES = st.integers(1, 70) | st.sampled_from([127, 128, 129, 255, 257])
DEPTHS = SIZES | st.sampled_from([1023, 1024, 1025, 2047, 2048, 2049, 4097])
FAST = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def on_npu(a, b, **options):
    """Multiply on the NPU, and make sure that it was there."""
    with npublas.config_context(on_fallback="error"):
        return npublas.matmul(a, b, device="npu", **options)


def integers(rng, shape, dtype):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def views(matrix, kind):
    """The same values behind other strides."""
    if kind == "fortran":
        return np.asfortranarray(matrix)
    if kind == "reversed":
        return np.ascontiguousarray(matrix[::-1, ::-1])[::-1, ::-1]
    if kind == "sliced":
        wide = np.zeros((matrix.shape[0] * 2, matrix.shape[1] * 3), matrix.dtype)
        wide[::2, ::3] = matrix
        return wide[::2, ::3]
    return matrix


KINDS = st.sampled_from(["plain", "fortran", "reversed", "sliced"])


@given(SIZES, DEPTHS, SIZES, st.sampled_from(["int8", "uint8"]), KINDS, KINDS, st.integers(0, 99))
@FAST
def test_integers_wrap_exactly_as_numpys(m, k, n, dtype, kind_a, kind_b, seed):
    rng = np.random.default_rng(seed)
    a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
    result = on_npu(views(a, kind_a), views(b, kind_b))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, np.matmul(a, b))


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="needs NumPy 2's loops")
@given(SIZES, DEPTHS, SIZES, KINDS, KINDS, st.integers(0, 99))
@FAST
def test_int8_into_int32_is_exact(m, k, n, kind_a, kind_b, seed):
    rng = np.random.default_rng(seed)
    a, b = integers(rng, (m, k), np.int8), integers(rng, (k, n), np.int8)
    result = on_npu(views(a, kind_a), views(b, kind_b), dtype=np.int32)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, a.astype(np.int32) @ b.astype(np.int32))
    assert npublas.counters().reasons[0].dtype == "int8"


@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("k", [2048, 10_240, 20_001, 140_000])
def test_extreme_integers_are_exact_beyond_every_tile(value, k):
    a, b = np.full((3, k), value, np.int8), np.full((k, 5), -128, np.int8)
    exact = np.full((3, 5), value * -128 * k)  # 140,000 of them leave int32, where NumPy wraps
    np.testing.assert_array_equal(on_npu(a, b, dtype=np.int32), exact.astype(np.int32))
    np.testing.assert_array_equal(on_npu(a, b), exact.astype(np.int8))


FAMILIES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(0, 1, shape),
    "log-normal": lambda rng, shape: rng.lognormal(0, 3, shape),
    "huge": lambda rng, shape: rng.standard_normal(shape) * 1e18,
    "tiny": lambda rng, shape: rng.standard_normal(shape) * 1e-18,
    "subnormal": lambda rng, shape: rng.standard_normal(shape) * 1e-40,
    "mixed rows": lambda rng, shape: (
        rng.standard_normal(shape) * 10.0 ** rng.integers(-15, 15, (shape[0], 1))
    ),
    "mixed columns": lambda rng, shape: (
        rng.standard_normal(shape) * 10.0 ** rng.integers(-15, 15, (1, shape[1]))
    ),
    "mixed": lambda rng, shape: rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 9, shape),
}


def float16_bound(a, b):
    """docs/precision.md: the largest error of `precision="float16"`, element by element."""
    a, b = np.abs(a.astype(np.float64)), np.abs(b.astype(np.float64))
    k = a.shape[1]
    steps = 36 + k / 512
    flushed = a.max(1, keepdims=True) * b.sum(0, keepdims=True) + a.sum(1, keepdims=True) * b.max(
        0, keepdims=True
    )
    return (
        (2**-10 + 2**-21 + steps * 2**-24) * (a @ b) + 2**-27 * flushed + (1 + k / 512) * 2.0**-149
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 31, 7), (33, 1000, 40), (4, 5000, 36)])
@pytest.mark.parametrize("seed", range(3))
def test_float16_precision_stays_within_its_bound(family, shape, seed):
    rng = np.random.default_rng(seed)
    m, k, n = shape
    a = FAMILIES[family](rng, (m, k)).astype(np.float32)
    b = FAMILIES[family](rng, (k, n)).astype(np.float32)
    result = on_npu(a, b, precision="float16")
    assert result.dtype == np.float32
    error = np.abs(result.astype(np.float64) - a.astype(np.float64) @ b.astype(np.float64))
    assert (error <= float16_bound(a, b)).all()


@pytest.mark.parametrize("family", ["normal", "uniform", "tiny halves", "huge halves"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 31, 7), (33, 1000, 40), (4, 5000, 36)])
def test_float16_operands_are_summed_in_float32_and_rounded_once(family, shape):
    rng = np.random.default_rng(11)
    m, k, n = shape
    scale = {"tiny halves": (2.0**-22, 1.0), "huge halves": (2.0**14, 2.0**-14)}
    left, right = scale.get(family, (1.0, 1.0))
    a = (rng.uniform(0.25, 1.5, (m, k)) * left).astype(np.float16)
    b = (FAMILIES["uniform" if family == "uniform" else "normal"](rng, (k, n)) * right).astype(
        np.float16
    )
    result = on_npu(a, b)
    assert result.dtype == np.float16
    exact = a.astype(np.float64) @ b.astype(np.float64)
    size = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    bound = 2**-11 * np.abs(exact) + 2.0**-25 + (37 + k / 512) * 2**-24 * size
    assert (np.abs(result.astype(np.float64) - exact) <= bound).all()


def test_float64_is_computed_in_float32_where_that_is_allowed():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((20, 300)), rng.standard_normal((300, 17))
    with npublas.config_context(float64="float32"):
        result = on_npu(a, b, precision="float16")
    assert result.dtype == np.float64
    assert (np.abs(result - a @ b) <= float16_bound(a, b)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_nan_and_infinity_give_numpys_result_and_the_reason(dtype, bad, where):
    operands = [np.ones((40, 50), dtype), np.ones((50, 60), dtype)]
    operands[where][7, 9] = bad
    with np.errstate(invalid="ignore"):
        result = npublas.matmul(*operands, device="npu", precision="float16")
        np.testing.assert_array_equal(result, np.matmul(*operands))
    reasons = npublas.counters().reasons
    assert [row.text for row in reasons if row.fallbacks] == ["operands contain NaN or infinity"]


def test_a_sum_beyond_float32_gives_numpys_result_and_warning():
    a = np.full((4, 64), 3e38, np.float32)
    with pytest.warns(RuntimeWarning, match="overflow"):
        result = npublas.matmul(a, a.T.copy(), device="npu", precision="float16")
    assert np.isinf(result).all()
    assert npublas.counters().reasons[0].text == "a sum left the range of float32"


def test_a_float16_result_beyond_its_range_is_infinite_with_numpys_warning():
    a = np.full((4, 64), 250, np.float16)
    with pytest.warns(RuntimeWarning, match="overflow encountered in matmul"):
        result = on_npu(a, a.T.copy())
    assert np.isinf(result).all() and (result > 0).all()
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        on_npu(a, a.T.copy())


def test_a_float16_result_below_its_range_is_numpys_with_numpys_warning():
    a = np.full((4, 32), 2.0**-14, np.float16)
    small = np.full((32, 4), 2.0**-22, np.float16)
    for b in (a.T.copy(), small):
        np.testing.assert_array_equal(on_npu(a, b), np.matmul(a, b))
    with np.errstate(under="raise"):
        on_npu(a, a.T.copy())  # 2^-23, a subnormal half, exactly
        for multiply in (on_npu, np.matmul):
            with pytest.raises(FloatingPointError, match="underflow"):
                multiply(a, small)  # 2^-31, nothing that a half can be


def test_results_that_are_really_zero_are_believed():
    a, b = np.zeros((8, 64), np.int8), np.zeros((64, 40), np.int8)
    a[:, :32], b[32:] = 3, 5
    assert not on_npu(a, b).any()
    assert not on_npu(a.astype(np.float16), b.astype(np.float16)).any()


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_stacks_are_broadcast_as_numpys(dtype):
    rng = np.random.default_rng(2)
    a = rng.integers(-9, 9, (3, 1, 20, 40)).astype(dtype)
    b = rng.integers(-9, 9, (5, 40, 33)).astype(dtype)
    result = on_npu(a, b, precision="float16")
    np.testing.assert_array_equal(result, np.matmul(a, b))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "float32"])
def test_results_go_into_any_memory(dtype):
    rng = np.random.default_rng(2)
    a = rng.integers(0, 9, (20, 40)).astype(dtype)
    b = rng.integers(0, 9, (40, 33)).astype(dtype)
    expected = np.matmul(a, b)
    for kind in ("plain", "fortran", "reversed", "sliced"):
        out = views(np.full((20, 33), 77, dtype), kind)
        result = on_npu(a, b, out=out, precision="float16")
        assert result is out
        np.testing.assert_array_equal(out, expected)
    square = rng.integers(0, 9, (40, 40)).astype(dtype)
    expected = np.matmul(square, square)
    on_npu(square, square, out=square, precision="float16")
    np.testing.assert_array_equal(square, expected)


@pytest.mark.parametrize("shape", [((40,), (40, 7)), ((7, 40), (40,)), ((40,), (40,))])
def test_vectors_are_promoted_as_numpys(shape):
    rng = np.random.default_rng(4)
    a, b = (integers(rng, side, np.int8) for side in shape)
    result = on_npu(a, b)
    np.testing.assert_array_equal(result, np.matmul(a, b))
    assert type(result) is type(np.matmul(a, b))


@pytest.mark.parametrize("shape", [(0, 5, 3), (3, 5, 0), (3, 0, 4), (0, 0, 0)])
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_empty_products_are_numpys_and_no_fallback(shape, dtype):
    m, k, n = shape
    result = on_npu(np.ones((m, k), dtype), np.ones((k, n), dtype))
    np.testing.assert_array_equal(result, np.zeros((m, n), dtype))

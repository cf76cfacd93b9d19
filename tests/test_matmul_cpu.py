"""The CPU path: what NumPy computes, bit for bit, and int8, uint8 and float16 at BLAS speed.

float16 alone may differ, by the order in which its float32 sums are added. `float16_bound` is what
docs/matmul.md promises.
"""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npublas

# Sizes around the blocks of csrc/numpy/cpu.cpp: 512 rows, 512 columns, 1024 of depth.
BLOCK, DEPTH = 512, 1024
EXAMPLES = settings(max_examples=150, deadline=None)


@pytest.fixture(autouse=True)
def _on_cpu():
    npublas.set_config(device="cpu")


def integers(rng, shape, dtype):
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def values(rng, shape, dtype):
    """Random values over the whole range of an integer type, near 1 for the others."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        return integers(rng, shape, dtype.type)
    if dtype.kind == "b":
        return rng.random(shape) < 0.1
    if dtype.kind == "O":
        return rng.integers(-9, 9, shape).astype(object)
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape) if dtype.kind == "c" else real).astype(dtype)


@st.composite
def views(draw, matrix):
    """The same values behind other strides."""
    kind = draw(st.sampled_from(["plain", "fortran", "reversed", "sliced", "unaligned"]))
    if kind == "fortran":
        return np.swapaxes(np.swapaxes(matrix, -1, -2).copy(), -1, -2)
    if kind == "reversed":
        return matrix[..., ::-1, ::-1].copy()[..., ::-1, ::-1]
    if kind == "sliced":
        *stack, rows, columns = matrix.shape
        wide = np.zeros((*stack, rows * 2, columns * 3), matrix.dtype)
        wide[..., ::2, ::3] = matrix
        return wide[..., ::2, ::3]
    if kind == "unaligned" and matrix.dtype.kind != "O":
        raw = np.empty(matrix.nbytes + 1, np.uint8)[1:]
        view = raw.view(matrix.dtype).reshape(matrix.shape)
        view[...] = matrix
        return view
    return matrix


@st.composite
def operands(draw, dtypes):
    """Two operands that fit, with any strides, as stacks that are broadcast, or as vectors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = st.integers(0, 40)
    m, k, n = draw(size), draw(size), draw(size)
    stacks = draw(st.sampled_from([((), ()), ((2,), ()), ((), (3,)), ((2, 1), (3,)), ((2,), (2,))]))
    dtype = draw(st.sampled_from(dtypes))
    a = draw(views(values(rng, (*stacks[0], m, k), dtype)))
    b = draw(views(values(rng, (*stacks[1], k, n), dtype)))
    if m and n and draw(st.booleans()):
        a = a[(0,) * (a.ndim - 1)] if draw(st.booleans()) else a
        b = b[(0,) * (b.ndim - 2)][:, 0] if draw(st.booleans()) else b
    return a, b


def quietly(matmul, a, b):
    with np.errstate(all="ignore"):
        return matmul(a, b)


# --- Bit for bit ----------------------------------------------------------------------------------


@given(operands(list("?bBhHiIlLqQfdgFDGO")))
@EXAMPLES
def test_any_operands_give_numpys_bits(pair):
    expected, result = quietly(np.matmul, *pair), quietly(npublas.matmul, *pair)
    assert type(result) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (result.dtype, result.strides) == (expected.dtype, expected.strides)
    if np.asarray(expected).dtype.char in "OgG":  # pointers, and padding
        assert np.array_equal(result, expected)
    else:
        assert np.asarray(result).tobytes() == np.asarray(expected).tobytes()


SIZES = st.sampled_from([1, 2, 17, BLOCK - 1, BLOCK, BLOCK + 1])
DEPTHS = st.sampled_from([1, 30, DEPTH - 1, DEPTH, DEPTH + 1, 1040, 2 * DEPTH + 1])


@given(SIZES, DEPTHS, SIZES, st.sampled_from(["b", "B"]), st.data())
@settings(max_examples=25, deadline=None)
def test_integers_on_both_sides_of_a_block_are_numpys(m, k, n, dtype, data):
    rng = np.random.default_rng(m * k * n)
    a = data.draw(views(values(rng, (m, k), dtype)))
    b = data.draw(views(values(rng, (k, n), dtype)))
    # int64 is exact, and its last 8 bits are the result; NumPy's own int8 loop would take minutes.
    exact = np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
    result = npublas.matmul(a, b)
    np.testing.assert_array_equal(result, exact.astype(dtype), strict=True)
    if dtype == "b":
        sums = npublas.matmul(a, b, dtype=np.int32)
        np.testing.assert_array_equal(sums, exact.astype(np.int32), strict=True)


@pytest.mark.parametrize("k", [DEPTH, DEPTH + 1, 1040, 2049, 140_000])
@pytest.mark.parametrize("value", [-128, 127])
def test_the_largest_sums_are_exact(k, value):
    # 140,000 products of -128 * -128 leave int32, where NumPy wraps.
    a, b = np.full((5, k), value, np.int8), np.full((k, 3), -128, np.int8)
    b[-1] = 1  # an odd sum near 2^24, which float32 can't hold beyond it
    exact = np.full((5, 3), value * -128 * (k - 1) + value)
    np.testing.assert_array_equal(npublas.matmul(a, b, dtype=np.int32), exact.astype(np.int32))
    np.testing.assert_array_equal(npublas.matmul(a, b), exact.astype(np.int8))
    unsigned = npublas.matmul(a.view(np.uint8), b.view(np.uint8))
    np.testing.assert_array_equal(unsigned, exact.astype(np.uint8))


@given(operands(["b"]))
@EXAMPLES
def test_int8_in_int32_is_exact_for_any_operands(pair):
    a, b = pair
    expected = np.matmul(a, b, dtype=np.int32)
    result = npublas.matmul(a, b, dtype=np.int32)
    assert type(result) is type(expected)
    np.testing.assert_array_equal(result, expected, strict=True)


# --- float16 --------------------------------------------------------------------------------------


def float16_bound(a, b):
    """docs/matmul.md: K sums in float32, in whatever order, and one rounding to float16."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    sums = a.shape[-1] * 2.0**-24 * np.matmul(abs(a), abs(b))
    return sums + 2.0**-11 * (abs(np.matmul(a, b)) + sums) + 2.0**-25


@given(operands(["e"]))
@EXAMPLES
def test_float16_is_within_its_bound(pair):
    a, b = pair
    exact = np.matmul(a.astype(np.float64), b.astype(np.float64))
    for matmul in (np.matmul, npublas.matmul):  # NumPy's own loop keeps to it as well
        result = quietly(matmul, a, b)
        assert np.asarray(result).dtype == np.float16
        assert (abs(result - exact) <= float16_bound(a, b)).all()


@pytest.mark.parametrize("shape", [(40, DEPTH + 1, 50), (BLOCK + 1, 64, 40), (1, 5000, 300)])
def test_float16_is_within_its_bound_across_blocks(shape):
    m, k, n = shape
    rng = np.random.default_rng(k)
    a = rng.standard_normal((m, k)).astype(np.float16)
    b = rng.standard_normal((k, n)).astype(np.float16)
    exact = np.matmul(a.astype(np.float64), b.astype(np.float64))
    assert (abs(npublas.matmul(a, b) - exact) <= float16_bound(a, b)).all()


def messages(matmul, a, b):
    """The result, and the floating-point conditions that NumPy reports of it."""
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="warn"):
        warnings.simplefilter("always")
        result = matmul(a, b)
    return result, sorted(str(warning.message) for warning in caught)


def assert_same_with_flags(a, b):
    expected, conditions = messages(np.matmul, a, b)
    result, ours = messages(npublas.matmul, a, b)
    np.testing.assert_array_equal(result, expected, strict=True)
    assert ours == conditions
    return conditions


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 40), st.integers(0, 2**32))
@EXAMPLES
def test_float16_sums_that_are_exact_in_float32_are_numpys_bits_and_flags(m, k, n, seed):
    # Whole numbers times a power of two per operand: results from subnormal to infinite.
    rng = np.random.default_rng(seed)
    scales = 2.0 ** rng.integers(-14, 12, 2)
    a = (rng.integers(-15, 16, (m, k)) * scales[0]).astype(np.float16)
    b = (rng.integers(-15, 16, (k, n)) * scales[1]).astype(np.float16)
    assert_same_with_flags(a, b)


@pytest.mark.parametrize("size", [2, 40])  # NumPy's own loop, and blocks
@pytest.mark.parametrize(
    ("left", "right", "conditions"),
    [
        (255.9, 256, []),  # sums to 65,504 at most
        (256, 256, ["overflow encountered in matmul"]),
        (-256, 256, ["overflow encountered in matmul"]),
        (np.inf, 1, []),
        (-np.inf, 2, []),
        (np.inf, 0, ["invalid value encountered in matmul"]),
        (np.nan, 1, []),
        (2.0**-14, 2.0**-10, []),  # a subnormal that is exact
        (1.5 * 2.0**-14, 1.25 * 2.0**-10, ["underflow encountered in matmul"]),
        (2.0**-24, 2.0**-24, ["underflow encountered in matmul"]),
    ],
)
def test_float16_ends_with_numpys_flags(size, left, right, conditions):
    a, b = np.zeros((size, size), np.float16), np.zeros((size, size), np.float16)
    a[1, 0], b[0, 1] = left, right
    if right == 0 or not np.isfinite(left):
        b[0, :] = right  # infinity times zero is invalid, so there is none but what was asked for
    assert assert_same_with_flags(a, b) == conditions


@pytest.mark.parametrize("size", [3, 40])
def test_float16_infinities_that_cancel_are_invalid(size):
    a, b = np.ones((size, size), np.float16), np.ones((size, size), np.float16)
    a[0, :2] = np.inf, -np.inf
    assert assert_same_with_flags(a, b) == ["invalid value encountered in matmul"]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_integers_raise_no_flags_however_large_their_sums(dtype):
    limits = np.iinfo(dtype)
    a = np.full((64, 3000), limits.min or limits.max, dtype)
    with np.errstate(all="raise"):
        npublas.matmul(a, a.T)
        npublas.matmul(a.view(np.int8), a.view(np.int8).T, dtype=np.int32)


def test_float32_flags_are_numpys():
    a = np.full((20, 20), 3e38, np.float32)
    assert assert_same_with_flags(a, a) == ["overflow encountered in matmul"]


# --- Frugality ------------------------------------------------------------------------------------


def test_a_large_product_of_a_small_type_needs_little_memory():
    # As float32 the operands and the result would take 96 MiB.
    program = """
import resource
import numpy as np, npublas

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

rng = np.random.default_rng(0)
a = rng.integers(-128, 128, (4096, 1024), np.int8)
b = rng.integers(-128, 128, (1024, 4096), np.int8)
out = np.zeros((4096, 4096), np.int8)
warm = np.ones((512, 512), np.float32)
np.matmul(warm, warm)
before = peak()
npublas.matmul(a, b, out=out)
assert peak() - before < 24, peak() - before
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_a_fallback_where_the_cpu_was_asked_for():
    a = np.ones((64, 64), np.int8)
    with npublas.config_context(on_fallback="error"):
        npublas.matmul(a, a)
    assert npublas.counters().fallbacks == 0
    assert [row.text for row in npublas.counters().reasons] == ['device="cpu" was asked for']

"""Packing and unpacking against the layouts' formulas, written here a second time in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npublas import _core

SOURCES = {"int8": ["int8", "uint8"], "float16": ["float16", "float32", "float64"]}
CASES = [(element, dtype) for element, dtypes in SOURCES.items() for dtype in dtypes]


def surface_a(matrix, element):
    """[K/x, M, x] of a matrix whose sides are multiples already."""
    x = 16 if element == "int8" else 8
    m, k = matrix.shape
    return matrix.reshape(m, k // x, x).transpose(1, 0, 2).ravel()


def surface_b(matrix, element):
    """[N/y, K/z, y, z]."""
    y, z = (32 if element == "int8" else 16), 32
    k, n = matrix.shape
    return matrix.T.reshape(n // y, y, k // z, z).transpose(0, 2, 1, 3).ravel()


def surface_c(matrix):
    """[N/4, M, 4]."""
    m, n = matrix.shape
    return matrix.reshape(m, n // 4, 4).transpose(1, 0, 2).ravel()


def padded(matrix, rows, columns):
    out = np.zeros((rows, columns), matrix.dtype)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


def up(value, step):
    return -(-value // step) * step


def random_matrix(rng, shape, dtype):
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 256, shape).astype(np.uint8).view(np.uint8).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def views(matrix):
    """The same values in every kind of memory that a caller may have."""
    yield matrix
    yield np.asfortranarray(matrix)
    yield np.repeat(np.repeat(matrix, 2, 0), 3, 1)[::2, ::3]
    yield np.ascontiguousarray(matrix[::-1, ::-1])[::-1, ::-1]


def scaled(matrix, axis):
    """What packing makes of floats: float16 of lane × 2^e, with the lane's maximum at the top."""
    target = 15 if matrix.dtype == np.float16 else 14
    values = matrix.astype(np.float32).astype(np.float64)
    largest = np.abs(values).max(axis=axis, keepdims=True)
    _, exponent = np.frexp(np.where(largest > 0, largest, 1.0))
    shift = np.where(largest > 0, target - (exponent - 1), 0)
    return np.ldexp(values, shift).astype(np.float16), shift.ravel()


@pytest.mark.parametrize(("element", "dtype"), CASES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (3, 31), (4, 32), (5, 65), (17, 96), (33, 100)])
@pytest.mark.parametrize("is_a", [True, False])
def test_packing_follows_the_formula_from_any_view(element, dtype, shape, is_a):
    rng = np.random.default_rng(7)
    matrix = random_matrix(rng, shape if is_a else shape[::-1], dtype)
    lanes, depth = shape
    lane_step = 4 if is_a else 32
    surface_lanes, surface_depth = up(lanes, lane_step) + lane_step, up(depth, 32) + 32
    if element == "int8":
        expected, exponents = matrix.view(np.int8), np.zeros(lanes)
    else:
        expected, exponents = scaled(matrix, 1 if is_a else 0)
    whole = padded(
        expected, *((surface_lanes, surface_depth) if is_a else (surface_depth, surface_lanes))
    )
    expected_surface = (surface_a if is_a else surface_b)(whole, element)
    for view in views(matrix):
        surface, got, seen = _core.pack(
            view, element, is_a=is_a, surface_lanes=surface_lanes, surface_depth=surface_depth
        )
        np.testing.assert_array_equal(surface.view(expected_surface.dtype), expected_surface)
        np.testing.assert_array_equal(got[:lanes], exponents)
        assert seen["finite"] and seen["zero"] == (not matrix.any())


@given(st.integers(0, 2**16 - 1))
def test_float16_sources_are_scaled_exactly(bits):
    value = np.array([[bits]], np.uint16).view(np.float16)
    if not np.isfinite(value[0, 0]):
        return
    surface, exponents, _ = _core.pack(
        value, "float16", is_a=True, surface_lanes=1, surface_depth=32
    )
    packed = float(surface.view(np.float16)[0])
    assert np.ldexp(packed, -int(exponents[0])) == float(value[0, 0])


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1.2e-38, 1.0, 65504.0, 65536.0, 3.4028235e38])
def test_every_finite_float32_survives_scaling(value):
    matrix = np.array([[value, -value / 3]], np.float32)
    surface, exponents, seen = _core.pack(
        matrix, "float16", is_a=True, surface_lanes=1, surface_depth=32
    )
    packed = surface.view(np.float16)[:2].astype(np.float64)
    assert 2**14 <= packed[0] <= 2**15 and seen["finite"]
    back = np.ldexp(packed, -int(exponents[0]))
    np.testing.assert_allclose(back, matrix[0].astype(np.float64), rtol=2**-11)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [(0, 0), (2, 40), (19, 63)])
def test_nan_and_infinity_are_seen_wherever_they_are(dtype, bad, position):
    matrix = np.ones((20, 64), dtype)
    matrix[position] = bad
    for is_a in (True, False):
        _, _, seen = _core.pack(matrix, "float16", is_a=is_a, surface_lanes=64, surface_depth=64)
        assert not seen["finite"]


def test_a_float64_beyond_float32_is_not_finite():
    _, _, seen = _core.pack(
        np.array([[1e300]]), "float16", is_a=True, surface_lanes=1, surface_depth=32
    )
    assert not seen["finite"]


def test_float16_values_far_below_their_lane_are_reported_as_subnormal():
    def seen(*row):
        matrix = np.array([row], np.float16)
        return _core.pack(matrix, "float16", is_a=True, surface_lanes=1, surface_depth=32)[2]

    smallest = 2.0**-24
    assert not seen(smallest, 2 * smallest)["subnormal"]  # scaled up together, they are normal
    assert not seen(32768.0, 2.0**-14)["subnormal"]
    assert seen(32768.0, 2.0**-15)["subnormal"]
    assert seen(65504.0, smallest)["subnormal"]
    assert not seen(65504.0, 0.0)["subnormal"]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 4), (17, 33), (40, 30)])
def test_integers_are_unpacked_and_added_modulo_their_width(dtype, shape):
    rng = np.random.default_rng(3)
    rows, columns = shape
    surface_rows = up(rows, 4)
    sums = rng.integers(-(2**31), 2**31, (2, surface_rows, up(columns, 32))).astype(np.int32)
    expected = sums[:, :rows, :columns].astype(np.int64).sum(0).astype(dtype)
    exponents = {"row_exponents": np.zeros(rows, "i4"), "column_exponents": np.zeros(columns, "i4")}
    for target in views(np.zeros(shape, dtype)):
        for step, part in enumerate(sums):
            seen = _core.unpack_into(
                surface_c(part),
                "int8",
                surface_rows=surface_rows,
                accumulate=step > 0,
                target=target,
                **exponents,
            )
        np.testing.assert_array_equal(target, expected)
        assert seen == {"finite": True, "zero": False}


def test_unpacking_takes_the_scales_off_without_overflow():
    rng = np.random.default_rng(5)
    sums = rng.standard_normal((8, 32)).astype(np.float32) * np.float32(2**30)
    rows = rng.integers(-149, 164, 5).astype(np.int32)
    columns = -rows[rng.permutation(5)] + rng.integers(-8, 8, 5).astype(np.int32)
    target = np.empty((5, 5), np.float32)
    seen = _core.unpack_into(
        surface_c(sums), "float16", surface_rows=8, row_exponents=rows, column_exponents=columns,
        accumulate=False, target=target,
    )  # fmt: skip
    exact = np.ldexp(sums[:5, :5].astype(np.float64), -(rows[:, None] + columns))
    with np.errstate(over="ignore"):
        expected = exact.astype(np.float32)
    np.testing.assert_array_equal(target, expected)
    assert seen["finite"] == bool(np.isfinite(expected).all())


def test_a_sum_beyond_float32_is_reported():
    target = np.zeros((1, 1), np.float32)
    surface = np.zeros(32 * 4, np.float32)
    surface[0] = 2.0**30
    arguments = {
        "surface_rows": 4,
        "column_exponents": np.zeros(1, "i4"),
        "accumulate": False,
        "target": target,
    }
    fine = _core.unpack_into(surface, "float16", row_exponents=np.array([-97], "i4"), **arguments)
    assert fine["finite"] and target[0, 0] == 2.0**127
    over = _core.unpack_into(surface, "float16", row_exponents=np.array([-98], "i4"), **arguments)
    assert not over["finite"]


def test_a_surface_of_zeros_is_reported_as_such():
    target = np.ones((4, 4), np.int32)
    seen = _core.unpack_into(
        np.zeros(4 * 32, np.int32), "int8", surface_rows=4, row_exponents=np.zeros(4, "i4"),
        column_exponents=np.zeros(4, "i4"), accumulate=False, target=target,
    )  # fmt: skip
    assert seen["zero"] and not target.any()


@pytest.mark.parametrize("element", ["int8", "float16"])
def test_a_product_is_zero_only_if_it_is(element):
    dtype = np.int8 if element == "int8" else np.float16
    a, b = np.zeros((4, 64), dtype), np.zeros((64, 32), dtype)

    def is_zero():
        return _core.product_is_zero(
            surface_a(a, element), surface_b(b, element), element, rows=4, depth=64, columns=32
        )

    a[1, 3] = 1
    assert is_zero()  # B is zero
    b[4, :] = 1
    assert is_zero()  # they don't meet
    a[2, 4], a[2, 5], b[5, :] = 1, -1, 1
    assert is_zero()  # they cancel
    b[5, 31] = 2
    assert not is_zero()

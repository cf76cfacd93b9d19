"""The simulator's float16 sums, bit for bit, against integers and fractions that know no rounding.

The chip sums the products of each aligned 32 depths exactly, rounds once to float32, and adds these
sums in order in float32.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import vendor
from hypothesis import given, settings
from hypothesis import strategies as st
from vendor import Matmul

from npublas.testing import simulator

F16 = vendor.FLOAT16_TO_FLOAT32
GROUP = 32


@pytest.fixture(scope="module")
def lib():
    return vendor.load(str(simulator.path()))


@pytest.fixture(autouse=True, params=["baseline", "best"])
def _isa(request):
    with simulator.settings(isa=request.param):
        yield


def multiply(lib, a, b, kind=F16):
    m, k = a.shape
    with Matmul(lib, m, k, b.shape[1], kind, vendor.NATIVE, vendor.NORMAL) as matmul:
        return matmul(a, b)


def round_to_float32(value: Fraction) -> np.float32:
    """To the nearest, ties to even; nothing here is near the ends of float32's range."""
    if value == 0:
        return np.float32(0)
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length() - 24
    # One of two neighbouring exponents gives 24 bits.
    for step in (Fraction(2) ** e for e in (exponent - 1, exponent, exponent + 1)):
        if magnitude / step < 2**24:
            units = round(magnitude / step)  # Python rounds ties to even
            return np.float32(float(units * step) * (1 if value > 0 else -1))
    raise AssertionError("unreachable")


def as_the_chip_does(a, b):
    m, k = a.shape
    result = np.zeros((m, b.shape[1]), np.float32)
    left = [[Fraction(float(x)) for x in row] for row in a]
    right = [[Fraction(float(x)) for x in column] for column in b.T]
    for i, row in enumerate(left):
        for j, column in enumerate(right):
            for g in range(0, k, GROUP):
                pairs = zip(row[g : g + GROUP], column[g : g + GROUP], strict=True)
                exact = sum((x * y for x, y in pairs), Fraction(0))
                result[i, j] = np.float32(result[i, j] + round_to_float32(exact))
    return result


def check(lib, a, b):
    got = multiply(lib, a, b)
    np.testing.assert_array_equal(got.view(np.uint32), as_the_chip_does(a, b).view(np.uint32))


def test_the_oracle_rounds_as_float32_does():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(2000) * 2.0 ** rng.integers(-40, 40, 2000)
    for value in [*values, 1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**24 + 1, -(2.0**-48)]:
        assert round_to_float32(Fraction(float(value))) == np.float32(value)


def spread(rng, shape, low, high):
    """Halves of all magnitudes from 2^low to 2^high, some of them zero."""
    values = rng.uniform(1, 2, shape) * 2.0 ** rng.integers(low, high + 1, shape)
    values *= rng.choice([-1, 1, 0], shape, p=[0.45, 0.45, 0.1])
    return values.astype(np.float16)


# Narrow: in doubles. The widest: every group needs the integers. Between them both occur.
@pytest.mark.parametrize(("low", "high"), [(0, 0), (-4, 3), (-9, 4), (-14, 0), (-16, 4), (-24, 14)])
def test_sums_are_exact_within_a_group_and_rounded_between_groups(lib, low, high):
    rng = np.random.default_rng(high - low)
    check(lib, spread(rng, (3, 160), low, high), spread(rng, (160, 16), low, high))


def test_one_wide_column_beside_narrow_ones(lib):
    rng = np.random.default_rng(5)
    a, b = spread(rng, (5, 96), -8, 4), spread(rng, (96, 32), -2, 2)
    b[:, 7] = spread(rng, 96, -24, 14)
    a[2, 32:64] = spread(rng, 32, -24, 14)
    check(lib, a, b)


@pytest.mark.parametrize("places", [(0, 1, 2), (0, 31, 1), (5, 17, 30)])
def test_the_smallest_product_survives_the_largest_that_cancel(lib, places):
    """2^-48 + 65504^2 - 65504^2: 80 binades apart."""
    a, b = np.zeros((1, 32), np.float16), np.zeros((32, 16), np.float16)
    small, large, opposite = places
    a[0, [small, large, opposite]] = 2.0**-24, 65504, 65504
    b[[small, large, opposite], 3] = 2.0**-24, 65504, -65504
    result = multiply(lib, a, b)
    assert result[0, 3] == np.float32(2.0**-48)
    assert not np.delete(result, 3).any()


@pytest.mark.parametrize("a_gap", [0, 13, 14, 25])
def test_the_last_bits_survive_at_every_distance(lib, a_gap):
    """Large products that cancel around a small one whose last bit is set: at some distance a sum
    in double begins to lose it, and there the integers must have taken over."""
    for b_gap in range(26):
        a, b = np.zeros((1, 32), np.float16), np.zeros((32, 16), np.float16)
        a[0, [0, 1, 2]] = 2047 * 2.0**4, 1025 * 2.0 ** (4 - a_gap), 2047 * 2.0**4
        b[[0, 1, 2], 0] = 2047 * 2.0**4, 1027 * 2.0 ** (4 - b_gap), -2047 * 2.0**4
        small = float(a[0, 1]) * float(b[1, 0])
        assert multiply(lib, a, b)[0, 0] == small, (a_gap, b_gap)


def test_between_groups_it_is_float32_in_the_order_of_the_depth(lib):
    a, b = np.zeros((1, 96), np.float16), np.zeros((96, 16), np.float16)
    a[0, [0, 32, 64]] = 65504, 2.0**-24, 65504
    b[[0, 32, 64], 0] = 65504, 2.0**-24, -65504
    assert multiply(lib, a, b)[0, 0] == 0  # lost in the second addition
    a[0, [0, 32, 64]] = 65504, 65504, 2.0**-24
    b[[0, 32, 64], 0] = 65504, -65504, 2.0**-24
    assert multiply(lib, a, b)[0, 0] == np.float32(2.0**-48)


def test_ties_go_to_even_and_a_trace_below_breaks_them(lib):
    def sum_of(*terms):
        a, b = np.zeros((1, 32), np.float16), np.zeros((32, 16), np.float16)
        a[0, : len(terms)] = [x for x, _ in terms]
        b[: len(terms), 0] = [y for _, y in terms]
        return float(multiply(lib, a, b)[0, 0])

    one, half_a_unit, trace = (1, 1), (2.0**-12, 2.0**-12), (2.0**-24, 2.0**-24)
    unit = 2.0**-23
    assert sum_of(one, half_a_unit) == 1
    assert sum_of(one, (2.0**-12, 2.0**-11), half_a_unit) == 1 + 2 * unit
    assert sum_of(one, half_a_unit, trace) == 1 + unit
    assert sum_of(one, half_a_unit, (-(2.0**-24), 2.0**-24)) == 1
    assert sum_of((-1, 1), (-(2.0**-12), 2.0**-12), (-(2.0**-24), 2.0**-24)) == -1 - unit


halves = st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7C00 != 0x7C00)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_finite_bits(lib, data):
    bits = data.draw(st.lists(halves, min_size=2 * 64, max_size=2 * 64))
    values = np.array(bits, np.uint16).view(np.float16)
    b = np.zeros((64, 16), np.float16)
    b[:, 9] = values[64:]
    check(lib, values[:64].reshape(1, 64), b)


def test_subnormals_are_kept_or_flushed(lib):
    a, b = np.zeros((1, 32), np.float16), np.zeros((32, 16), np.float16)
    a[0, :3], b[:3, 0] = (2.0**-15, 2.0**-14, -(2.0**-24)), 1
    assert multiply(lib, a, b)[0, 0] == np.float32(2.0**-15 + 2.0**-14 - 2.0**-24)
    with simulator.settings(flush_subnormals=1):
        assert multiply(lib, a, b)[0, 0] == np.float32(2.0**-14)
        assert multiply(lib, np.abs(b.T[:1]), np.repeat(a.T, 16, 1))[0, 0] == np.float32(2.0**-14)


@pytest.mark.parametrize("wide", [False, True])
def test_nan_and_infinity_are_what_ieee_says(lib, wide):
    a, b = np.zeros((5, 64), np.float16), np.zeros((64, 16), np.float16)
    b[:2] = 1
    a[0, 0] = np.inf
    a[1, :2] = np.inf, -np.inf
    a[2, 2] = np.inf  # times zero
    a[3, 40] = np.nan
    a[4, :2] = -np.inf, 1
    if wide:  # the same where integers do the sums
        a[:, 10:12] = 65504, 2.0**-24
        b[10:12] = np.array([[65504], [2.0**-24]])
    result = multiply(lib, a, b)[:, 0]
    assert result[0] == np.inf and result[4] == -np.inf
    assert np.isnan(result[1:4]).all()


def test_half_results_are_rounded_once_more(lib):
    rng = np.random.default_rng(2)
    a, b = spread(rng, (4, 96), -12, 2), spread(rng, (96, 32), -12, 3)
    a[0], b[:, 0] = 100, 100  # beyond the range of a half
    a[1], b[:, 1] = 2.0**-12, 2.0**-14  # a subnormal half
    with np.errstate(over="ignore"):
        result = multiply(lib, a, b, vendor.FLOAT16_TO_FLOAT16)
        np.testing.assert_array_equal(result, multiply(lib, a, b).astype(np.float16))
    assert result[0, 0] == np.inf and 0 < result[1, 1] < 2.0**-14


def test_every_half_comes_and_goes_unchanged(lib):
    every = np.arange(0x10000, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    a = np.zeros((every.size, 32), np.float16)
    a[:, 0] = every
    b = np.zeros((32, 32), np.float16)
    b[0] = 1
    np.testing.assert_array_equal(multiply(lib, a, b)[:, 0], every.astype(np.float32))
    np.testing.assert_array_equal(multiply(lib, a, b, vendor.FLOAT16_TO_FLOAT16)[:, 5], every)


def test_float32_sums_become_halves_as_numpy_rounds_them(lib):
    """Sums of two halves around every boundary between halves."""
    rng = np.random.default_rng(3)
    a = np.zeros((4000, 32), np.float16)
    a[:, 0] = rng.integers(0, 0x7C00, 4000).astype(np.uint16).view(np.float16)
    a[:, 1] = np.spacing(a[:, 0]) / np.float16(2)
    a[:, 2] = rng.choice([-(2.0**-24), 0, 2.0**-24], 4000)
    b = np.zeros((32, 32), np.float16)
    b[:3] = 1
    with np.errstate(over="ignore"):
        wanted = multiply(lib, a, b).astype(np.float16)
    np.testing.assert_array_equal(multiply(lib, a, b, vendor.FLOAT16_TO_FLOAT16), wanted)


@pytest.mark.parametrize("overflow", ["saturate", "trap"])
def test_int4_sums_at_the_end_of_int16(lib, overflow):
    k, n = 544, 64
    a, b = np.full((1, k), -8, np.int8), np.zeros((k, n), np.int8)
    b[:, 0], b[:511, 1], b[:, 2], b[:512, 3] = -8, -8, 7, -8
    with (
        simulator.settings(int4_overflow=overflow),
        Matmul(lib, 1, k, n, vendor.INT4_TO_INT16, vendor.NATIVE) as matmul,
    ):
        if overflow == "saturate":
            result = matmul(a, b)[0]
            assert list(result[:5]) == [32767, 511 * 64, -544 * 56, 32767, 0]
        else:
            with pytest.raises(OSError, match="run"):
                matmul(a, b)
            assert "int16" in simulator.last_violation()
            b[:, [0, 3]] = 0
            assert list(matmul(a, b)[0, :3]) == [0, 511 * 64, -544 * 56]

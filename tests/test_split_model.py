"""The algorithm of `precision="float32"`, in NumPy alone: what docs/precision.md says about it.

test_float32.py holds the NPU's results against the same model.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import vendor
from families import ALL, ORDINARY, errors
from hypothesis import given, settings
from hypothesis import strategies as st
from split_model import (
    DEEPEST,
    GROUP,
    SMALLEST,
    TOO_WIDE,
    U,
    bound,
    certain_size,
    device_product,
    exact_product,
    losses,
    magnitudes,
    multiply,
    normal_halves,
    pack,
    tiles,
)

from npublas.testing import simulator

SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=60, deadline=None)
DEPTHS = (1, 7, 31, 32, 33, 256, 1024, 1025, 4096, 20_000)


def exact(a, b):
    return a.astype(np.float64) @ b.astype(np.float64)


def side(k):
    return 12 if k > 5000 else 24


def lanes(seed, count, k):
    """Rows in which magnitudes, zeros and last bits are as unpleasant as possible."""
    rng = np.random.default_rng(seed)
    rows = [lane(rng, k) for _ in range(count)]
    return np.array(rows).astype(np.float32).reshape(count, k)


def lane(rng, k):
    steps = [0, -12, -13, -14, -17, -18, -25, -26, -27, -28, -29, -30, -40, -41, -42]
    shifts = {
        "anything": lambda: rng.integers(-45, 1, k),
        "a few large": lambda: np.where(rng.random(k) < 0.05, 0, rng.integers(-40, 0)),
        "level": lambda: np.full(k, rng.integers(-3, 1)),
        "falling": lambda: np.linspace(0, -rng.integers(1, 60), k).round(),
        "rising": lambda: np.linspace(-rng.integers(1, 60), 0, k).round(),
        "two levels": lambda: rng.choice([0, rng.integers(-50, 0)], k),
        "at the limits": lambda: rng.choice(steps, k),
    }
    values = rng.uniform(1, 2, k)
    if rng.random() < 0.3:  # halves, and what lies close to them
        near = [0, 2.0**-23, 3 * 2.0**-23, -3 * 2.0**-23, 2.0**-12]
        values = np.round(values * 2**10) / 2**10 + rng.choice(near, k)
    values *= 2.0 ** shifts[rng.choice(list(shifts))]()
    values *= rng.choice([-1, 1], k) ** rng.integers(0, 2)
    return np.where(rng.random(k) < rng.choice([0, 0, 0.1, 0.5, 0.9]), 0, values)


def operands(seed, m, k, n):
    """Such rows and columns, often with the large elements of one side against small ones."""
    rng = np.random.default_rng(seed)
    a, b = lanes([seed, 1], m, k), lanes([seed, 2], n, k).T.copy()
    if rng.random() < 0.5:
        left = rng.random(k) < 0.5
        a[:, left] *= np.float32(2.0 ** -rng.integers(0, 45))
        b[~left] *= np.float32(2.0 ** -rng.integers(0, 45))
    if rng.random() < 0.3:
        b[np.abs(a).max(axis=0) >= 0.9 * np.abs(a).max()] = 0
    return a, b


# How the NPU sums


def round_to_float32(value: Fraction) -> np.float32:
    """To the nearest, ties to even; of a number in float32's normal range."""
    near = np.float32(float(value))
    candidates = [
        np.nextafter(near, np.float32(-np.inf)),
        near,
        np.nextafter(near, np.float32(np.inf)),
    ]
    even = [c.view(np.uint32) % 2 for c in candidates]
    distance = [(abs(Fraction(float(c)) - value), e) for c, e in zip(candidates, even, strict=True)]
    return candidates[distance.index(min(distance))]


@given(SEEDS, st.integers(0, 29))
@FAST
def test_a_group_is_summed_exactly_and_rounded_once(seed, spread):
    rng = np.random.default_rng(seed)
    shifts = rng.integers(14 - spread, 15, (2, GROUP))
    a, b = (normal_halves(rng.uniform(-2, 2, GROUP) * 2.0**s) for s in shifts)
    if seed % 2:  # large products that take each other away
        a[1::2], b[1::2] = a[::2], -b[::2]
        a[5] = normal_halves(a[5] * 2.0**-spread)
    total = sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0))
    assert exact_product(a[None], b[None])[0, 0] == round_to_float32(total)


@pytest.mark.parametrize("trace", [-1, 0, 1])
def test_a_trace_below_doubles_breaks_a_tie(trace):
    a, b = np.zeros((2, 1, 4))
    a[0, :3] = 2.0**15, 2.0**3, 2.0**-14
    b[0, :3] = 2.0**15, 2.0**3, trace * 2.0**-14
    assert exact_product(a, b)[0, 0] == 2**30 + (2**7 if trace > 0 else 0)


@pytest.mark.parametrize("spread", [1, 9, 29])
def test_the_model_sums_as_the_simulator_does(spread):
    rng = np.random.default_rng(spread)
    a, b = (
        normal_halves(rng.uniform(-2, 2, (8, 320)) * 2.0 ** rng.integers(15 - spread, 15, (8, 320)))
        for _ in "ab"
    )
    b = np.vstack([b] * 4)
    lib = vendor.load(str(simulator.path()))
    kinds = vendor.FLOAT16_TO_FLOAT32, vendor.NATIVE, vendor.NORMAL
    with vendor.Matmul(lib, 8, 320, 32, *kinds) as matmul:
        result = matmul(a.astype(np.float16), b.T.astype(np.float16))
    np.testing.assert_array_equal(result, device_product(a, b))


@given(st.integers(1, 40_000))
@FAST
def test_tiles_are_of_one_depth_in_whole_groups_and_cover_k(k):
    parts = tiles(k)
    depths = [part.stop - part.start for part in parts]
    assert parts[0].start == 0 and parts[-1].stop == k
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert set(depths[:-1]) <= {depths[0]} and depths[-1] <= depths[0] <= DEEPEST
    assert depths[0] % GROUP == 0 or len(parts) == 1
    assert len(parts) <= -(-k // DEEPEST)


# What the halves keep of an element


@given(SEEDS, st.integers(1, 70))
@FAST
def test_halves_are_normal_and_fit_float16(seed, k):
    packed = pack(lanes(seed, 9, k))
    for part in (packed.high, packed.low):
        np.testing.assert_array_equal(part, part.astype(np.float16))
        assert (np.abs(part[part != 0]) >= SMALLEST).all()
        assert (np.abs(part) <= 2.0**15).all()
    assert ((packed.top == 0) | ((packed.top >= 2.0**14) & (packed.top < 2.0**15))).all()


@given(SEEDS, st.integers(1, 70))
@FAST
def test_an_element_is_kept_to_2_23_of_it_but_for_its_loss(seed, k):
    source = lanes(seed, 9, k)
    packed = pack(source)
    x = np.ldexp(source.astype(np.float64), packed.exponents[:, None])
    off = np.abs(x - packed.high - packed.low * 2.0**-12)
    loss = losses(x, packed.high, packed.low)
    assert (off <= 2.0**-23 * np.abs(x) + loss).all()
    assert (loss < 2.0**-24).all()
    assert (loss[np.abs(x) >= 2.0**-3] == 0).all(), "a float32 has no bits there to be lost"
    assert (loss[packed.high != 0] < 2.0**-26).all()


@given(SEEDS, st.integers(1, 40))
@FAST
def test_what_the_halves_lose_of_the_product_is_bounded_by_the_noted_sums(seed, k):
    a, b = operands(seed, 9, k, 7)
    left, right = pack(a), pack(b.T)
    x = np.ldexp(a.astype(np.float64), left.exponents[:, None])
    y = np.ldexp(b.T.astype(np.float64), right.exponents[:, None])
    kept = (
        left.high[:, None] * right.high
        + (left.high[:, None] * right.low + left.low[:, None] * right.high) * 2.0**-12
    )
    off = np.abs((x[:, None] * y - kept).sum(axis=-1))
    from_all_elements = 8.01 * U * np.abs(x) @ np.abs(y).T
    noted = np.minimum(np.outer(left.largest, right.size), np.outer(left.total, right.top))
    noted += np.minimum(np.outer(left.size, right.largest), np.outer(left.top, right.total))
    assert (off <= from_all_elements + (1 + 2.0**-7) * noted).all()
    assert (certain_size(left, right, k) <= np.abs(x) @ np.abs(y).T).all()


# The result


@given(SEEDS, st.sampled_from([1, 2, 5, 17, 32, 64, 200, 1030]))
@settings(max_examples=150, deadline=None)
def test_every_element_is_within_the_bound_or_refused(seed, k):
    a, b = operands(seed, 12, k, 12)
    product = multiply(a, b)
    error = np.abs(product.values - exact(a, b))
    assert (error <= bound(a, b)).all()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("family", ALL)
def test_errors_are_those_of_sgemm_or_the_product_is_refused(family, k, seed):
    rng = np.random.default_rng([seed, k])
    a, b = ALL[family](rng, side(k), k, side(k))
    product = multiply(a, b)
    if product.refused:
        assert family not in ORDINARY, product.repaired.mean()
        return
    assert (np.abs(product.values - exact(a, b)) <= bound(a, b)).all()
    by_element, whole = errors(product.values, a, b)
    if k < 32:
        assert by_element <= 10
    else:
        numpys_by_element, numpys_whole = errors(np.matmul(a, b), a, b)
        assert by_element <= max(10, 4 * numpys_by_element)
        assert whole <= max(4, 3 * numpys_whole)


@pytest.mark.parametrize("family", ["normal", "uniform, 0 to 1", "log-normal, σ = 3", "wide"])
@pytest.mark.parametrize("k", [33, 1025])
def test_it_does_not_matter_what_the_device_does_with_subnormal_halves(family, k):
    if family == "wide":
        a, b = operands(k, 9, k, 9)
    else:
        a, b = ALL[family](np.random.default_rng(k), 9, k, 9)
    kept, flushed = multiply(a, b), multiply(a, b, flush=True)
    np.testing.assert_array_equal(kept.values, flushed.values)
    np.testing.assert_array_equal(kept.repaired, flushed.repaired)


@pytest.mark.parametrize("family", ["normal", "log-normal, σ = 3, both signs"])
def test_an_element_depends_on_its_row_and_its_column_alone(family):
    a, b = ALL[family](np.random.default_rng(5), 20, 1500, 20)
    whole, part = multiply(a, b), multiply(a[7:9].copy(), b[:, 3:11].copy())
    np.testing.assert_array_equal(part.values, whole.values[7:9, 3:11])
    np.testing.assert_array_equal(part.repaired, whole.repaired[7:9, 3:11])


@pytest.mark.parametrize(
    ("family", "products"),
    [
        ("integers to ±1000", 1),
        ("exact in float16", 1),
        ("exact in bfloat16", 1),
        ("float16 weights", 2),
        ("normal", 3),
    ],
)
def test_parts_that_are_all_zero_need_no_product(family, products):
    a, b = ALL[family](np.random.default_rng(5), 8, 300, 8)
    assert multiply(a, b).products == products
    left, right = pack(a), pack(b.T)
    for one, other in ((left.low, right.high), (left.high, right.low)):
        assert device_product(one, other).any() == (one.any() and other.any())


def device_only(a, b):
    """The result of one tile if nothing were repaired."""
    left, right = pack(a), pack(b.T)
    main, low = left.high @ right.high.T, left.high @ right.low.T + left.low @ right.high.T
    return np.ldexp(main + low * 2.0**-12, -(left.exponents[:, None] + right.exponents))


# Inputs that an incomplete criterion would accept


@pytest.mark.parametrize("low", [-20, -28, -30, -33, -36, -39, -41, -60])
@pytest.mark.parametrize("both_sides", [False, True])
def test_a_large_element_that_meets_a_zero_does_not_hide_what_is_lost(low, both_sides):
    """Below 2^-14 of the scaled range there is no high half: eleven bits are kept, and the product
    of two such elements is never computed."""
    rng = np.random.default_rng(low % 97)
    a, b = rng.uniform(1, 2, (16, 256)) * 2.0**low, rng.uniform(1, 2, (256, 16))
    a[:, 0], b[0] = 1, 0
    if both_sides:
        b *= 2.0**low
        b[1], a[:, 1] = 1, 0
    a, b = a.astype(np.float32), b.astype(np.float32)
    product = multiply(a, b)
    assert errors(product.values, a, b)[0] <= 10
    assert (product.refused == TOO_WIDE) == (low < (-14 if both_sides else -20))


def test_elements_that_vanish_beside_huge_ones_are_not_forgotten():
    """Scaled in float32 they would be zero before anything was noted of them."""
    a = np.full((4, 64), 1e-38, np.float32)
    b = np.full((64, 4), 1e38, np.float32)
    a[:, 0], b[0] = 1e38, 0
    product = multiply(a, b)
    assert product.repaired.all()
    assert errors(product.values, a, b)[0] <= 1


def test_the_worst_of_all_numbers_costs_eight_roundings():
    worst = np.float32(1 + 2.0**-11 - 3 * 2.0**-23)  # both low halves and low · low, one way
    a, b = np.full((3, 32), worst), np.full((32, 3), worst)
    assert 7.9 <= errors(multiply(a, b).values, a, b)[0] <= 9


def test_a_few_large_elements_that_meet_dont_cover_for_all_others():
    """One pair of elements of 2^9 is certain to meet; 511 of each lane meet small ones."""
    worst = 1 + 2.0**-11 - 3 * 2.0**-23
    a, b = np.full((2, 1024, 24), worst)
    a[:511] *= 2.0**14
    b[512:] *= 2.0**14
    a[511:513], b[511:513] = [[2.0**9], [2.0**-15]], 2.0**9
    a[513:] *= 2.0**-15
    b[:511] *= 2.0**-15
    a, b = a.T.astype(np.float32), b.astype(np.float32)
    product = multiply(a, b)
    assert not product.covered.any() and product.refused == TOO_WIDE
    assert errors(device_only(a, b), a, b)[0] > 12


def test_results_below_float32_need_no_repair():
    a, b = np.full((16, 256), 2.0**-100, np.float32), np.full((256, 16), 2.0**-70, np.float32)
    a[:, 0], b[0] = 2.0**-70, 0
    product = multiply(a, b)
    assert not product.covered.any() and not product.repaired.any()
    assert (np.abs(product.values - exact(a, b)) <= bound(a, b)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    a, b = np.ones((3, 40), np.float32), np.ones((40, 3), np.float32)
    a[1, 7] = bad
    assert multiply(a, b).refused == "operands contain NaN or infinity"
    a[1, 7] = 3e38
    b[7] = 3
    assert multiply(a, b).refused == "a sum left the range of float32"


def test_the_measure_itself_sees_an_error():
    a, b = np.ones((3, 32), np.float32), np.ones((32, 3), np.float32)
    result = exact(a, b).astype(np.float32)
    assert errors(result, a, b) == (0, 0)
    result[1, 1] *= 1 + np.float32(2.0**-20)
    assert errors(result, a, b) == (16, pytest.approx(16 / 3))
    assert (magnitudes(a, b) == 32).all()

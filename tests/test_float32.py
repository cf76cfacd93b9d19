"""`precision="float32"` on the NPU: the numbers of tests/split_model.py, bit for bit, and the
errors that docs/precision.md promises."""

from __future__ import annotations

import numpy as np
import pytest
from families import ALL, ORDINARY, errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from split_model import bound, exponents, magnitudes, multiply
from test_split_model import operands

import npublas
from npublas import _engine
from npublas.testing import simulator

SEEDS = st.integers(0, 2**32 - 1)
DEPTHS = (1, 7, 31, 32, 33, 256, 1024, 1025, 4096, 20_000)
TOO_WIDE = "so far apart"


@pytest.fixture(autouse=True)
def _on_the_simulator():
    npublas.set_config(runtime="simulator")


@pytest.fixture
def fresh():
    """For what an engine learns when it is opened."""
    _engine.close_engine()
    yield
    _engine.close_engine()
    npublas.set_config(memory_limit="auto", cores=3)


def on_npu(a, b, **options):
    with npublas.config_context(on_fallback="error"):
        return npublas.matmul(a, b, device="npu", precision="float32", **options)


def exact(a, b):
    return a.astype(np.float64) @ b.astype(np.float64)


def data(family, m, k, n, seed=0):
    return ALL[family](np.random.default_rng([seed, k]), m, k, n)


def check_against_the_model(a, b):
    """What the NPU gives is what the model gives, or both refuse."""
    product = multiply(a, b)
    if product.refused:
        with pytest.raises(npublas.FallbackError, match=TOO_WIDE):
            on_npu(a, b)
        return None
    result = on_npu(a, b)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result[~product.repaired], product.values[~product.repaired])
    # Sums in double, in another order.
    near = np.spacing(np.abs(product.values)) + 2.0**-149
    off = np.abs(result.astype(np.float64) - product.values)
    assert (off <= np.where(product.repaired, near, 0)).all()
    return result


# The numbers


@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("family", ALL)
def test_errors_are_those_of_sgemm_or_the_product_is_refused(family, k):
    a, b = data(family, 32, k, 32)
    try:
        result = on_npu(a, b)
    except npublas.FallbackError as error:
        assert TOO_WIDE in str(error) and family not in ORDINARY
        return
    assert (np.abs(result - exact(a, b)) <= bound(a, b)).all()
    by_element, whole = errors(result, a, b)
    if k < 32:
        assert by_element <= 10
    else:
        numpys_by_element, numpys_whole = errors(np.matmul(a, b), a, b)
        assert by_element <= max(10, 4 * numpys_by_element)
        assert whole <= max(4, 3 * numpys_whole)


@pytest.mark.parametrize("k", [1, 33, 1025, 2500])
@pytest.mark.parametrize("family", ALL)
def test_the_npu_computes_what_the_model_does_bit_for_bit(family, k):
    check_against_the_model(*data(family, 21, k, 35))


@given(SEEDS, st.sampled_from([1, 2, 5, 17, 32, 64, 200, 1030]))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_unpleasant_operands_stay_within_the_bound_or_are_refused(seed, k):
    a, b = operands(seed, 12, k, 12)
    with np.errstate(all="ignore"):
        result = npublas.matmul(a, b, device="npu", precision="float32")
        numpys = np.matmul(a, b)
    if npublas.counters().fallbacks:
        npublas.reset_counters()
        np.testing.assert_array_equal(result, numpys)
    else:
        assert (np.abs(result - exact(a, b)) <= bound(a, b)).all()


@pytest.mark.parametrize("flush", [0, 1])
@pytest.mark.parametrize("family", ["normal", "log-normal, σ = 3", "softmax rows", "subnormal"])
def test_it_does_not_matter_what_the_device_does_with_subnormal_halves(family, flush, fresh):
    a, b = data(family, 17, 1500, 19)
    with simulator.settings(flush_subnormals=flush):
        check_against_the_model(a, b)


@pytest.mark.parametrize("low", [-20, -30, -33, -60])
@pytest.mark.parametrize("both_sides", [False, True])
def test_a_large_element_that_meets_a_zero_does_not_hide_what_is_lost(low, both_sides):
    rng = np.random.default_rng(low % 97)
    a, b = rng.uniform(1, 2, (16, 256)) * 2.0**low, rng.uniform(1, 2, (256, 16))
    a[:, 0], b[0] = 1, 0
    if both_sides:
        b *= 2.0**low
        b[1], a[:, 1] = 1, 0
    check_against_the_model(a.astype(np.float32), b.astype(np.float32))


def test_elements_that_vanish_beside_huge_ones_are_not_forgotten():
    """They are zero when their row has been scaled down, and their products are 1."""
    a = np.full((4, 64), 1e-38, np.float32)
    b = np.full((64, 4), 1e38, np.float32)
    a[:, 0], b[0] = 1e38, 0
    assert errors(on_npu(a, b), a, b)[0] <= 1  # all 16 are repaired


def test_a_few_elements_are_repaired_and_many_are_not():
    a, b = data("normal", 64, 500, 64)
    wide = a.copy()
    wide[3], wide[3, 0] = wide[3] * np.float32(2.0**-30), 1
    b = b.copy()
    b[0] = 0
    # One row of 64: 1/64 of the elements is repaired; three rows are too many.
    product = multiply(wide, b)
    assert product.repaired[3].all() and not product.refused
    assert errors(check_against_the_model(wide, b), wide, b)[0] <= 4
    wide[4], wide[5] = wide[3], wide[3]
    assert multiply(wide, b).refused
    with pytest.raises(npublas.FallbackError, match=TOO_WIDE):
        on_npu(wide, b)


# What a result depends on


@pytest.mark.parametrize("family", ["normal", "log-normal, σ = 3, both signs", "softmax rows"])
def test_an_element_depends_on_its_row_and_its_column_alone(family):
    a, b = data(family, 70, 2100, 300)
    whole = on_npu(a, b)
    for rows in (slice(0, 1), slice(3, 20), slice(5, 70)):
        np.testing.assert_array_equal(on_npu(a[rows], b), whole[rows])
    np.testing.assert_array_equal(on_npu(a.copy(order="F"), b[:, ::-1])[:, ::-1], whole)


def test_whether_an_element_is_repaired_depends_on_nothing_beside_it():
    """Results are small beside |A||B|, but counting covers the losses. Not so in row 60, which has
    a single large element; that changes nothing for the others."""
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((61, 1000)), rng.standard_normal((1000, 300))
    a *= np.where(rng.random(a.shape) < 0.1, 2.0**-28, 1)
    b *= np.where(rng.random(b.shape) < 0.1, 2.0**-28, 1)
    a[:, 500:], b[500:] = a[:, :500], -b[:500] * (1 + 1e-4 * rng.standard_normal((500, 300)))
    a[60], a[60, 0] = 2.0**-20 * rng.standard_normal(1000), 1
    a, b = a.astype(np.float32), b.astype(np.float32)
    assert multiply(a, b).covered[:60].all()
    np.testing.assert_array_equal(on_npu(a, b)[:60], on_npu(a[:60], b))


@pytest.mark.parametrize("family", ["normal", "log-normal, σ = 3, both signs"])
def test_cores_and_the_window_change_no_result(family, fresh):
    a, b = data(family, 300, 1500, 400)
    expected = on_npu(a, b)
    for cores, limit in ((1, "1GiB"), (2, "8MiB"), (3, "4MiB")):
        _engine.close_engine()
        npublas.set_config(memory_limit=limit, cores=cores)
        np.testing.assert_array_equal(on_npu(a, b), expected)


def test_a_refusal_depends_on_the_product_and_not_on_how_it_is_cut(fresh):
    """All that needs repair is in one corner, and few elements beside the whole."""
    a, b = data("normal", 256, 300, 512)
    a[:80] *= np.float32(2.0**-30)
    a[:80, 0] = 1
    b[0] = np.random.default_rng(1).choice([-1, 1], 512)
    b[0, :40] = 0
    product = multiply(a, b)
    assert product.repaired[:80, :40].all() and product.refused is None
    for cores in (1, 3):
        _engine.close_engine()
        npublas.set_config(cores=cores)
        on_npu(a, b)


# Parts that are all zero


def operations(a, b):
    before = simulator.counters()["operations"]
    on_npu(a, b)
    return simulator.counters()["operations"] - before


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
@pytest.mark.parametrize("turned", [False, True])
def test_parts_that_are_all_zero_are_not_multiplied(family, products, turned):
    a, b = data(family, 64, 512, 64)
    if turned:
        a, b = b.T, a.T
    ones = np.ones((64, 512), np.float32)
    on_npu(ones, ones.T)  # opens the engine
    one = operations(ones, ones.T)
    assert one > 0 and operations(a, b) == products * one
    check_against_the_model(a, b)


def test_products_that_cancel_to_zero_are_believed():
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 64), (64, 8)))
    a[:, 32:], b[32:] = a[:, :32], -b[:32]
    assert not on_npu(a, b).any()
    assert not on_npu(a * np.float32(1e-30), b * np.float32(1e-30)).any()


# What is refused


@pytest.mark.parametrize("family", ["K graded inversely, 1e±4", "K graded inversely, 1e±30"])
def test_what_is_too_wide_runs_on_the_cpu_with_the_reason(family):
    a, b = data(family, 20, 300, 20)
    result = npublas.matmul(a, b, device="npu", precision="float32")
    np.testing.assert_array_equal(result, np.matmul(a, b))
    (row,) = [row for row in npublas.counters().reasons if row.fallbacks]
    assert TOO_WIDE in row.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_nan_and_infinity_give_numpys_result_and_the_reason(bad, where):
    operands = [np.ones((40, 50), np.float32), np.ones((50, 60), np.float32)]
    operands[where][7, 9] = bad
    with np.errstate(invalid="ignore"):
        result = npublas.matmul(*operands, device="npu", precision="float32")
        np.testing.assert_array_equal(result, np.matmul(*operands))
    reasons = npublas.counters().reasons
    assert [row.text for row in reasons if row.fallbacks] == ["operands contain NaN or infinity"]


def test_a_sum_beyond_float32_gives_numpys_result_and_warning():
    a = np.full((4, 64), 3e38, np.float32)
    with pytest.warns(RuntimeWarning, match="overflow"):
        result = npublas.matmul(a, a.T.copy(), device="npu", precision="float32")
    assert np.isinf(result).all()
    assert npublas.counters().reasons[0].text == "a sum left the range of float32"


# Other operands


def test_float64_is_rounded_to_float32_first():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((20, 1300)), rng.standard_normal((1300, 17))
    with npublas.config_context(float64="float32"):
        result = on_npu(a, b)
    assert result.dtype == np.float64
    rounded = a.astype(np.float32), b.astype(np.float32)
    assert (np.abs(result - exact(*rounded)) <= bound(*rounded)).all()
    assert (np.abs(result - a @ b) <= bound(*rounded) + 2.01 * 2**-24 * magnitudes(a, b)).all()


def test_float32_is_the_default():
    a, b = data("normal", 20, 300, 20)
    with npublas.config_context(on_fallback="error"):
        default = npublas.matmul(a, b, device="npu")
    np.testing.assert_array_equal(default, on_npu(a, b))


def test_stacks_are_products_of_their_own():
    a = np.stack([data("normal", 9, 1100, 7, seed)[0] for seed in range(3)])
    b = data("log-normal, σ = 3", 9, 1100, 7)[1]
    result = on_npu(a, b)
    for matrix, part in zip(a, result, strict=True):
        np.testing.assert_array_equal(part, on_npu(matrix, b))


def test_lanes_may_be_as_far_apart_as_float32_is_wide():
    a, b = data("normal", 6, 100, 6)
    scales = np.array([1e-44, 1e-40, 1e-20, 1, 1e18, 1e36], np.float32)
    a = (a * scales[:, None]).astype(np.float32)
    b = (b * scales[::-1]).astype(np.float32)
    assert np.ptp(exponents(a)) > 250
    inside = np.abs(exact(a, b)) < 1e37
    pairs = [(i, j) for i, j in np.argwhere(inside)]
    assert len(pairs) > 20
    for i, j in pairs:
        check_against_the_model(a[i : i + 1], b[:, j : j + 1])

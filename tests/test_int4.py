"""Products by int4 weights: exact integers, quantised floats, and the same bits in every way."""

from __future__ import annotations

import math
import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import npublas
from npublas import _config, _core, _engine
from npublas.testing import simulator

INT4 = np.dtype(ml_dtypes.int4)
# Runs of the self-test: products of 1, 4, 128 and 132 rows on each core, and probes.
OF_INT8, OF_FLOAT16 = 6 * 3, (6 + 1) * 3
SIZES = st.integers(1, 70) | st.sampled_from([127, 128, 129])
DEPTHS = SIZES | st.sampled_from([479, 480, 481, 575, 576, 577, 961, 2000])
FAST = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _simulator():
    """int4 sums beyond int16 are violations here, and there must be none of any kind."""
    npublas.set_config(runtime="simulator", device="npu", on_fallback="error")
    _engine.close_engine()
    simulator.reset()
    with simulator.settings(int4_overflow=1):
        yield
        counters = simulator.counters()
    simulator.reset()
    _engine.close_engine()
    assert not any(count for name, count in counters.items() if name.startswith("violations"))


def open_without(element):
    """Open the engine with one type off: its first known answer comes back as zeros."""
    _engine.close_engine()
    first = {"int8": 1, "int4": OF_INT8 + OF_FLOAT16 + 1}[element]
    with simulator.fault("zeros", nth=first, count=1):
        _engine.open_engine()
    problems = _engine.status()["type_problems"]
    assert [name for name, why in problems.items() if why] == [element]


def int4s(rng, shape):
    return rng.integers(-8, 8, shape, np.int8)


def exact(a, b):
    return a.astype(np.int64) @ b.astype(np.int64)


def plan_of(w, m, a_dtype="float32"):
    bits = _config.packed(precision="int8", device="npu")
    return _core.plan_for(bits, a_dtype, "int8", a_dtype, 1, m, *w.shape[-2:], w._weights)


@given(SIZES, DEPTHS, SIZES, st.integers(0, 99))
@FAST
def test_int4_by_int4_is_exact(m, k, n, seed):
    rng = np.random.default_rng(seed)
    a, b = int4s(rng, (m, k)), int4s(rng, (k, n))
    w = npublas.pack(b.astype(INT4))
    result = npublas.matmul(a.astype(INT4), w, dtype=np.int32)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, exact(a, b))
    # As int8 does, which NumPy takes an int4 for.
    np.testing.assert_array_equal(a.astype(INT4) @ w, np.matmul(a, b))


@given(SIZES, DEPTHS, SIZES, st.integers(0, 99))
@FAST
def test_int8_by_int4_is_exact_of_all_int8(m, k, n, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-128, 128, (m, k), np.int8), int4s(rng, (k, n))
    result = npublas.matmul(a, npublas.pack(b.astype(INT4)), dtype=np.int32)
    np.testing.assert_array_equal(result, exact(a, b))


@pytest.mark.parametrize("off", ["int8", "int4", None])
@pytest.mark.parametrize("high_first", [0, 1])
@pytest.mark.parametrize("row_step", [4, 1])
def test_integers_are_exact_in_every_way(off, high_first, row_step):
    rng = np.random.default_rng(1)
    with simulator.settings(int4_high_first=high_first, native_row_step=row_step):
        if off:
            open_without(off)
        for m, k, n in [(1, 1, 1), (3, 31, 63), (4, 480, 64), (5, 481, 65), (300, 1000, 130)]:
            a, b = int4s(rng, (m, k)), int4s(rng, (k, n))
            w = npublas.pack(b.astype(INT4))
            result = npublas.matmul(a.astype(INT4), w, dtype=np.int32)
            np.testing.assert_array_equal(result, exact(a, b))


@pytest.mark.parametrize("off", ["int8", "int4", None])
@pytest.mark.parametrize(("a_value", "b_value"), [(-8, -8), (-8, 7), (7, -8), (7, 7)])
@pytest.mark.parametrize("k", [480, 511, 512, 5000])
def test_extreme_integers_are_exact_beyond_every_tile(off, a_value, b_value, k):
    if off:
        open_without(off)
    a, b = np.full((3, k), a_value, np.int8), np.full((k, 5), b_value, np.int8)
    result = npublas.matmul(a.astype(INT4), npublas.pack(b.astype(INT4)), dtype=np.int32)
    np.testing.assert_array_equal(result, exact(a, b))


def test_an_int4_takes_half_a_byte():
    w = npublas.pack(np.zeros((960, 128), INT4))
    assert w.nbytes == 960 * 128 // 2 + 2 * 128 * 8  # two tiles, and the scales of their columns
    assert (w.shape, w.dtype, w.precision) == ((960, 128), np.int8, "exact")
    q = npublas.quantize(np.ones((576, 64), np.float32), bits=4)
    w = npublas.pack(q)
    assert w.nbytes == 576 * 64 // 2 + 64 * 8
    assert (w.shape, w.dtype, w.precision) == ((576, 64), np.float32, "int8")


def reference(x, q, tile, limit=119):
    """The formula: rows are rounded tile by tile, as whole numbers of their scale."""
    data, scales = q.data.astype(np.float64), q.scales.astype(np.float64)
    size = q.group_size or data.shape[0]
    total = 0.0
    for start in range(0, data.shape[0], tile):
        part = x[:, start : start + tile].astype(np.float32)
        largest = np.abs(part).max(1, keepdims=True)
        scale = np.where(largest > 0, largest / np.float32(limit), np.float32(1))
        integers = np.clip(np.rint(part / scale), -limit, limit).astype(np.float64)
        of_columns = scales[start // size if scales.shape[0] > 1 else 0]
        total = total + (integers @ data[start : start + tile]) * scale.astype(np.float64) * (
            of_columns
        )
    return total.astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (576, 64), (577, 65), (1200, 130), (2048, 40)])
@pytest.mark.parametrize("group", [None, 32, 100, 1024])
def test_floats_by_quantised_weights_follow_the_formula_in_every_way(shape, group):
    rng = np.random.default_rng(2)
    k, n = shape
    q = npublas.quantize(rng.standard_normal((k, n)), bits=4, group_size=group)
    x = rng.standard_normal((20, k)).astype(np.float32)
    w = npublas.pack(q)
    tile = plan_of(w, 20)["tile"][1]
    assert tile <= 576
    if group and group < k:
        assert group % tile == 0
    expected = reference(x, q, tile)
    results = []
    for off in ("int8", "int4"):
        open_without(off)
        assert plan_of(w, 20)["element"] == ("int4" if off == "int8" else "int8")
        results.append(x @ w)
        for rows in (1, 2, 7):
            np.testing.assert_array_equal(x[:rows] @ w, results[-1][:rows])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], expected)


def test_the_plan_takes_the_cheaper_way():
    w = npublas.pack(npublas.quantize(np.ones((2048, 2048), np.float32), bits=4))
    few, many = plan_of(w, 1), plan_of(w, 2048)
    assert (few["method"], few["element"], few["parts"]) == ("int4", "int4", 2)
    assert (many["method"], many["element"], many["parts"]) == ("int4", "int8", 1)
    assert few["tile"][1:] == many["tile"][1:]


def test_explain_tells_the_way():
    rng = np.random.default_rng(9)
    w = npublas.pack(npublas.quantize(np.ones((2048, 2048), np.float32), bits=4))
    x = rng.standard_normal((2048, 2048)).astype(np.float32)
    few, many = npublas.explain(x[:1], w), npublas.explain(x, w)
    assert few.products == 2 and "by 2 parts of int4" in repr(few)
    assert many.products == 1 and "unpacked to int8" in repr(many)
    integers = npublas.pack(int4s(rng, (2048, 2048)).astype(INT4))
    one = npublas.explain(int4s(rng, (1, 2048)).astype(INT4), integers, dtype=np.int32)
    assert one.products == 1 and one.plan.element == "int4" and "by 1 part of" in repr(one)
    anything = npublas.explain(int4s(rng, (1, 2048)), integers, dtype=np.int32)
    assert anything.plan.element == "int8"


def test_a_row_has_the_same_bits_among_few_rows_as_among_many():
    rng = np.random.default_rng(3)
    w = npublas.pack(npublas.quantize(rng.standard_normal((1100, 600)), bits=4))
    x = rng.standard_normal((1100, 1100)).astype(np.float32)
    assert plan_of(w, 1)["element"] == "int4" and plan_of(w, 1100)["element"] == "int8"
    many = x @ w
    for rows in (1, 3, 16):
        np.testing.assert_array_equal(x[:rows] @ w, many[:rows])


def test_rotated_weights_and_stacks_and_epilogues_go_with_int4():
    rng = np.random.default_rng(4)
    source = rng.standard_normal((3, 100, 70)).astype(np.float32)
    x = rng.standard_normal((3, 9, 100)).astype(np.float32)
    for options in ({}, {"rotate": True}, {"group_size": 32}):
        w = npublas.pack(npublas.quantize(source, bits=4, **options))
        bound = np.abs(x) @ np.abs(source)
        assert (np.abs(x @ w - x @ source) <= 0.2 * bound).all()
        together = x @ w
        for i in range(3):
            one = npublas.pack(npublas.quantize(source[i], bits=4, **options))
            np.testing.assert_array_equal(x[i] @ one, together[i])
    bias = rng.standard_normal(70).astype(np.float32)
    one = npublas.pack(npublas.quantize(source[0], bits=4))
    np.testing.assert_allclose(
        npublas.linear(x[0], one, bias, activation="relu"),
        np.maximum(x[0] @ one + bias, 0),
        rtol=1e-6,
        atol=1e-6,
    )


def test_weights_come_back_from_files_and_pickles_with_the_same_bits(tmp_path):
    rng = np.random.default_rng(5)
    q = npublas.quantize(rng.standard_normal((700, 90)), bits=4, rotate=True)
    integers = int4s(rng, (700, 90)).astype(INT4)
    x, a = rng.standard_normal((4, 700)).astype(np.float32), int4s(rng, (4, 700))
    for w, left in [(npublas.pack(q), x), (npublas.pack(integers), a)]:
        expected = left @ w
        w.save(tmp_path / "w")
        for again in (npublas.load(tmp_path / "w"), pickle.loads(pickle.dumps(w))):
            assert (again.nbytes, again.dtype, again.precision) == (w.nbytes, w.dtype, w.precision)
            np.testing.assert_array_equal(left @ again, expected)
            np.testing.assert_array_equal(again.unpack(), w.unpack())
    np.testing.assert_array_equal(npublas.pack(integers).unpack(), integers.astype(np.int8))
    np.testing.assert_allclose(
        npublas.pack(q).unpack(), npublas.dequantize(q), rtol=1e-5, atol=1e-5
    )


def test_both_forms_of_a_tile_live_in_a_window_that_holds_neither_of_all():
    rng = np.random.default_rng(6)
    npublas.set_config(memory_limit=2 << 20)
    b = [int4s(rng, (1500, 300)) for _ in range(6)]
    packed = [npublas.pack(x.astype(INT4)) for x in b]
    for i in range(30):
        # int8 that promise nothing are multiplied as int8, int4 as the plan has it.
        a = int4s(rng, (1 + i % 3, 1500))
        left = a if i % 2 else a.astype(INT4)
        result = npublas.matmul(left, packed[i % 6], dtype=np.int32)
        np.testing.assert_array_equal(result, exact(a, b[i % 6]))
    assert _engine.status()["window"]["peak_bytes"] <= 2 << 20


def test_a_runtime_without_int4_takes_its_weights_all_the_same():
    open_without("int4")
    rng = np.random.default_rng(7)
    a, b = int4s(rng, (2, 900)), int4s(rng, (900, 66))
    w = npublas.pack(b.astype(INT4))
    result = npublas.matmul(a.astype(INT4), w, dtype=np.int32)
    np.testing.assert_array_equal(result, exact(a, b))
    assert npublas.counters().npu.products == 1
    assert "int4 products" in repr(npublas.info())
    assert list(npublas.is_available().types_off) == ["int4"]


def test_floats_by_exact_int4_are_not_rounded():
    rng = np.random.default_rng(8)
    b = int4s(rng, (200, 30))
    x = rng.standard_normal((3, 200)).astype(np.float32)
    w = npublas.pack(b.astype(INT4))
    with npublas.config_context(device="auto", on_fallback="allow"):
        np.testing.assert_allclose(x @ w, x @ b.astype(np.float32), rtol=1e-5, atol=1e-4)


def test_nan_and_infinity_are_the_cpus():
    w = npublas.pack(npublas.quantize(np.ones((100, 10), np.float32), bits=4))
    for bad in (math.nan, math.inf):
        x = np.ones((2, 100), np.float32)
        x[1, 5] = bad
        with npublas.config_context(on_fallback="allow"), np.errstate(invalid="ignore"):
            result = x @ w
        assert np.isfinite(result[0]).all() and not np.isfinite(result[1]).any()


@pytest.mark.parametrize("k", [1, 32, 480, 576, 577, 4000])
@pytest.mark.parametrize("m", [1, 2, 5, 300, 3000])
def test_int4_plans_keep_to_certified_tiles_and_one_task(m, k):
    plan = _core.plan(1, m, k, 100, "int4")
    rows, depth, columns = plan["tile"]
    assert depth % 32 == 0 and 8 * 7 * depth <= 32767 and columns % 64 == 0
    # Entries of 64 bytes on the chip, of two parts; four banks of 512.
    chunks = depth // 32
    surface = -(-2 * rows // 4) * 4
    rest = chunks % 4
    entries = chunks // 4 * surface + (surface if rest == 3 else -(-rest * surface // 4))
    assert entries <= 4 * 512

"""Unpacking against its formulas: the scales come off in double, and one rounding is left."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import padded, surface_c, up, views

from npublas import _core
from npublas.errors import NpuError

SHAPES = [(1, 1), (1, 4), (3, 5), (4, 4), (15, 31), (16, 32), (17, 33), (40, 30)]


LAYOUTS = ["native", "normal"]


@pytest.fixture(params=_core.instruction_sets(), autouse=True)
def _instructions(request):
    before = _core.instruction_set()
    _core.use_instruction_set(request.param)
    yield
    _core.use_instruction_set(before)


UNREMARKABLE = {
    "finite": True, "underflow": False, "main_zero": True, "a_low_zero": True, "b_low_zero": True,
}  # fmt: skip


def surface_of(sums, layout="native"):
    """The sums on a surface, and what it is."""
    rows, columns = sums.shape
    # What is beside the sums must not count.
    filler = np.full((rows if rows == 1 else up(rows, 4), up(columns, 32)), 77, sums.dtype)
    filler[:rows, :columns] = sums
    surface = surface_c(filler) if layout == "native" else filler.ravel()
    return surface, {"shape": filler.shape, "layout": layout}


def unpack(
    sums, target, row_scales, column_scales, a_low=None, b_low=None, *,
    accumulate=False, layout="native", streamed=False,
):  # fmt: skip
    surface, arguments = surface_of(sums, layout)
    arguments |= {
        "row_scales": row_scales,
        "column_scales": column_scales,
        "accumulate": accumulate,
        "target": target,
        "streamed": streamed,
    }
    if sums.dtype == np.int32:
        return _core.unpack_quantized(surface, **arguments)
    low = [None if part is None else surface_of(part, layout)[0] for part in (a_low, b_low)]
    return _core.unpack_floats(surface, *low, **arguments)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
@pytest.mark.parametrize("offsets", [(), ("row",), ("column",), ("row", "column")])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_integers_are_unpacked_and_added_modulo_their_width(dtype, offsets, shape, layout):
    rng = np.random.default_rng(3)

    def any_int32(*size):
        return rng.integers(-(2**31), 2**31, size).astype(np.int32)

    sums = any_int32(2, *shape)
    row = any_int32(shape[0]) if "row" in offsets else None
    column = any_int32(shape[1]) if "column" in offsets else None
    expected = sums.astype(np.int64).sum(0)
    if row is not None:
        expected = expected + 2 * row[:, None].astype(np.int64)
    if column is not None:
        expected = expected + 2 * column.astype(np.int64)
    for target in views(np.full(shape, 99, dtype)):
        for step, part in enumerate(sums):
            surface, arguments = surface_of(part, layout)
            seen = _core.unpack_integers(
                surface, row_offsets=row, column_offsets=column,
                accumulate=step > 0, target=target, **arguments,
            )  # fmt: skip
        np.testing.assert_array_equal(target, expected.astype(dtype))
        assert seen == {**UNREMARKABLE, "main_zero": False}


def test_a_surface_of_zeros_is_reported_whatever_the_offsets():
    surface, arguments = surface_of(np.zeros((3, 5), np.int32))
    target = np.ones((3, 5), np.int32)
    seen = _core.unpack_integers(
        surface, row_offsets=np.array([1, 2, 3], np.int32),
        column_offsets=None, accumulate=False, target=target, **arguments,
    )  # fmt: skip
    assert seen["main_zero"] and target[:, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("parts", ["integers", "main", "a_low", "b_low", "all"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scales_come_off_in_double_and_one_rounding_is_left(dtype, parts, shape, layout):
    rng = np.random.default_rng(5)
    if parts == "integers":
        sums = rng.integers(-(2**31), 2**31, (2, *shape)).astype(np.int32)
        row_scales, column_scales = rng.uniform(1e-9, 1, shape[0]), rng.uniform(1e-9, 1, shape[1])
    else:
        sums = (rng.standard_normal((2, *shape)) * 2.0**30).astype(np.float32)
        row_scales = np.ldexp(1.0, rng.integers(-163, 113, shape[0]))
        column_scales = np.ldexp(1.0, rng.integers(-8, 8, shape[1])) / row_scales.max()
    low = {
        part: (rng.standard_normal((2, *shape)) * 2.0**30).astype(np.float32)
        for part in ("a_low", "b_low")
        if parts in (part, "all")
    }
    values = sums + sum(part.astype(np.float64) for part in low.values()) * 2.0**-12
    exact = values * (row_scales[:, None] * column_scales)
    with np.errstate(under="ignore"):
        first = exact[0].astype(dtype)
        expected = (first.astype(np.float64) + exact[1]).astype(dtype)
    for target in views(np.full(shape, 99, dtype)):
        for step in range(2):
            seen = unpack(
                sums[step], target, row_scales, column_scales, accumulate=step > 0, layout=layout,
                **{part: low[part][step] for part in low},
            )  # fmt: skip
        np.testing.assert_array_equal(target, expected)
        assert seen["finite"] and not seen["main_zero"]


@given(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-163, 113),
    st.integers(-163, 113),
)
def test_flags_tell_what_one_rounding_to_float32_did(sum_, row, column):
    # 2^45 is more than any sum of packed float16 can be.
    sums = np.clip(np.array([[sum_]], np.float32), -(2.0**45), 2.0**45)
    target = np.empty((1, 1), np.float32)
    exact = float(sums[0, 0]) * 2.0**row * 2.0**column
    seen = unpack(sums, target, np.array([2.0**row]), np.array([2.0**column]))
    with np.errstate(over="ignore", under="ignore"):
        expected = np.float32(exact)
    assert target[0, 0] == expected
    assert seen == {
        "finite": bool(np.isfinite(expected)),
        "underflow": bool(abs(expected) < 2.0**-126 and float(expected) != exact),
        "main_zero": sum_ == 0,
        "a_low_zero": True,
        "b_low_zero": True,
    }


def test_a_sum_beyond_float32_is_reported():
    sums, one = np.array([[2.0**30]], np.float32), np.ones(1)
    for dtype in ("float32", "float64"):
        target = np.zeros((1, 1), dtype)
        assert unpack(sums, target, one * 2.0**97, one)["finite"] and target[0, 0] == 2.0**127
        assert not unpack(sums, target, one * 2.0**98, one)["finite"]
        target[:] = 2.0**127
        assert not unpack(sums, target, one * 2.0**97, one, accumulate=True)["finite"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["sums", "a_low", "b_low"])
def test_nan_and_infinity_are_reported(bad, part):
    sums = {name: np.ones((5, 6), np.float32) for name in ("sums", "a_low", "b_low")}
    sums[part][4, 5] = bad
    target = np.zeros((5, 6), np.float32)
    seen = unpack(target=target, row_scales=np.ones(5), column_scales=np.ones(6), **sums)
    assert not seen["finite"]
    np.testing.assert_equal(target[4, 5], np.float32(bad))


@pytest.mark.parametrize("part", ["sums", "a_low", "b_low"])
def test_each_surface_tells_whether_it_is_zero(part):
    sums = {name: np.zeros((5, 6), np.float32) for name in ("sums", "a_low", "b_low")}
    target = np.ones((5, 6), np.float32)
    arguments = {"target": target, "row_scales": np.ones(5), "column_scales": np.ones(6)}
    assert unpack(**sums, **arguments) == UNREMARKABLE
    assert not target.any()
    sums[part][4, 5] = 2.0**-149
    flag = "main_zero" if part == "sums" else f"{part}_zero"
    assert {**unpack(**sums, **arguments), "underflow": False} == {**UNREMARKABLE, flag: False}


@pytest.mark.parametrize("shape", [(1, 1), (4, 4)])
def test_a_zero_is_positive_whatever_its_terms_were(shape):
    for dtype in ("float32", "float64"):
        target = np.ones(shape, dtype)
        seen = unpack(np.full(shape, -0.0, np.float32), target, np.ones(shape[0]),
                      np.ones(shape[1]))  # fmt: skip
        assert seen["main_zero"] and not np.signbit(target).any()


# Every way through the loops at once, against the formulas

INTEGERS = ["int8", "uint8", "int16", "int32"]
STEPS = st.sampled_from(["rows", "columns", "apart", "backwards", "odd"])


@st.composite
def targets(draw, dtype):
    """A view of any place and strides in a larger array, and that array."""
    rows = draw(st.one_of(st.integers(1, 9), st.integers(28, 70)))
    columns = draw(st.one_of(st.integers(1, 40), st.integers(60, 200), st.integers(1600, 1700)))
    steps = draw(STEPS)
    size = np.dtype(dtype).itemsize
    # So that rows begin anywhere in a line, or all at the same place.
    pitch = columns + draw(st.integers(0, 70))
    if draw(st.booleans()):
        pitch = up(pitch, draw(st.sampled_from([64 // size, 2048 // size])))
    if steps == "columns":
        whole = np.full((columns, rows + 3), 99, dtype).T
        return whole, whole[1 : rows + 1, :columns]
    if steps == "apart":
        whole = np.full((2 * rows, 3 * columns), 99, dtype)
        return whole, whole[::2, ::3]
    if steps == "odd":
        record = np.zeros((rows, columns), np.dtype([("before", "u1"), ("value", dtype)]))
        return record["before"], record["value"]
    raw = np.full(rows * pitch + 64, 99, dtype)
    first = draw(st.integers(0, 63))
    whole = raw[first : first + rows * pitch].reshape(rows, pitch)
    view = whole[:, :columns]
    return raw, view[::-1] if steps == "backwards" else view


def untouched(whole, view):
    """What the target doesn't cover, before and after."""
    saved = view.copy()
    view[...] = 0
    rest = whole.copy()
    view[...] = saved
    return rest


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_integers_reach_any_target_in_any_way(data):
    dtype = data.draw(st.sampled_from(INTEGERS))
    whole, target = data.draw(targets(dtype))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    layout, accumulate = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.booleans())
    sums = rng.integers(-(2**31), 2**31, target.shape).astype(np.int32)
    sums[rng.random(target.shape) < data.draw(st.sampled_from([0, 0.9, 1]))] = 0
    offsets = [
        rng.integers(-(2**31), 2**31, count).astype(np.int32) if data.draw(st.booleans()) else None
        for count in target.shape
    ]
    before = rng.integers(-100, 100, target.shape).astype(dtype)
    target[...] = before
    rest = untouched(whole, target)
    surface, arguments = surface_of(sums, layout)
    seen = _core.unpack_integers(
        surface, row_offsets=offsets[0], column_offsets=offsets[1], accumulate=accumulate,
        target=target, streamed=data.draw(st.booleans()), **arguments,
    )  # fmt: skip
    expected = sums.astype(np.int64) + (before if accumulate else 0)
    expected += 0 if offsets[0] is None else offsets[0][:, None].astype(np.int64)
    expected += 0 if offsets[1] is None else offsets[1].astype(np.int64)
    np.testing.assert_array_equal(target, expected.astype(dtype))
    np.testing.assert_array_equal(untouched(whole, target), rest)
    assert seen == {**UNREMARKABLE, "main_zero": not sums.any()}


def some_floats(rng, shape, kind):
    values = rng.standard_normal(shape) * 2.0**30
    if kind == "sparse":
        values[rng.random(shape) < 0.95] = -0.0
    elif kind == "any bits":  # but neither NaN nor infinity
        values = (rng.integers(0, 2**32, shape) & 0xFF7FFFFF).astype(np.uint32).view(np.float32)
    elif kind == "tiny":
        values *= 2.0**-150
    elif kind == "zero":
        values *= 0
    return values.astype(np.float32)


def some_scales(rng, count, kind):
    if kind == "powers":
        return np.ldexp(1.0, rng.integers(-30, 10, count))
    if kind == "far powers":
        return np.ldexp(1.0, rng.integers(-90, 60, count))
    return rng.uniform(1e-9, 1, count).astype(np.float32).astype(np.float64)


def bits(array):
    """To compare: the sign of a zero counts; any NaN is as good as another."""
    return np.where(np.isnan(array), np.nan, array).view(f"u{array.itemsize}")


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_floats_reach_any_target_in_any_way(data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    whole, target = data.draw(targets(dtype))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    parts = data.draw(st.sampled_from(["integers", "main", "a_low", "b_low", "all"]))
    kind = data.draw(st.sampled_from(["normal", "sparse", "any bits", "tiny", "zero"]))
    layout, accumulate = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.booleans())
    shape = target.shape
    low = {}
    if parts == "integers":
        sums = rng.integers(-(2**31), 2**31, shape).astype(np.int32)
        sums[rng.random(shape) < data.draw(st.sampled_from([0, 0.9, 1]))] = 0
    else:
        sums = some_floats(rng, shape, kind)
        low = {
            part: some_floats(rng, shape, data.draw(st.sampled_from([kind, "zero"])))
            for part in ("a_low", "b_low")
            if parts in (part, "all")
        }
    scales = data.draw(st.sampled_from(["powers", "far powers", "any"]))
    rows, columns = (some_scales(rng, count, scales) for count in shape)
    before = np.ldexp(rng.standard_normal(shape), rng.integers(-140, 20, shape)).astype(dtype)
    before[rng.random(shape) < 0.2] = -0.0
    target[...] = before
    rest = untouched(whole, target)
    seen = unpack(
        sums, target, rows, columns, **low,
        accumulate=accumulate, layout=layout, streamed=data.draw(st.booleans()),
    )  # fmt: skip
    with np.errstate(all="ignore"):
        exact = sums.astype(np.float64)
        if low:
            # Not `sum`, nor NumPy's: they begin with +0.
            lows = reduce(np.add, [part.astype(np.float64) for part in low.values()])
            exact = exact + lows * 2.0**-12
        exact = exact * (rows[:, None] * columns)
        total = (before.astype(np.float64) if accumulate else 0.0) + exact
        expected = total.astype(dtype)
        narrow = expected.astype(np.float32)
    np.testing.assert_array_equal(bits(target), bits(expected))
    np.testing.assert_array_equal(untouched(whole, target), rest)
    lost = (np.abs(expected) < np.finfo(dtype).tiny) & (expected.astype(np.float64) != total)
    assert seen == {
        "finite": bool(np.isfinite(narrow).all()),
        "underflow": bool(lost.any()),
        "main_zero": not sums.any(),
        "a_low_zero": "a_low" not in low or not low["a_low"].any(),
        "b_low_zero": "b_low" not in low or not low["b_low"].any(),
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("where", [(0, 0), (33, 5), (39, 69)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_that_is_not_finite_is_seen_wherever_it_is(bad, where, dtype):
    sums = np.ones((40, 70), np.float32)
    sums[where] = bad
    for layout in LAYOUTS:
        for accumulate, streamed in ((False, False), (False, True), (True, False)):
            target = np.ones(sums.shape, dtype)
            seen = unpack(sums, target, np.full(40, 2.0), np.ones(70), accumulate=accumulate,
                          layout=layout, streamed=streamed)  # fmt: skip
            assert not seen["finite"] and not abs(float(target[where])) < 2.0**128


def test_types_that_have_no_unpacking_are_refused():
    with pytest.raises(NpuError, match="int64"):
        _core.unpack_integers(
            np.zeros(128, np.int32), shape=(4, 32), row_offsets=None, column_offsets=None,
            accumulate=False, target=np.zeros((1, 1), np.int64),
        )  # fmt: skip
    with pytest.raises(NpuError, match="float16"):
        unpack(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float16), np.ones(1), np.ones(1))


def test_what_was_packed_and_multiplied_exactly_is_unpacked_exactly():
    rng = np.random.default_rng(8)
    a = rng.integers(-100, 100, (7, 20)).astype(np.float32)
    b = rng.integers(-100, 100, (20, 9)).astype(np.float32) * np.float32(2.0**-40)
    parts = [
        _core.pack(matrix, "half", is_a=is_a, surface_lanes=lanes, surface_depth=32)
        for matrix, is_a, lanes in ((a, True, 8), (b, False, 32))
    ]
    scaled = [np.ldexp(m, 0) / s for m, s in ((a, parts[0][2][:, None]), (b, parts[1][2]))]
    sums = (scaled[0] @ scaled[1]).astype(np.float32)
    target = np.zeros((7, 9), np.float32)
    unpack(padded(sums, 8, 32)[:7, :9], target, parts[0][2], parts[1][2])
    np.testing.assert_array_equal(target, a @ b)

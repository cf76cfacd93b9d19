"""Packing against the formulas of the layouts and codings, written a second time in NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from layouts import bfloat16_bits, bfloat16_values, padded, surface_a, surface_b, up, views

from npublas import _core
from npublas.errors import NpuError

SOURCES = {
    "bytes": ["int8", "uint8"],
    "shifted": ["uint8"],
    "half": ["float16", "bfloat16", "float32", "float64"],
    "split": ["float16", "bfloat16", "float32", "float64"],
    "quantized": ["float16", "bfloat16", "float32", "float64"],
}
CASES = [(coding, dtype) for coding, dtypes in SOURCES.items() for dtype in dtypes]
FLOATS = [(coding, dtype) for coding, dtype in CASES if dtype not in ("int8", "uint8")]
NORMAL = 2.0**-14  # the smallest normal float16


class Lanes(NamedTuple):
    """What a coding makes of lanes × depth numbers."""

    packed: Any
    low: Any
    scales: Any


def powers_for(values, target):
    largest = np.abs(values).max(axis=1, initial=0)
    _, exponent = np.frexp(largest)
    return np.where(largest > 0, target + 1 - exponent, 0)


def coded(values, coding, target=14, limit=127, scale=0.0) -> Lanes:
    """The formulas; `values` are lanes × depth: bytes, or finite float32."""
    if coding == "bytes":
        return Lanes(values.view(np.int8), None, None)
    if coding == "shifted":
        return Lanes((values.astype(np.int16) - 128).astype(np.int8), None, None)
    if coding == "quantized":
        largest = np.abs(values).max(axis=1, initial=0)
        scales = largest / np.float32(limit)
        scales = np.where(largest > 0, np.maximum(scales, np.float32(2.0**-149)), np.float32(1))
        if scale:
            scales = np.full_like(scales, scale)
        with np.errstate(over="ignore"):
            quotients = np.rint(values / scales[:, None])
        return Lanes(np.clip(quotients, -limit, limit).astype(np.int8), None, scales)
    powers = powers_for(values, target)
    scaled = np.ldexp(values.astype(np.float64), powers[:, None]).astype(np.float32)
    high = scaled.astype(np.float16)
    if coding == "half":
        return Lanes(high, None, np.ldexp(1.0, -powers))
    high = normal_half(scaled)
    low = normal_half((scaled - high.astype(np.float64)) * 4096)
    return Lanes(high, low, np.ldexp(1.0, -powers))


def normal_half(values):
    """Rounded to 11 significant bits, or 0 if that is below the normal halves."""
    return np.where(
        np.abs(values) < NORMAL * (1 - 2.0**-12), np.float16(0), values.astype(np.float16)
    )


def losses_of(values):
    """LaneLoss, in float64."""
    powers = powers_for(values, 14)
    scaled = np.ldexp(values.astype(np.float64), powers[:, None]).astype(np.float32)
    lanes = coded(values, "split")
    rest = np.abs(scaled - lanes.packed.astype(np.float64))
    loss = np.where(lanes.packed == 0, np.abs(scaled.astype(np.float64)) * 2.0**-10, 0)
    loss = np.where(lanes.low == 0, rest, loss)
    # Beside it, what scaling itself rounds, or makes zero of.
    exact = np.abs(np.ldexp(values.astype(np.float64), powers[:, None]))
    vanishing = ((exact > 0) & (exact < 2.0**-126) & (powers < 0)[:, None]) * 2.0**-126
    sizes = np.abs(scaled.astype(np.float64))
    return {
        "largest": np.maximum(loss, vanishing).max(axis=1, initial=0),
        "total": (loss + vanishing).sum(axis=1),
        "size": sizes.sum(axis=1),
        "top": sizes.max(axis=1, initial=0),
        "large": (sizes >= 2.0**9).sum(axis=1),
    }


def check_losses(losses, expected):
    for name in ("largest", "top", "large"):
        np.testing.assert_array_equal(losses[name], expected[name])
    for name in ("total", "size"):  # bounds in spite of their roundings, and not wasteful ones
        assert (losses[name] >= expected[name]).all()
        assert (losses[name] <= expected[name] * (1 + 2.0**-9)).all()


def random_lanes(rng, shape, dtype):
    """As the caller has them, and as float32 or bytes."""
    if dtype in ("int8", "uint8"):
        source = rng.integers(0, 256, shape).astype(np.uint8).view(dtype)
        return source, source
    values = rng.standard_normal(shape) * np.exp(4 * rng.standard_normal(shape))
    if dtype == "bfloat16":
        source = bfloat16_bits(values)
        return source, bfloat16_values(source)
    source = np.clip(values, -60000, 60000).astype(dtype)
    return source, source.astype(np.float32)


def pack_lanes(lanes, coding, is_a=True, dtype=None, **settings):
    """A surface just as large as is needed, turned back into lanes × depth."""
    surface_lanes, surface_depth = up(max(lanes.shape[0], 1), 32), up(max(lanes.shape[1], 1), 32)
    surface, low, *notes = _core.pack(
        lanes if is_a else lanes.T, coding, is_a=is_a, surface_lanes=surface_lanes,
        surface_depth=surface_depth, dtype=dtype, **settings,
    )  # fmt: skip

    def back(part):
        if part is None:
            return None
        part = part.view(np.float16 if coding in ("half", "split") else np.int8)
        index = np.arange(part.size, dtype=np.int64)
        if is_a:
            order = surface_a_index(index, surface_lanes, surface_depth, part.dtype)
        else:
            order = surface_b_index(index, surface_lanes, surface_depth, part.dtype)
        return part[order][: lanes.shape[0], : lanes.shape[1]]

    return back(surface), back(low), *notes


def surface_a_index(index, lanes, depth, dtype):
    x = 16 // dtype.itemsize
    return index.reshape(depth // x, lanes, x).transpose(1, 0, 2).reshape(lanes, depth)


def surface_b_index(index, lanes, depth, dtype):
    y = 32 // dtype.itemsize
    shape = (lanes // y, depth // 32, y, 32)
    return index.reshape(shape).transpose(0, 2, 1, 3).reshape(lanes, depth)


SHAPES = [(0, 5), (5, 0), (1, 1), (1, 33), (3, 31), (4, 32), (15, 63), (16, 64), (17, 96), (33, 65)]


@pytest.mark.parametrize(("coding", "dtype"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_a", [True, False])
def test_packing_follows_the_formula_from_any_view(coding, dtype, shape, is_a):
    source, values = random_lanes(np.random.default_rng(7), shape, dtype)
    lanes, depth = shape
    surface_lanes = up(lanes, 4 if is_a else 32) + (4 if is_a else 32)
    surface_depth = up(depth, 32) + 32
    expected = coded(values, coding, target=15 if (coding, dtype) == ("half", "float16") else 14)

    def surface_of(packed):
        whole = padded(packed, surface_lanes, surface_depth)
        return surface_a(whole) if is_a else surface_b(whole.T)

    for view in views(source if is_a else source.T):
        surface, low, scales, sums, losses, seen = _core.pack(
            view, coding, is_a=is_a, surface_lanes=surface_lanes, surface_depth=surface_depth,
            dtype=dtype,
        )  # fmt: skip
        np.testing.assert_array_equal(
            surface.view(expected.packed.dtype), surface_of(expected.packed)
        )
        if expected.low is None:
            assert low is None
        else:
            np.testing.assert_array_equal(low.view(np.float16), surface_of(expected.low))
            check_losses(losses, losses_of(values))
            assert seen["low_zero"] == (not expected.low.any())
        if expected.scales is None:
            np.testing.assert_array_equal(sums, expected.packed.sum(axis=1, dtype=np.int32))
        else:
            np.testing.assert_array_equal(scales, expected.scales)
        assert seen["finite"]
        assert seen["zero"] == (not (values if coding == "shifted" else expected.packed).any())


@pytest.mark.parametrize(("coding", "dtype"), CASES)
@pytest.mark.parametrize("is_a", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_broadcast_axis_is_packed_as_its_copy_is(coding, dtype, is_a, axis):
    source, _ = random_lanes(np.random.default_rng(11), (20, 1) if axis else (1, 40), dtype)
    broadcast = np.broadcast_to(source, (20, 40))
    got = pack_lanes(broadcast, coding, is_a, dtype)
    expected = pack_lanes(broadcast.copy(), coding, is_a, dtype)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_equal(one, other)


# Numbers of every size, exact float16 ones among them, and rows that mix them.
NUMBERS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(width=16, allow_nan=False, allow_infinity=False),
    st.floats(-4, 4, width=32),
    st.sampled_from([0.0, -0.0, 2.0**-149, -(2.0**-126), 3.4028235e38, 1.0, 65504.0, 2.0**-25]),
)
ROWS = st.lists(NUMBERS, min_size=1, max_size=40)


@given(ROWS)
@example([3e38, 1e-38, 1e-45])
@example([3e38, 2e-38, -1e-38])
def test_split_follows_its_formula_for_numbers_of_every_size(row):
    values = np.array([row], np.float32)
    expected = coded(values, "split")
    high, low, scales, _, losses, seen = pack_lanes(values, "split")
    np.testing.assert_array_equal(high, expected.packed)
    np.testing.assert_array_equal(low, expected.low)
    np.testing.assert_array_equal(scales, expected.scales)
    check_losses(losses, losses_of(values))
    assert seen == {
        "finite": True,
        "zero": not values.any(),
        "low_zero": not expected.low.any(),
        "subnormal": False,
    }


@given(ROWS)
def test_what_split_loses_is_bounded_by_its_losses_and_no_part_is_subnormal(row):
    values = np.array([row], np.float32)
    high, low, scales, _, losses, _ = pack_lanes(values, "split")
    for part in (high, low):
        assert not ((np.abs(part) < NORMAL) & (part != 0)).any()
    scaled = values.astype(np.float64) / scales[:, None]
    error = np.abs(scaled - (high + low.astype(np.float64) * 2.0**-12))
    # Beside them: the rounding of a low part, which has 11 bits, after the 11 of a high part.
    assert (error <= losses["largest"] + 2.0**-23 * np.abs(scaled)).all()


@pytest.mark.parametrize("power", range(14, -40, -1))
def test_split_errors_keep_their_bound_in_every_binade(power):
    rng = np.random.default_rng(power + 100)
    values = (rng.uniform(1, 2, (1, 20000)) * 2.0**power).astype(np.float32)
    values[0, 0] = 2.0**14
    high, low, scales, _, losses, _ = pack_lanes(values, "split")
    assert scales[0] == 1
    error = np.abs(values.astype(np.float64) - (high + low.astype(np.float64) * 2.0**-12))
    assert (error <= losses["largest"] + 2.0**-23 * np.abs(values)).all()
    assert losses["largest"][0] <= 2.0**-24


def test_numbers_that_float16_holds_have_no_low_parts():
    rng = np.random.default_rng(2)
    values = rng.integers(-2048, 2049, (9, 70)).astype(np.float32) * np.float32(2.0**-120)
    *_, losses, seen = pack_lanes(values, "split")
    assert seen["low_zero"] and not seen["zero"]
    assert not losses["largest"].any() and not losses["total"].any()


def test_losses_count_each_lane_for_itself():
    values = np.ones((18, 33), np.float32)
    values[3, 7] = 2.0**-30  # 2^-16 once scaled: below the normal halves, its low part is not
    values[17, 32] = 2.0**-50  # 2^-36: its low part is below the normal halves too
    *_, losses, seen = pack_lanes(values, "split", is_a=False)
    assert seen["low_zero"] is False
    assert losses["largest"].nonzero()[0].tolist() == [3, 17]
    assert losses["largest"][3] == 2.0**-26 and losses["largest"][17] == 2.0**-36
    assert losses["top"].tolist() == [2.0**14] * 18
    assert losses["large"].tolist() == [33] * 3 + [32] + [33] * 13 + [32]


@pytest.mark.parametrize("below", [1 - 2.0**-20, 1.0])
def test_large_begins_at_512(below):
    values = np.array([[2.0**14, 2.0**9 * below]], np.float32)
    assert pack_lanes(values, "split")[4]["large"] == 1 + (below == 1)


@given(st.integers(0, 2**16 - 1))
def test_float16_sources_are_scaled_exactly(bits):
    value = np.array([[bits]], np.uint16).view(np.float16)
    if not np.isfinite(value[0, 0]):
        return
    packed, _, scales, *_ = pack_lanes(value, "half")
    assert float(packed[0, 0]) * scales[0] == float(value[0, 0])
    high, low, scales, *_ = pack_lanes(value, "split")
    assert float(high[0, 0]) * scales[0] == float(value[0, 0]) and low[0, 0] == 0


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1.2e-38, 1.0, 65504.0, 65536.0, 3.4028235e38])
@pytest.mark.parametrize(("coding", "bits"), [("half", 11), ("split", 23)])
def test_every_finite_float32_survives_scaling(coding, bits, value):
    matrix = np.array([[value, -value / 3]], np.float32)
    high, low, scales, _, _, seen = pack_lanes(matrix, coding)
    packed = high.astype(np.float64)
    assert 2**14 <= packed[0, 0] <= 2**15 and seen["finite"]
    if low is not None:
        packed = packed + low * 2.0**-12
    np.testing.assert_allclose(packed * scales, matrix.astype(np.float64), rtol=2.0**-bits)


@given(ROWS, st.sampled_from([7, 127]), st.booleans())
def test_quantising_follows_its_formula_and_never_leaves_its_limit(row, limit, fixed):
    values = np.array([row, row[::-1]], np.float32)
    scale = 0.125 if fixed else 0.0
    expected = coded(values, "quantized", limit=limit, scale=scale)
    packed, _, scales, _, _, seen = pack_lanes(values, "quantized", limit=limit, scale=scale)
    np.testing.assert_array_equal(packed, expected.packed)
    np.testing.assert_array_equal(scales, expected.scales)
    assert np.abs(packed.astype(int)).max() <= limit and (scales > 0).all()
    assert seen["finite"] and seen["zero"] == (not expected.packed.any())


def test_a_lane_of_subnormals_has_a_scale():
    for largest in (1, 63, 64, 190, 2**22):
        values = (np.array([[largest, -1, 0]]) * 2.0**-149).astype(np.float32)
        packed, _, scales, *_ = pack_lanes(values, "quantized")
        assert scales[0] >= 2.0**-149 and packed[0, 0] in range(1, 128)


def test_quantised_ties_go_to_the_even_neighbour():
    values = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.49, 200, -200]], np.float32)
    packed, *_ = pack_lanes(values, "quantized", scale=1.0)
    assert packed[0].tolist() == [0, 2, 2, 0, -2, 126, 127, 127, -127]


@pytest.mark.parametrize(("coding", "dtype"), FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [(0, 0), (2, 40), (19, 63)])
def test_nan_and_infinity_are_seen_wherever_they_are(coding, dtype, bad, position):
    lanes = np.ones((20, 64), "float32" if dtype == "bfloat16" else dtype)
    lanes[position] = bad
    if dtype == "bfloat16":
        lanes = (lanes.view(np.uint32) >> 16).astype(np.uint16)
    for is_a in (True, False):
        _, _, scales, _, _, seen = pack_lanes(lanes, coding, is_a, dtype)
        assert not seen["finite"] and not seen["zero"]
        assert scales[position[0]] == 1


@pytest.mark.parametrize("coding", ["half", "split", "quantized"])
def test_a_float64_beyond_float32_is_not_finite(coding):
    *_, seen = pack_lanes(np.array([[1e300]]), coding)
    assert not seen["finite"]
    *_, seen = pack_lanes(np.array([[3.4028235e38, 1e-300]]), coding)
    assert seen["finite"]


def test_float16_values_far_below_their_lane_are_reported_as_subnormal():
    def seen(*row, dtype="float16"):
        return pack_lanes(np.array([row], dtype), "half")[-1]

    smallest = 2.0**-24
    assert not seen(smallest, 2 * smallest)["subnormal"]  # scaled up together, they are normal
    assert not seen(32768.0, 2.0**-14)["subnormal"]
    assert seen(32768.0, 2.0**-15)["subnormal"]
    assert seen(65504.0, smallest)["subnormal"]
    assert not seen(65504.0, 0.0)["subnormal"]
    assert not seen(65504.0, smallest, dtype="float32")["subnormal"]  # is rounded anyway


def test_a_shifted_zero_counts_as_zero_and_padding_stays_zero():
    surface, _, _, sums, _, seen = _core.pack(
        np.zeros((3, 5), np.uint8), "shifted", is_a=True, surface_lanes=4, surface_depth=32
    )
    assert seen["zero"] and sums.tolist() == [-640] * 3
    assert np.count_nonzero(surface) == 15


@pytest.mark.parametrize(
    ("coding", "dtype"),
    [("shifted", "int8"), ("bytes", "float32"), ("half", "int8"), ("split", "uint8"),
     ("quantized", "int32")],
)  # fmt: skip
def test_codings_that_make_no_sense_are_refused(coding, dtype):
    with pytest.raises(NpuError, match=dtype):
        pack_lanes(np.zeros((2, 2), dtype), coding)


@pytest.mark.parametrize("dtype", [np.int8, np.float16])
@pytest.mark.parametrize("layout", ["native", "normal"])
def test_a_product_is_zero_only_if_it_is(dtype, layout):
    a, b = np.zeros((4, 64), dtype), np.zeros((64, 32), dtype)

    def is_zero():
        return _core.product_is_zero(
            surface_a(a) if layout == "native" else a.copy(), surface_b(b), np.dtype(dtype).name,
            rows=4, depth=64, columns=32, layout=layout,
        )  # fmt: skip

    a[1, 3] = 1
    assert is_zero()  # B is zero
    b[4, :] = 1
    assert is_zero()  # they don't meet
    a[2, 4], a[2, 5], b[5, :] = 1, -1, 1
    assert is_zero()  # they cancel
    b[5, 31] = 2
    assert not is_zero()

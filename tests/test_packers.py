"""Packing with every set of instructions that the machine has, held to the portable one by the bit.

The portable packers are held to the formulas of test_pack.py; here it is that all others do the
same to every tail, layout and kind of memory: bits, notes and flags.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from layouts import bfloat16_bits, padded, surface_a, up

from npublas import _core
from npublas.errors import NpuError

ISAS = [name for name in _core.instruction_sets() if name != "portable"]
SOURCES = {
    "bytes": ["int8", "uint8"],
    "shifted": ["uint8"],
    "half": ["float16", "bfloat16", "float32", "float64"],
    "split": ["float16", "bfloat16", "float32", "float64"],
    "quantized": ["float16", "bfloat16", "float32", "float64"],
}
CASES = [(coding, dtype) for coding, dtypes in SOURCES.items() for dtype in dtypes]
WHERE = [("A", "native"), ("A", "normal"), ("B", "native")]
# Lanes: a row of depth, or neighbours of a row; both also reversed, and far apart.
STRIDES = ["row", "column", "reversed lanes", "reversed depth", "gaps", "unaligned"]


@contextmanager
def instructions(name: str) -> Iterator[None]:
    before = _core.instruction_set()
    _core.use_instruction_set(name)
    try:
        yield
    finally:
        _core.use_instruction_set(before)


def in_memory(lanes, strides):
    """The same numbers in another kind of memory; `lanes` are rows."""
    if strides == "row":
        return lanes.copy()
    if strides == "column":
        return lanes.T.copy().T
    if strides == "reversed lanes":
        return lanes[::-1].copy()[::-1]
    if strides == "reversed depth":
        return lanes[:, ::-1].copy()[:, ::-1]
    if strides == "gaps":
        return np.repeat(np.repeat(lanes, 2, 0), 3, 1)[::2, ::3]
    shifted = np.zeros(lanes.nbytes + 1, np.uint8)
    shifted[1:] = np.ascontiguousarray(lanes.T).view(np.uint8).ravel()
    return np.ndarray(lanes.T.shape, lanes.dtype, shifted.data, 1).T


def numbers(rng, shape, dtype, kind):
    if dtype in ("int8", "uint8"):
        high = 1 if kind == "zeros" else 256
        return rng.integers(0, high, shape).astype(np.uint8).view(dtype)
    values = rng.standard_normal(shape)
    if kind == "wide":  # all magnitudes of float32, subnormal ones too
        values *= 2.0 ** rng.integers(-149, 127, shape)
    elif kind == "lanes":  # each lane of its own magnitude
        values *= 2.0 ** rng.integers(-140, 120, (shape[0], 1))
    elif kind == "ties":  # halves of a step, and numbers between two float16
        values = rng.integers(-4096, 4097, shape) / 2.0
    elif kind == "zeros":
        values *= rng.random(shape) < 0.1
        values[rng.random(shape[0]) < 0.5] = -0.0
    elif kind == "not finite" and values.size:
        values.flat[rng.integers(values.size)] = rng.choice([np.nan, -np.nan, np.inf, -np.inf])
    if dtype == "float16":
        limit = 2.0**40 if kind == "not finite" else 65504
        with np.errstate(over="ignore"):
            return np.where(np.isfinite(values), np.clip(values, -limit, limit), values).astype(
                np.float16
            )
    if dtype == "bfloat16":
        values = np.where(np.isfinite(values), np.clip(values, -3e38, 3e38), 3e38)
        return bfloat16_bits(values)
    return values.astype(dtype)


def pack(lanes, coding, matrix, dtype, surface, **settings):
    packed = _core.pack(
        lanes if matrix == "A" else lanes.T, coding, is_a=matrix == "A", surface_lanes=surface[0],
        surface_depth=surface[1], dtype=dtype, **settings,
    )  # fmt: skip
    # NaN are compared by their bits, and so are notes.
    return [part.tobytes() if isinstance(part, np.ndarray) else part for part in packed]


def check(isa, coding, dtype, where, strides, shape, kind, extra=(0, 0), **settings):
    rng = np.random.default_rng(shape[0] * 1000 + shape[1])
    lanes = in_memory(numbers(rng, shape, dtype, kind), strides)
    matrix, layout = where
    surface = (
        up(max(shape[0], 1), 4 if matrix == "A" else 32) + extra[0],
        up(max(shape[1], 1), 32) + extra[1],
    )
    if matrix == "A" and shape[0] == 1 and not extra[0]:
        surface = (1, surface[1])
    got = {}
    for name in ("portable", isa):
        with instructions(name):
            got[name] = pack(lanes, coding, matrix, dtype, surface, layout=layout, **settings)
    assert got[isa] == got["portable"]


KINDS = ["normal", "wide", "lanes", "ties", "zeros", "not finite"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("coding", "dtype"), CASES)
@pytest.mark.parametrize("where", WHERE, ids=" ".join)
@pytest.mark.parametrize("strides", STRIDES)
def test_every_instruction_set_packs_the_same_bits(isa, coding, dtype, where, strides):
    # Whole units and blocks, and one less and more of each.
    for shape in [(1, 1), (3, 15), (4, 16), (5, 17), (16, 32), (17, 63), (31, 64), (33, 65),
                  (47, 97), (65, 127), (70, 33), (129, 40)]:  # fmt: skip
        check(isa, coding, dtype, where, strides, shape, "wide" if shape[0] % 2 else "normal")


@given(
    st.sampled_from(ISAS),
    st.sampled_from(CASES),
    st.sampled_from(WHERE),
    st.sampled_from(STRIDES),
    st.tuples(st.integers(0, 150), st.integers(0, 150)),
    st.sampled_from(KINDS),
    st.sampled_from([(0, 0), (32, 0), (0, 32), (64, 96)]),
)
@example("avx2" if "avx2" in ISAS else ISAS[0], ("split", "float32"), WHERE[2], "column",
         (300, 40), "wide", (0, 0))  # fmt: skip
def test_tails_padding_and_all_magnitudes_are_the_same(
    isa, case, where, strides, shape, kind, extra
):
    check(isa, *case, where, strides, shape, kind, extra)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("strides", ["row", "column"])
@pytest.mark.parametrize("limit", [7, 119, 127])
@pytest.mark.parametrize("scale", [0.0, 0.125, 1.0, 3e-39, 2.0**-110, 2.0**110])
def test_quotients_are_rounded_as_a_division_rounds_them(isa, strides, limit, scale):
    for kind in ("normal", "ties", "lanes"):
        for where in WHERE:
            check(isa, "quantized", "float32", where, strides, (40, 70), kind,
                  limit=limit, scale=scale)  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("strides", ["row", "column"])
def test_quotients_next_to_the_middle_of_two_integers(isa, strides):
    """Where multiplying by the inverse would round to the other neighbour."""
    rng = np.random.default_rng(3)
    scales = (1 + rng.random(64)).astype(np.float32)
    middles = np.arange(-126.5, 127).astype(np.float32)
    near = (middles * scales[:, None]).view(np.int32)
    values = np.stack([near - 1, near, near + 1], axis=-1).view(np.float32).reshape(64, -1)
    for scale in scales[:8]:
        with np.errstate(over="ignore"):
            wanted = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        with instructions(isa):
            surface, *_ = _core.pack(
                in_memory(values, strides), "quantized", is_a=True, surface_lanes=64,
                surface_depth=up(values.shape[1], 32), scale=float(scale),
            )  # fmt: skip
        expected = surface_a(padded(wanted, 64, up(values.shape[1], 32)))
        np.testing.assert_array_equal(surface.view(np.int8), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("strides", ["row", "column"])
def test_parts_next_to_the_smallest_normal_float16(isa, strides):
    """Where rounding to 11 bits and rounding to a subnormal float16 go different ways."""
    near = (np.float32(2.0**-14) * np.float32(1 - 2.0**-12)).view(np.int32) + np.arange(
        -(2**12), 2**12
    )
    values = np.full((40, near.size + 1), 2.0**14, np.float32)  # which is not scaled
    values[:, 1:] = near.astype(np.int32).view(np.float32)
    values[1::2, 1:] *= -1
    got = []
    for name in ("portable", isa):
        with instructions(name):
            got.append(pack(in_memory(values, strides), "split", "B", "float32", (64, 8224)))
    assert got[0] == got[1]


@pytest.mark.parametrize("isa", [*ISAS, "portable"])
@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_row_major_a_is_the_matrix_itself(isa, dtype):
    rng = np.random.default_rng(5)
    matrix = rng.integers(-100, 100, (37, 90)).astype(dtype)
    matrix[:, 0] = -128 if dtype == "int8" else 127  # so that all lanes have one power of two
    with instructions(isa):
        surface, _, scales, *_ = _core.pack(
            matrix, "bytes" if dtype == "int8" else "half", is_a=True, surface_lanes=40,
            surface_depth=96, layout="normal",
        )  # fmt: skip
    whole = padded(matrix, 40, 96)
    if dtype == "int8":
        np.testing.assert_array_equal(surface.view(np.int8).reshape(40, 96), whole)
    else:
        packed = surface.view(np.float16).reshape(40, 96)
        np.testing.assert_array_equal(packed[:37] * scales[:, None], whole[:37])
        assert not packed[37:].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("coding", "dtype"), CASES)
@pytest.mark.parametrize("where", WHERE, ids=" ".join)
@pytest.mark.parametrize("strides", ["row", "column"])
def test_tiles_that_are_written_past_the_cache_are_the_same(isa, coding, dtype, where, strides):
    """Large enough to be streamed, wider than a panel, and at the planner's depth."""
    depth = 1024 if coding in ("half", "split") else 2048
    rng = np.random.default_rng(9)
    lanes = in_memory(numbers(rng, (150, depth), dtype, "normal"), strides)
    matrix, layout = where
    tile = 160
    halves = coding in ("half", "split")
    size = tile * depth * (2 if halves else 1)
    got = []
    for name in ("portable", isa):
        # On a line, as the NPU's memory is, so that it is streamed.
        memory = np.zeros(2 * size + 64, np.uint8)
        start = -memory.ctypes.data % 64
        surfaces, low = memory[start : start + size], memory[start + size : start + 2 * size]
        with instructions(name):
            _core.pack_tiles(
                lanes if matrix == "A" else lanes.T, coding, is_a=matrix == "A", tile_lanes=tile,
                tile_depth=depth, surfaces=surfaces, low=low if coding == "split" else None,
                dtype=dtype, layout=layout,
            )  # fmt: skip
        got.append(memory[start : start + 2 * size])
    np.testing.assert_array_equal(*got)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("where", WHERE, ids=" ".join)
@pytest.mark.parametrize("strides", ["row", "column"])
@pytest.mark.parametrize(("start", "low_start"), [(0, 16), (16, 0), (2, 2)])
def test_surfaces_may_begin_anywhere(isa, where, strides, start, low_start):
    """Also one on a line and the other not, which can't both be written past the cache."""
    rng = np.random.default_rng(13)
    lanes = in_memory(numbers(rng, (64, 1024), "float32", "normal"), strides)
    matrix, layout = where
    size = 64 * 1024 * 2
    got = []
    for name in ("portable", isa):
        parts = []
        for offset in (start, low_start):
            memory = np.zeros(size + 128, np.uint8)
            first = -memory.ctypes.data % 64 + offset
            parts.append(memory[first : first + size])
        with instructions(name):
            _core.pack_tiles(
                lanes if matrix == "A" else lanes.T, "split", is_a=matrix == "A", tile_lanes=64,
                tile_depth=1024, surfaces=parts[0], low=parts[1], dtype="float32", layout=layout,
            )  # fmt: skip
        got.append(parts)
    np.testing.assert_array_equal(*got)


def test_the_best_instructions_are_used_and_others_can_be_demanded():
    assert _core.instruction_set() == _core.instruction_sets()[-1]
    with instructions("portable"):
        assert _core.instruction_set() == "portable"
    for name in {"neon", "avx2", "avx512"} - set(ISAS):
        with pytest.raises(NpuError, match=name):
            _core.use_instruction_set(name)
    with pytest.raises(ValueError, match="mmx"):
        _core.use_instruction_set("mmx")

"""Unpacking, beside `memcpy` of as many bytes (read plus written). Host-measured, one thread.

Results of float32 have 96 MiB and more. They are unpacked from one surface as large as they are
("big"), or in tiles as the planner emits them, from three surfaces in turns, as a core has them.
Rows are 16 KiB, 15 KiB or 20004 bytes apart: a power of two is bad for caches, and the last begins
anywhere in a line. Answers are checked in the same run: a tile against the formula, all of them
against the portable loops.

What to conclude: the ratio in the last column, the median of pairs of one copy and one unpacking,
since the machine's mood changes faster than the whole takes. 1 would be as fast as memory can be
copied. Tiles come from the cache, where copying is faster and arithmetic is what is seen: doubles
for quantised sums and for the three sums of float32. On a board the ratios are others (its memory
is slower beside its cores, and NEON is what it has).
"""

from __future__ import annotations

import ctypes
from statistics import median
from time import perf_counter

import numpy as np
import pytest

from npublas import _core

PAIRS = 7
# Name: rows and columns of a tile, rows and columns of the result.
SHAPES = {
    "big": (8192, 4096, 8192, 4096),
    "tiles of 320×1024": (320, 1024, 6400, 4096),
    "tiles of 512×384": (512, 384, 8192, 3840),
    "tiles in odd rows": (320, 1024, 6400, 5001),
}
# Name: type of the sums, low sums, type of the result, accumulated, bias.
KINDS = {
    "int32": ("int32", False, "int32", False, False),
    "int32 to int8": ("int32", False, "int8", False, False),
    "int32 added": ("int32", False, "int32", True, False),
    "scaled float32": ("float32", False, "float32", False, False),
    "scaled float32 added": ("float32", False, "float32", True, False),
    "three float32 sums": ("float32", True, "float32", False, False),
    "quantized to float32": ("int32", False, "float32", False, False),
    "float32 to float64": ("float32", False, "float64", False, False),
    "bias, to float16": ("float32", False, "float16", False, True),
    "bias, to float32": ("float32", False, "float32", False, True),
    "transposed float32": ("float32", False, "float32", False, False),
}

memcpy = ctypes.CDLL(None).memcpy
memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def expected(main, low, layout, rows, columns):
    """Of one surface: what the formula says, with the scales that the binding takes."""

    def matrix(sums):
        if layout == "normal":
            return sums.reshape(rows, columns).astype(np.float64)
        return sums.reshape(-1, rows, 4).transpose(1, 0, 2).reshape(rows, columns).astype(float)

    values = matrix(main)
    if low is not None:
        values = values + (matrix(low[0]) + matrix(low[1])) * 2.0**-12
    return values


def shapes():
    for shape in SHAPES:
        timed = shape in ("big", "tiles of 512×384")
        yield pytest.param(shape, marks=[pytest.mark.timed] if timed else [])


@pytest.mark.parametrize("isa", [name for name in _core.instruction_sets() if name != "portable"])
@pytest.mark.parametrize("layout", ["native", "normal"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", list(shapes()))
def test_unpacking(benchmark, shape, kind, layout, isa, brief):
    rows, columns, all_rows, all_columns = SHAPES[shape]
    if brief:
        all_rows = 2 * rows
    sums_type, has_low, dtype, accumulate, has_bias = KINDS[kind]
    surfaces = 1 if shape == "big" else 3
    size = rows * columns
    rng = np.random.default_rng(1)
    if sums_type == "float32":  # with all their bits, as the sums of a product have them
        pattern = (rng.standard_normal(2**16) * 2.0**20).astype(sums_type)
    else:
        pattern = rng.integers(-(2**20), 2**20, 2**16).astype(sums_type)
    main = np.resize(pattern, surfaces * size)
    low = np.resize(pattern[::-1], 2 * surfaces * size) if has_low else None
    bias = np.arange(all_columns) / 64 if has_bias else None
    if kind.startswith("transposed"):
        result = np.ones((all_columns, all_rows), dtype).T
    else:
        result = np.ones((all_rows, all_columns), dtype)
    tiles = (all_rows // rows) * (all_columns // columns)
    each = size * (4 * (3 if has_low else 1) + result.itemsize * (2 if accumulate else 1)) // 2
    copied = np.ones(tiles * each, np.uint8)
    copied_from = np.ones(surfaces * each, np.uint8)

    def unpack():
        _core.unpack_tiles(
            main, low, result, tile=(rows, columns), layout=layout, accumulate=accumulate,
            bias=bias, dtype=dtype if has_bias else None,
        )  # fmt: skip

    def copy():
        for tile in range(tiles):
            memcpy(copied.ctypes.data + tile * each,
                   copied_from.ctypes.data + tile % surfaces * each, each)  # fmt: skip

    def seconds(action):
        start = perf_counter()
        action()
        return perf_counter() - start

    before = _core.instruction_set()
    try:
        _core.use_instruction_set(isa)
        unpack()
        # The first tile against the formula, all of it against the portable loops.
        values = expected(
            main[:size], None if low is None else (low[:size], low[size : 2 * size]),
            layout, rows, columns,
        )  # fmt: skip
        if dtype.startswith("float"):
            values = values * 2.0**-8
        if has_bias:
            values = values.astype(np.float32) + bias[:columns]
        start = 1 if accumulate else 0
        with np.errstate(over="ignore"):
            right = (values + start).astype(np.int64 if dtype == "int8" else dtype).astype(dtype)
        np.testing.assert_array_equal(result[:rows, :columns], right)
        if not accumulate:
            answer = result.copy()
            _core.use_instruction_set("portable")
            unpack()
            np.testing.assert_array_equal(result, answer)
            del answer
            _core.use_instruction_set(isa)
        benchmark.group = f"unpacking {kind}, {shape}, {layout}"
        if not benchmark.disabled:
            copy()
            ratios = [seconds(copy) / seconds(unpack) for _ in range(PAIRS)]
            benchmark.extra_info["of memcpy"] = round(median(ratios), 2)
            benchmark.extra_info["GB/s"] = round(2 * each * tiles / seconds(unpack) / 1e9, 1)
            print(f"\n{benchmark.group}, {isa}: {median(ratios):.2f} of memcpy")
        benchmark.pedantic(unpack, rounds=1 if benchmark.disabled else 3)
    finally:
        _core.use_instruction_set(before)

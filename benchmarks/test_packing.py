"""Packing, beside `memcpy` of as many bytes (read plus written). Host-measured, one thread.

The matrices are larger than the caches (128 MiB), and packed in the tiles that the planner emits:
of A 320 rows, of B 1024 columns, 1024 deep as float16 and 2048 deep as int8. Rows of the source are
a power of two apart, which is usual, and bad for caches, or a line more. Each answer is checked in
the same run: one tile against the formula of the layout, and against the portable packer.

What to conclude: the ratio in the last column, which is the median of pairs of one packing and one
copy, since a machine's mood changes faster than all of it takes. 1 would be as fast as memory can
be copied; packing B, or a strided matrix, reads memory in pieces of rows that are far apart.
On a board the ratios are others (its memory is slower beside its cores, and NEON is what it has);
what a planner is to count with there is what `npublas tune` measures.
"""

from __future__ import annotations

import ctypes
from statistics import median
from time import perf_counter

import numpy as np
import pytest

from npublas import _core

BYTES = 128 * 2**20
FEWEST_ROWS = 2048  # a tile's depth
PAIRS = 9
CODINGS = ["bytes int8", "shifted uint8", "half float16", "half float32", "split float32",
           "quantized float32", "half bfloat16", "half float64", "unscaled float16"]  # fmt: skip
WHERE = ["A", "normal A", "B"]
STRIDES = ["row-major", "transposed", "every other column"]
# The slow ones, of which it is enough to know that they aren't slower still.
FEW = ["half float32", "bytes int8"]

memcpy = ctypes.CDLL(None).memcpy
memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def on_pages(size):
    memory = np.empty(size + 4096, np.uint8)
    start = -memory.ctypes.data % 4096
    memory[start : start + size] = 1  # so that the pages are there
    return memory[start : start + size]


@pytest.fixture(scope="module")
def memory(brief):
    """Room for all surfaces, and for what is copied: one for all, since pages take their time."""
    size = BYTES // 4 if brief else BYTES
    return on_pages(3 * size), on_pages(3 * size), on_pages(2 * size)


@pytest.fixture(scope="module")
def source_of(brief):
    """The last source, which several cases in a row have."""
    kept = {}

    def make(kind, columns):
        if (kind, columns) not in kept:
            kept.clear()
            coding, dtype = kind.split()
            size = {"bfloat16": 2}.get(dtype) or np.dtype(dtype).itemsize
            shape = FEWEST_ROWS if brief else BYTES // size // 4096, columns
            rng = np.random.default_rng(1)
            if size == 1:
                matrix = rng.integers(0, 256, shape, dtype=np.uint8).view(dtype)
            else:
                matrix = rng.standard_normal(shape, dtype=np.float32)
                if coding == "unscaled":
                    matrix[:, ::16] = matrix[::16] = 40000
                if dtype == "bfloat16":
                    matrix = (matrix.view(np.uint32) >> 16).astype(np.uint16)
                matrix = matrix.astype("uint16" if dtype == "bfloat16" else dtype, copy=False)
            kept[kind, columns] = matrix
        return kept[kind, columns]

    yield make
    kept.clear()


def cases():
    for kind in CODINGS:
        for columns in (4096, 4096 + 64):
            for strides in STRIDES:
                for where in WHERE:
                    if strides == STRIDES[2] and (kind not in FEW or columns != 4096):
                        continue
                    marks = [pytest.mark.timed] if columns != 4096 else []
                    yield pytest.param(kind, columns, strides, where, marks=marks)


@pytest.mark.parametrize("isa", [name for name in _core.instruction_sets() if name != "portable"])
@pytest.mark.parametrize(("kind", "columns", "strides", "where"), list(cases()))
def test_packing(benchmark, memory, source_of, kind, columns, strides, where, isa):
    coding, dtype = kind.split()
    coding = "half" if coding == "unscaled" else coding
    matrix = source_of(kind, columns)[:, :4096]
    itemsize = matrix.itemsize
    matrix = {"row-major": matrix, "transposed": matrix.T}.get(strides, matrix[:, ::2])
    is_a = where != "B"
    halves = coding in ("half", "split")
    depth, lanes = (1024 if halves else 2048), (320 if is_a else 1024)
    # Whole tiles alone, so that all that is counted is moved.
    counts = np.array(matrix.shape if is_a else matrix.shape[::-1]) // (lanes, depth)
    used = counts * (lanes, depth)
    matrix = matrix[: used[0], : used[1]] if is_a else matrix[: used[1], : used[0]]
    surfaces, copied, low = memory
    options = {
        "is_a": is_a, "tile_lanes": lanes, "tile_depth": depth, "dtype": dtype,
        "layout": "normal" if where == "normal A" else "native",
    }  # fmt: skip
    packed_bytes = matrix.size * (2 if halves else 1)
    moved = matrix.size * itemsize + packed_bytes * (2 if coding == "split" else 1)
    low = low if coding == "split" else None

    def pack():
        _core.pack_tiles(matrix, coding, surfaces=surfaces, low=low, **options)

    def copy():
        memcpy(copied.ctypes.data, surfaces.ctypes.data, moved // 2)

    _core.use_instruction_set(isa)
    try:
        pack()
        check(matrix, coding, lanes, depth, options, surfaces, low, packed_bytes)
        copy()
        if not benchmark.disabled:
            ratios = [seconds(copy) / seconds(pack) for _ in range(PAIRS)]
            benchmark.extra_info["of memcpy"] = round(median(ratios), 2)
            benchmark.extra_info["MiB moved"] = round(moved / 2**20)
            print(f"\n{kind} to {where}, {strides}, rows of {columns}, {isa}: "
                  f"{median(ratios):.2f} of memcpy")  # fmt: skip
        benchmark.group = f"packing {kind}, {where} (host-measured)"
        benchmark.pedantic(pack, rounds=1 if benchmark.disabled else 3, iterations=1)
    finally:
        _core.use_instruction_set(_core.instruction_sets()[-1])


def seconds(function):
    start = perf_counter()
    function()
    return perf_counter() - start


def check(matrix, coding, lanes, depth, options, surfaces, low, packed_bytes):
    """The last tile: against the portable packer, and bytes against the formula of the layout."""
    size = lanes * depth * (2 if coding in ("half", "split") else 1)
    got = surfaces[packed_bytes - size : packed_bytes]
    got_low = None if low is None else low[packed_bytes - size : packed_bytes].copy()
    got = got.copy()
    is_a = options["is_a"]
    tile = matrix[-lanes:, -depth:] if is_a else matrix[-depth:, -lanes:]
    isa = _core.instruction_set()
    _core.use_instruction_set("portable")
    try:
        wanted, wanted_low, *_ = _core.pack(
            tile, coding, is_a=is_a, surface_lanes=lanes, surface_depth=depth,
            dtype=options["dtype"], layout=options["layout"],
        )  # fmt: skip
    finally:
        _core.use_instruction_set(isa)
    np.testing.assert_array_equal(got, wanted)
    if low is not None:
        np.testing.assert_array_equal(got_low, wanted_low)
    if coding == "bytes":
        tile = tile.view(np.int8) if is_a else tile.T.view(np.int8)
        if options["layout"] == "native":
            block = (lanes, depth // 16, 16) if is_a else (lanes // 32, 32, depth // 32, 32)
            tile = tile.reshape(block).transpose((1, 0, 2) if is_a else (0, 2, 1, 3))
        np.testing.assert_array_equal(got.view(np.int8), tile.ravel())

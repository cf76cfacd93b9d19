"""Plans cover every element once, stay inside their limits, and cut K in the same places always."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npublas import _core

SIZES = st.integers(1, 5000) | st.sampled_from([1, 2, 3, 4, 5, 31, 32, 33, 127, 128, 129, 1024])
METHODS = st.sampled_from(["integers", "float16", "float32", "int8"])
WINDOWS = st.integers(1 << 20, 1 << 30)


@given(
    batch=st.integers(1, 5), m=SIZES, k=SIZES, n=SIZES, method=METHODS, window=WINDOWS,
    cores=st.integers(1, 3),
)  # fmt: skip
def test_every_element_of_the_result_lies_in_exactly_one_block(
    batch, m, k, n, method, window, cores
):
    plan = _core.plan(batch, m, k, n, method, window_bytes=window, cores=cores)
    blocks = plan["blocks"]
    assert sum(rows * columns for _, _, rows, _, columns in blocks) == batch * m * n
    assert len({block[:2] + block[3:4] for block in blocks}) == len(blocks)
    corners = {(b, row + rows, column + columns) for b, row, rows, column, columns in blocks}
    assert max(corners) == (batch - 1, m, n)
    for b, row, rows, column, columns in blocks:
        assert 0 <= b < batch and 0 <= row < row + rows <= m and 0 <= column < column + columns <= n


@given(m=SIZES, k=SIZES, n=SIZES, method=METHODS, window=WINDOWS, cores=st.integers(1, 3))
def test_tiles_are_legal_and_fit_the_window(m, k, n, method, window, cores):
    plan = _core.plan(1, m, k, n, method, window_bytes=window, cores=cores)
    rows, depth, columns = plan["tile"]
    assert rows == 1 or rows % 4 == 0
    assert depth % 32 == 0 and columns % 32 == 0
    assert rows <= 2047 and columns <= 4096 and depth <= 8192
    assert plan["bytes"] <= window
    assert 1 <= plan["cores"] <= cores
    size = 1 if method in ("integers", "int8") else 2
    surfaces = rows * depth * size + depth * columns * size + rows * columns * 4
    assert plan["bytes"] >= surfaces * plan["cores"]


@given(
    k=st.integers(1, 200_000), n=SIZES, method=METHODS, limit=st.sampled_from([2048, 4096, 8192])
)
def test_depth_tiles_cover_k_and_depend_on_k_n_and_type_alone(k, n, method, limit):
    plans = [
        _core.plan(batch, m, k, n, method, cores=cores, window_bytes=window, max_depth=limit)
        for batch, m, cores, window in [
            (1, 1, 3, 1 << 30),
            (7, 513, 1, 8 << 20),
            (2, 9, 2, 2 << 20),
        ]
    ]
    assert len({(plan["tile"][1], plan["depth_tiles"]) for plan in plans}) == 1
    depth, tiles = plans[0]["tile"][1], plans[0]["depth_tiles"]
    assert (tiles - 1) * depth < k <= tiles * depth  # no tile is empty
    assert depth <= limit


@pytest.mark.parametrize("method", ["integers", "float16", "float32", "int8"])
def test_a_window_without_room_for_one_tile_has_no_plan(method):
    assert _core.plan(1, 64, 4096, 64, method, window_bytes=64 << 10) is None


def test_columns_are_split_over_the_cores_first():
    plan = _core.plan(1, 512, 512, 1536, "int8", cores=3)
    assert [block[3:] for block in plan["blocks"]] == [(0, 512), (512, 512), (1024, 512)]


def test_blocks_of_columns_are_shared_out_evenly():
    plan = _core.plan(1, 512, 512, 4096, "int8", cores=3)
    widths = [columns for *_, columns in plan["blocks"]]
    assert len(widths) % 3 == 0 and max(widths) - min(widths) <= 128


def test_rows_are_split_where_there_are_too_few_columns():
    plan = _core.plan(1, 1500, 384, 64, "float16", cores=3)
    assert plan["cores"] == 3
    assert [block[1:3] for block in plan["blocks"]] == [(0, 512), (512, 512), (1024, 476)]


def test_a_stack_is_shared_product_by_product():
    plan = _core.plan(12, 128, 64, 128, "float16", cores=3)
    assert [block[0] for block in plan["blocks"]] == list(range(12))


def test_few_contexts_serve_many_heights():
    heights = {_core.plan(1, m, 64, 32, "int8", cores=1)["tile"][0] for m in range(1, 2000)}
    assert len(heights) <= 20
    assert all(_core.plan(1, m, 64, 32, "int8", cores=1)["tile"][0] >= m for m in range(1, 513))


def test_a_tall_result_keeps_its_waiting_sums_small():
    plan = _core.plan(1, 100_000, 5000, 1000, "float16", cores=1)
    assert all(rows * columns <= 2 << 20 for _, _, rows, _, columns in plan["blocks"])


def test_runs_counts_every_tile():
    for m, k, n in itertools.product((1, 600, 1500), (100, 3000), (40, 3000)):
        plan = _core.plan(1, m, k, n, "float16")
        rows = plan["tile"][0]
        expected = sum(-(-block[2] // rows) for block in plan["blocks"]) * plan["depth_tiles"]
        assert plan["runs"] == expected

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


@given(
    m=SIZES, k=SIZES, n=SIZES, method=METHODS, window=WINDOWS, cores=st.integers(1, 3),
    files=st.integers(80, 400),
)  # fmt: skip
def test_tiles_are_legal_and_fit_the_window(m, k, n, method, window, cores, files):
    plan = _core.plan(1, m, k, n, method, window_bytes=window, cores=cores, files=files)
    rows, depth, columns = plan["tile"]
    assert rows == 1 or rows % 4 == 0
    assert depth % 32 == 0 and columns % 32 == 0
    assert plan["surface_rows"] <= 2044 and columns <= 4096 and depth <= 8192
    assert plan["bytes"] <= window and plan["files"] <= files
    assert 1 <= plan["cores"] <= cores
    size = 1 if method in ("integers", "int8") else 2
    parts = 2 if method == "float32" else 1
    slots = plan["a_slots"] * rows * depth + plan["b_slots"] * depth * columns
    sums = 3 * plan["cores"] * rows * columns * 4 * (3 if parts == 2 else 1)
    assert plan["bytes"] >= slots * size * parts + sums
    block_rows, block_columns = plan["block"]
    assert block_rows % rows == 0 or block_rows == m
    assert block_columns <= columns


@given(
    k=st.integers(1, 200_000), n=SIZES, method=METHODS, limit=st.sampled_from([2048, 4096, 8192])
)
def test_depth_tiles_cover_k_and_depend_on_k_n_and_type_alone(k, n, method, limit):
    slow = {"pack_bytes_per_second_all": 1e9}
    plans = [
        _core.plan(
            batch, m, k, n, method, cores=cores, window_bytes=window, max_depth=limit, rates=rates
        )
        for batch, m, cores, window, rates in [
            (1, 1, 3, 1 << 30, None),
            (7, 513, 1, 8 << 20, slow),
            (2, 9, 2, 2 << 20, None),
        ]
    ]
    assert len({(plan["tile"][1], plan["depth_tiles"]) for plan in plans}) == 1
    depth, tiles = plans[0]["tile"][1], plans[0]["depth_tiles"]
    assert (tiles - 1) * depth < k <= tiles * depth  # no tile is empty
    assert depth <= limit


@pytest.mark.parametrize("method", ["integers", "float16", "float32", "int8"])
def test_a_window_without_room_for_one_tile_has_no_plan(method):
    assert _core.plan(1, 64, 4096, 64, method, window_bytes=64 << 10) is None


@pytest.mark.parametrize("method", ["integers", "float16", "float32", "int8"])
def test_one_slot_of_each_is_enough(method):
    """The least window of a tile is found by trying: what fits it still has a plan that ends."""
    window = next(w for w in range(64 << 10, 2 << 20, 4 << 10)
                  if _core.plan(1, 300, 4096, 300, method, window_bytes=w))  # fmt: skip
    plan = _core.plan(1, 300, 4096, 300, method, window_bytes=window)
    assert (plan["a_slots"], plan["b_slots"], plan["cores"]) == (1, 1, 1)
    replayed = _core.replay(1, 300, 4096, 300, method, window_bytes=window)
    assert replayed["runs"] == plan["runs"]


def test_row_blocks_are_outside_panels():
    plan = _core.plan(2, 1500, 512, 3000, "int8", packed=(512, 1024))
    starts = [(batch, row, column) for batch, row, _, column, _ in plan["blocks"]]
    assert starts == sorted(starts) and len({column for *_, column in starts}) == 3


@pytest.mark.parametrize("method", ["integers", "float16", "float32"])
@pytest.mark.parametrize("shape", [(4096, 4096, 4096), (1500, 384, 1536), (128, 4096, 11008)])
def test_the_cores_have_the_same_to_do(method, shape):
    packed = _core.plan(1, *shape, method)["tile"][1], _core.columns_of_weights(1, shape[2], method)
    busy = _core.replay(1, *shape, method, packed=packed)["busy"]
    assert len(busy) == 3 and min(busy) >= 0.8 * max(busy)


def test_rows_are_split_where_there_are_too_few_columns():
    plan = _core.plan(1, 1500, 384, 64, "float16", cores=3)
    assert plan["cores"] == 3 and len({row for _, row, *_ in plan["blocks"]}) >= 3


def test_one_row_of_a_is_native_and_streams_its_weights_through_all_cores():
    for method in ("integers", "float16"):
        depth = _core.plan(1, 1, 4096, 4096, method)["tile"][1]
        width = _core.columns_of_weights(1, 4096, method)
        plan = _core.plan(1, 1, 4096, 4096, method, packed=(depth, width))
        assert plan["cores"] == 3 and len(plan["blocks"]) == 3
        assert plan["runs"] == 3 * plan["depth_tiles"]


def test_int8_rows_on_chip_decide_for_row_major_a_and_c():
    """320 rows of depth 1024 are one task there, 128 with native ones, for which B is streamed."""
    rates = _core.rates("target") | {
        "pack_bytes_per_second": 20e9, "pack_bytes_per_second_all": 80e9,
        "dram_bytes_per_second": 200e9,
    }  # fmt: skip
    plan = _core.plan(1, 4096, 1024, 4096, "int8", packed=(1024, 1376), rates=rates)
    assert plan["layout"] == "normal" and 128 < plan["tile"][0] <= 320


@pytest.mark.parametrize("method", ["integers", "float16", "float32"])
def test_a_large_window_packs_every_tile_once(method):
    shape = (1, 1500, 3000, 2000)
    plan, replayed = _core.plan(*shape, method), _core.replay(*shape, method)
    rows, _, columns = plan["tile"]
    assert replayed["packed_a"] == -(-1500 // rows) * plan["depth_tiles"]
    assert replayed["packed_b"] == -(-2000 // columns) * plan["depth_tiles"]


def test_a_stack_is_taken_product_by_product():
    plan = _core.plan(12, 128, 64, 128, "float16", cores=3)
    batches = [block[0] for block in plan["blocks"]]
    assert batches == sorted(batches) and set(batches) == set(range(12)) and plan["cores"] == 3


def test_few_contexts_serve_many_heights():
    heights = {_core.plan(1, m, 64, 32, "int8", cores=1)["tile"][0] for m in range(1, 2000)}
    assert len(heights) <= 50
    assert all(height == 1 or height % (4 if height < 16 else 16) == 0 for height in heights)


def test_runs_counts_every_tile():
    for m, k, n in itertools.product((1, 600, 1500), (100, 3000), (40, 3000)):
        plan = _core.plan(1, m, k, n, "float16")
        rows = plan["tile"][0]
        expected = sum(-(-block[2] // rows) for block in plan["blocks"]) * plan["depth_tiles"]
        assert plan["runs"] == plan["steps"] == expected
        split = _core.plan(1, m, k, n, "float32")
        assert split["runs"] == split["steps"] * (2 if split["layout"] == "normal" else 3)


@pytest.mark.parametrize("m", [128, 512, 4096])
def test_candidates_are_the_plan_and_the_others_with_the_fastest_first(m):
    plans = _core.plans(1, m, 1024, 1024, "float16", count=5)
    seconds = [plan["estimate"]["seconds"] for plan in plans]
    assert len(plans) == 5 and seconds[1:] == sorted(seconds[1:])
    plan = _core.plan(1, m, 1024, 1024, "float16")
    assert plans[0]["tile"] == plan["tile"] and plans[0]["block"] == plan["block"]


@pytest.mark.parametrize("method", ["integers", "float16", "float32"])
def test_heights_that_share_their_contexts_have_the_same_tiles(method):
    for most in (48, 144, 512):
        tiles = set()
        for m in range(most - 15, most + 1):
            plan = _core.plan(1, m, 300, 150, method)
            tiles.add((plan["layout"], plan["tile"]))
        assert len(tiles) == 1


def test_of_plans_with_few_runs_the_one_with_the_shortest_replay_is_chosen():
    product = {"batch": 1, "m": 128, "k": 1024, "n": 1024, "method": "float16"}
    product["packed"] = (1024, 512)
    first, second = _core.plans(**product, count=2)
    tiles = (second["layout"], *second["tile"], -(-128 // second["block"][0]))
    assert _core.replay(**product)["seconds"] <= _core.replay(**product, tiles=tiles)["seconds"]
    assert first["estimate"]["seconds"] > second["estimate"]["seconds"]  # which said otherwise


def test_weights_are_as_wide_as_keeps_all_cores_busy_with_one_row():
    for n in (1536, 4096, 11008, 100_000):
        width = _core.columns_of_weights(1, n, "integers")
        assert width <= 1408 and -(-n // width) % 3 == 0
    assert _core.columns_of_weights(1, 384, "integers") == 384  # too little to spread
    assert _core.columns_of_weights(3, 1000, "integers") == 1024  # a stack spreads by itself


def test_low_parts_that_there_are_not_cost_no_time_but_have_room():
    """Some may come all the same, of a float16 that is very small beside others of its row."""
    asked = (1, 1024, 1024, 1024, "float32")
    packed = (1024, _core.columns_of_weights(1, 1024, "float32"))
    times = {}
    for a, b in itertools.product((True, False), (True, False)):
        plan = _core.plan(*asked, packed=packed, a_has_low=a, b_has_low=b)
        rows, depth, columns = plan["tile"]
        times[a, b] = plan["estimate"]["seconds"]
        normal = plan["layout"] == "normal"
        assert plan["runs"] == plan["steps"] * (1 + (a and not normal) + b)
        assert plan["surface_rows"] == (2 * rows if normal else rows)
        slots = plan["a_slots"] * rows * depth + plan["b_slots"] * depth * columns
        assert plan["bytes"] >= 2 * 2 * slots + 3 * 3 * plan["cores"] * 4 * rows * columns
    assert times[True, True] > times[True, False] > times[False, False]
    assert times[True, True] > times[False, True] > times[False, False]


@given(m=SIZES, k=SIZES, n=SIZES, files=st.integers(80, 400), window=WINDOWS)
def test_without_low_parts_contexts_are_legal_for_both(m, k, n, files, window):
    low = {"a_has_low": False, "b_has_low": False}
    plan = _core.plan(1, m, k, n, "float32", window_bytes=window, files=files, **low)
    assert plan["surface_rows"] <= 2044
    assert plan["bytes"] <= window and plan["files"] <= files

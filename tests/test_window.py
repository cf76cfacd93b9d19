"""The memory window bounds what npublas holds, whatever is multiplied, and changes no result."""

from __future__ import annotations

import resource

import numpy as np
import pytest

import npublas
from npublas import _engine
from npublas.testing import simulator

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _on_the_simulator():
    npublas.set_config(runtime="simulator")
    _engine.close_engine()
    yield
    _engine.close_engine()
    npublas.set_config(memory_limit="auto", cores=3)


def operands(m=700, k=3000, n=900, dtype=np.float32):
    rng = np.random.default_rng(8)
    return rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)


def held():
    """What the process holds of the simulator while the engine is closed, with the peaks reset."""
    _engine.close_engine()
    simulator.reset()
    return simulator.counters()


def multiply(a, b):
    with npublas.config_context(device="npu", precision="float16", on_fallback="error"):
        return npublas.matmul(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_product_far_larger_than_the_window_stays_inside_it(dtype):
    rng = np.random.default_rng(8)
    a = rng.integers(-100, 100, (1500, 5000)).astype(dtype)
    b = rng.integers(-100, 100, (5000, 1100)).astype(dtype)
    with np.errstate(over="ignore"):
        npublas.set_config(memory_limit="1GiB")
        expected = multiply(a, b)
        npublas.set_config(memory_limit="8MiB")
        before = held()
        with simulator.settings(window_bytes=before["bytes"] + 8 * MIB):
            result = multiply(a, b)
            assert a.nbytes + b.nbytes + result.nbytes > 13 * MIB
            assert simulator.counters()["bytes_peak"] - before["bytes"] <= 8 * MIB
    info = npublas.memory_info()
    assert info.limit == 8 * MIB and info.peak <= 8 * MIB
    np.testing.assert_array_equal(result, expected)


def test_many_shapes_in_a_small_window_evict_and_stay_right():
    npublas.set_config(memory_limit="2MiB")
    rng = np.random.default_rng(1)
    before = held()
    for size in (40, 90, 200, 420, 800, 40, 300, 640):  # idle buffers of all would take 4 MiB
        a = rng.integers(-128, 128, (size, size)).astype(np.int8)
        b = rng.integers(-128, 128, (size, size)).astype(np.int8)
        np.testing.assert_array_equal(multiply(a, b), a @ b, err_msg=str(size))
        assert npublas.memory_info().used <= 2 * MIB
    assert npublas.memory_info().evictions > 0
    assert simulator.counters()["bytes_peak"] - before["bytes"] <= 2 * MIB


def multiply_many_shapes():
    for m in (1, 4, 8, 40, 100, 150):
        for k in range(32, 385, 32):
            a = np.ones((m, k), np.int8)
            multiply(a, a.T)


def test_contexts_are_bounded():
    before = held()
    multiply_many_shapes()  # 6 heights × 12 depths × 3 cores
    assert npublas.memory_info().contexts <= 96
    assert simulator.counters()["contexts_peak"] - before["contexts"] <= 96


def test_file_descriptors_are_bounded_by_half_of_what_the_process_may_open():
    before = held()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (120, hard))
    try:
        multiply_many_shapes()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert npublas.memory_info().file_descriptors <= 60
    assert simulator.counters()["fds_peak"] - before["fds"] <= 60


def test_a_repeated_product_allocates_nothing():
    a, b = operands(200, 300, 150)
    multiply(a, b)
    before = simulator.counters()
    for _ in range(20):
        multiply(a, b)
    after = simulator.counters()
    for name in ("rknn_create_mem", "rknn_matmul_create"):
        assert after[name] == before[name]


def test_a_repeated_product_of_one_run_binds_nothing_anew():
    # Its surfaces have a page each, so that any could be mistaken for another.
    npublas.set_config(cores=1)
    a, b = operands(4, 64, 64)
    with npublas.pack(b) as w:
        multiply(a, w)
        before = simulator.counters()["rknn_matmul_set_io_mem"]
        for _ in range(3):
            multiply(a, w)
        assert simulator.counters()["rknn_matmul_set_io_mem"] == before


def test_heights_of_one_bucket_share_a_context():
    # One run and one thread: nothing is synced beside anything else, for which a context is made.
    npublas.set_config(cores=1, threads=1)
    _, b = operands(4, 300, 64)
    multiply(operands(34, 300, 64)[0], b)
    before = simulator.counters()["rknn_matmul_create"]
    for m in (35, 41, 48):
        multiply(operands(m, 300, 64)[0], b)
    assert simulator.counters()["rknn_matmul_create"] == before


def test_results_do_not_depend_on_cores_window_or_height():
    a, b = operands()
    expected = multiply(a, b)
    for cores, window in [(1, "1GiB"), (2, "8MiB"), (3, "4MiB")]:
        npublas.set_config(cores=cores, memory_limit=window)
        np.testing.assert_array_equal(multiply(a, b), expected)
        for rows in (slice(0, 1), slice(5, 8), slice(100, 613)):
            np.testing.assert_array_equal(multiply(a[rows], b), expected[rows])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_smallest_window_has_room_for_tiles_of_any_depth(dtype):
    npublas.set_config(memory_limit="256KiB")
    for shape in ((1, 8192, 40), (70, 10300, 33), (300, 500, 4100)):
        multiply(*operands(*shape, dtype))
    assert npublas.memory_info().peak <= 256 << 10


def test_closing_the_engine_gives_everything_back():
    _engine.close_engine()
    before = simulator.counters()
    multiply(*operands(100, 100, 100))
    assert simulator.counters()["bytes"] > before["bytes"]
    _engine.close_engine()
    after = simulator.counters()
    for name in ("contexts", "buffers", "bytes", "fds"):
        assert after[name] == before[name]
    assert npublas.memory_info().limit == 0


def test_the_core_keeps_every_rule_of_the_runtime():
    simulator.reset()
    rng = np.random.default_rng(3)
    with simulator.settings(strict=1):  # CPU and device see their own copies until they are synced
        for m, k, n in [(1, 1, 1), (2, 33, 5), (3, 2049, 31), (5, 64, 100), (131, 1025, 65)]:
            a = rng.integers(-128, 128, (m, k)).astype(np.int8)
            b = rng.integers(-128, 128, (k, n)).astype(np.int8)
            for _ in range(2):
                np.testing.assert_array_equal(multiply(a, b), a @ b)
            # Exact in float16, and so are the sums in float32.
            result = multiply(a.astype(np.float32), b.astype(np.float32))
            np.testing.assert_array_equal(result, a.astype(np.int64) @ b.astype(np.int64))
    counters = simulator.counters()
    assert counters["runs"] > 0
    assert counters["violations"] == 0 and counters["stale_inputs"] == 0


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("flush", [0, 1])
def test_both_readings_of_what_nobody_has_measured_give_right_numbers(step, flush):
    rng = np.random.default_rng(3)
    _engine.close_engine()
    with simulator.settings(native_row_step=step, flush_subnormals=flush):
        for m in (1, 2, 3, 4, 5, 7, 130):
            a = rng.integers(-128, 128, (m, 65)).astype(np.int8)
            b = rng.integers(-128, 128, (65, 33)).astype(np.int8)
            np.testing.assert_array_equal(multiply(a, b), a @ b)
        # Far apart in one row: one of them would be gone, if it went to the device as a subnormal.
        a, b = np.zeros((1, 32), np.float16), np.eye(32, 2, dtype=np.float16)
        a[0, :2] = 32768.0, 2.0**-20
        result = npublas.matmul(a, b, device="npu")
        np.testing.assert_array_equal(result, a[:, :2])
        assert npublas.counters().fallbacks == 0
    _engine.close_engine()

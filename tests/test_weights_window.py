"""Packed weights live in the memory window: found there, pushed out, pinned, and never wrong."""

from __future__ import annotations

import itertools
import threading

import ml_dtypes
import numpy as np
import pytest

import npublas
from npublas import _engine
from npublas.testing import simulator

MIB = 1 << 20
NPU = {"device": "npu", "on_fallback": "error"}


@pytest.fixture(autouse=True)
def _on_the_simulator():
    npublas.set_config(runtime="simulator")
    _engine.close_engine()
    yield
    _engine.close_engine()
    npublas.set_config(memory_limit="auto", cores=3)


def multiply(x, w, **options):
    with npublas.config_context(**NPU):
        return npublas.matmul(x, w, **options)


def matrices(count, k=700, n=300, dtype=np.float32):
    rng = np.random.default_rng(3)
    return [rng.standard_normal((k, n)).astype(dtype) for _ in range(count)]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_200_products_by_20_weights_that_do_not_fit_stay_right_and_inside(precision):
    npublas.set_config(memory_limit="4MiB")
    sources = matrices(20)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((9, 700)).astype(np.float32)
    with npublas.config_context(precision=precision):
        expected = [multiply(x, source) for source in sources]
        weights = [npublas.pack(source) for source in sources]
    assert sum(w.nbytes for w in weights) > 4 * MIB
    _engine.close_engine()
    simulator.reset()
    before = simulator.counters()["bytes"]
    for which in rng.integers(0, 20, 200):
        rows = int(rng.integers(1, 10))
        np.testing.assert_array_equal(multiply(x[:rows], weights[which]), expected[which][:rows])
    info = npublas.memory_info()
    assert info.peak <= 4 * MIB and info.evictions > 10 and 0 < info.weights <= info.used
    assert simulator.counters()["bytes_peak"] - before <= 4 * MIB
    assert npublas.counters().work["weights_found"] > 0


def test_changing_the_number_of_rows_never_packs_again():
    (source,) = matrices(1)
    weights = npublas.pack(source)
    x = np.ones((600, 700), np.float32)
    multiply(x[:1], weights)
    filled = npublas.counters().work["weights_filled"]
    assert filled > 0
    for rows in (1, 2, 3, 4, 5, 64, 600):
        multiply(x[:rows], weights)
    assert npublas.counters().work["weights_filled"] == filled


def test_pinned_weights_stay_when_others_need_room():
    npublas.set_config(memory_limit="4MiB", cores=1)
    first, *others = [npublas.pack(w, precision="float16") for w in matrices(12)]
    pinned = npublas.pack(first.unpack(), precision="float16", pin=True)
    x = np.ones((4, 700), np.float32)
    multiply(x, pinned)
    held = npublas.memory_info().pinned
    assert held >= pinned.nbytes // 2
    for w in others:
        multiply(x, w)
    assert npublas.memory_info().evictions > 0 and npublas.memory_info().pinned == held
    filled = npublas.counters().work["weights_filled"]
    multiply(x, pinned)
    assert npublas.counters().work["weights_filled"] == filled
    pinned.close()
    assert npublas.memory_info().pinned == 0


def test_pins_take_half_of_the_window_at_most_and_the_rest_still_works():
    npublas.set_config(memory_limit="4MiB", cores=1)
    x = np.ones((4, 700), np.float32)
    sources = matrices(12)
    weights = [npublas.pack(w, precision="float16", pin=True) for w in sources]
    expected = [npublas.matmul(x, w, device="npu", precision="float16") for w in sources]
    for w, right in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(multiply(x, w), right)
    assert 0 < npublas.memory_info().pinned <= 2 * MIB
    big = np.ones((1100, 900), np.float32)
    np.testing.assert_array_equal(multiply(np.ones((70, 1100), np.float32), big), 1100.0)


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("shape", [(64, 1024, 1024), (300, 3000, 300)])
def test_pinned_weights_give_the_same_bits_in_a_window_that_can_not_hold_them(shape, cores):
    npublas.set_config(memory_limit="3MiB", cores=cores)
    m, k, n = shape
    x = np.random.default_rng(1).standard_normal((m, k)).astype(np.float16)
    (source,) = matrices(1, k, n, np.float16)
    expected = multiply(x, source)
    weights = npublas.pack(source, pin=True)
    for _ in range(4):
        np.testing.assert_array_equal(multiply(x, weights), expected)
    assert npublas.counters().work["retries"] == 0
    with simulator.fault("submit_failure", nth=1, count=2):
        npublas.matmul(x, weights, device="npu")
    np.testing.assert_array_equal(multiply(x, weights), expected)
    np.testing.assert_array_equal(multiply(x, source), expected)
    assert npublas.memory_info().peak <= 3 * MIB


def test_weights_that_are_closed_while_they_are_used_do_not_stay():
    (source,) = matrices(1, 4000, 500, np.int8)
    x = np.ones((600, 4000), np.int8)
    for _ in range(3):
        weights = npublas.pack(source, pin=True)
        with npublas.config_context(**NPU):
            run = npublas.wrap(npublas.linear)
        thread = threading.Thread(target=run, args=(x, weights))
        thread.start()
        while thread.is_alive() and npublas.memory_info().weights == 0:
            pass  # until the product is under way
        weights.close()
        thread.join()
        del weights
    info = npublas.memory_info()
    assert (info.weights, info.pinned) == (0, 0)


@pytest.mark.parametrize("flush", [0, 1])
def test_float16_of_mixed_magnitudes_has_the_same_bits_packed_or_not(flush):
    _engine.close_engine()
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((5, 300)) * 2.0 ** rng.integers(-20, 12, (5, 300))).astype(np.float16)
    b = (rng.standard_normal((300, 40)) * 2.0 ** rng.integers(-20, 12, (300, 40))).astype(
        np.float16
    )
    frozen = npublas.freeze(np.zeros((128, 128), np.float16) + np.float16(1e-6))
    ones = np.full((4, 128), 6e4, np.float16)
    with simulator.settings(flush_subnormals=flush), np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            npublas.matmul(x, npublas.pack(b), device="npu"), npublas.matmul(x, b, device="npu")
        )
        first, second, third = (multiply(ones, frozen) for _ in range(3))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)


def test_a_matrix_larger_than_the_window_streams_through_it():
    npublas.set_config(memory_limit="2MiB")
    (source,) = matrices(1, 2100, 1000)
    weights = npublas.pack(source)
    assert weights.nbytes > 4 * MIB
    x = np.random.default_rng(1).standard_normal((5, 2100)).astype(np.float32)
    np.testing.assert_array_equal(multiply(x, weights), multiply(x, source))
    assert npublas.memory_info().peak <= 2 * MIB


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 33, 31), (130, 1025, 97), (3, 5000, 65)])
def test_packed_and_unpacked_products_have_the_same_bits(precision, shape):
    m, k, n = shape
    rng = np.random.default_rng(2)
    x = rng.standard_normal((m, k)).astype(np.float32)
    b = rng.standard_normal((k, n)).astype(np.float32)
    with npublas.config_context(precision=precision, **NPU):
        expected = npublas.matmul(x, b)
        for source in (b, np.asfortranarray(b)):
            np.testing.assert_array_equal(x @ npublas.pack(source), expected)


@pytest.mark.parametrize(("a_type", "b_type"), [*itertools.product(["int8", "uint8"], repeat=2)])
@pytest.mark.parametrize("dtype", [None, np.int32])
def test_packed_integers_are_exact(a_type, b_type, dtype):
    rng = np.random.default_rng(2)
    x, b = (
        rng.integers(0, 256, shape).astype(np.uint8).view(kind)
        for shape, kind in (((7, 2100), a_type), ((2100, 40), b_type))
    )
    with npublas.config_context(**NPU):
        result = npublas.matmul(x, npublas.pack(b), dtype=dtype)
    exact = x.astype(np.int64) @ b.astype(np.int64)
    expected = np.matmul(x, b) if dtype is None else exact.astype(np.int32)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("x_bits", ["low parts", "none"])
@pytest.mark.parametrize("w_bits", ["low parts", "none"])
def test_zero_low_parts_are_left_out_of_packed_products(x_bits, w_bits):
    npublas.set_config(cores=1)
    rng = np.random.default_rng(2)
    x, b = rng.integers(-9, 10, (4, 64)), rng.integers(-9, 10, (64, 32))
    x = x.astype(np.float32) + (np.float32(2**-19) if x_bits == "low parts" else 0)
    b = b.astype(np.float32) + (np.float32(2**-19) if w_bits == "low parts" else 0)
    weights = npublas.pack(b)
    multiply(x, weights)
    before = npublas.counters().work["runs"]
    result = multiply(x, weights)
    # Both parts of x are multiplied by the high parts of b in one run.
    assert npublas.counters().work["runs"] - before == 1 + (w_bits == "low parts")
    np.testing.assert_array_equal(result, multiply(x, b))
    np.testing.assert_allclose(result, x.astype(np.float64) @ b, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("x_type", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(4, 100, 64), (1, 2048, 300), (1024, 1024, 1024)])
def test_what_is_planned_for_weights_of_one_part_is_what_runs(shape, x_type):
    m, k, n = shape
    rng = np.random.default_rng(2)
    x = rng.standard_normal((m, k)).astype(x_type)
    w = npublas.pack(rng.standard_normal((k, n)).astype(np.float16).astype(x_type))
    planned = npublas.explain(x, w).plan.runs
    before = npublas.counters().work["runs"]
    multiply(x, w)
    assert npublas.counters().work["runs"] - before == planned


def test_packing_float16_makes_products_faster():
    x = np.random.default_rng(3).standard_normal((2, 1024, 1024)).astype(np.float16)
    fresh, packed = npublas.explain(x[0], x[1]), npublas.explain(x[0], npublas.pack(x[1]))
    assert packed.npu_seconds < fresh.npu_seconds
    assert packed.on_npu or not fresh.on_npu


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 100, 64), (8, 64, 2048), (700, 300, 96), (1500, 64, 64)])
@pytest.mark.parametrize("window", ["1MiB", "64MiB"])
def test_low_parts_that_nobody_expected_are_multiplied_nevertheless(shape, dtype, window):
    npublas.set_config(memory_limit=window)
    m, k, n = shape
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((m, k)).astype(kind)
    x[:, ::3] = 6e4
    x[:, 1::3] = 1e-7  # 2^-39 of the largest: too small for the high part
    b = rng.standard_normal((k, n)).astype(kind)
    b[::3] = 0
    w = npublas.pack(b)
    assert not any(entry[3] for entry in w._weights.entries)
    result = multiply(x, w, dtype=np.float32)
    # The same matrices, of a type that is expected to have low parts.
    same = multiply(x.astype(np.float32), npublas.pack(b.astype(np.float32)))
    np.testing.assert_array_equal(result, same)
    exact = x.astype(np.float64) @ b.astype(np.float64)
    size = abs(x.astype(np.float64)) @ abs(b.astype(np.float64))
    assert (abs(result - exact) <= max(k, 10) * 2.0**-24 * size).all()
    high_alone = np.where(x.astype(np.float64) < 1e-6, 0, x.astype(np.float64)) @ b.astype(
        np.float64
    )
    assert (high_alone != exact).any()


@pytest.mark.parametrize("fault", ["submit_failure", "zeros", "bind_failure", "sync_failure"])
def test_a_device_that_fails_once_changes_no_result(fault):
    (source,) = matrices(1)
    weights = npublas.pack(source)
    x = np.random.default_rng(1).standard_normal((5, 700)).astype(np.float32)
    expected = multiply(x, weights)
    with simulator.fault(fault, nth=2, count=1):
        np.testing.assert_array_equal(multiply(x, weights), expected)
    np.testing.assert_array_equal(multiply(x, weights), expected)


def test_zeros_for_the_cross_terms_alone_are_noticed():
    npublas.set_config(cores=1)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 70)).astype(np.float32)
    for b in (rng.standard_normal((70, 40)), rng.integers(-9, 10, (70, 40))):
        b = b.astype(np.float32)
        expected = multiply(x, b)
        with simulator.fault("zeros", nth=2, count=1):
            np.testing.assert_array_equal(multiply(x, b), expected)
        assert npublas.counters().work["retries"] > 0

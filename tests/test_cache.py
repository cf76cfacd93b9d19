"""Weights that nobody packed are known again, where their elements can't change."""

from __future__ import annotations

import gc
import mmap

import numpy as np
import pytest

import npublas
from npublas import _cache

pytestmark = pytest.mark.usefixtures("device")
NPU = {"device": "npu", "on_fallback": "error"}


@pytest.fixture(autouse=True)
def _empty_cache():
    _cache.clear()
    yield
    _cache.clear()


def operands(dtype=np.float32, k=200, n=150):
    rng = np.random.default_rng(5)
    a, b = rng.integers(-9, 9, (7, k)), rng.integers(-9, 9, (k, n))
    return a.astype(dtype), b.astype(dtype)


def multiply_thrice(a, b):
    with npublas.config_context(**NPU):
        return [npublas.matmul(a, b) for _ in range(3)]


def cache():
    return npublas.counters().cache


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8"])
def test_a_frozen_matrix_is_packed_once_and_changes_no_bit(dtype):
    a, b = operands(dtype)
    expected = multiply_thrice(a, b)[0]
    npublas.reset_counters()
    for result in multiply_thrice(a, npublas.freeze(b)):
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == expected.dtype and type(result) is np.ndarray
    assert (cache().hits, cache().misses, cache().matrices) == (1, 2, 1)
    assert cache().nbytes > 0 and "1 of 3 times found packed" in repr(npublas.counters())


def test_rounding_is_the_same_packed_or_not():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((33, 1100)).astype(np.float32)
    b = rng.standard_normal((1100, 130)).astype(np.float32)
    expected = multiply_thrice(a, b)[0]
    for result in multiply_thrice(a, npublas.freeze(b)):
        np.testing.assert_array_equal(result, expected)


def test_memory_that_can_change_is_never_cached():
    a, b = operands()
    view = b.view()
    view.flags.writeable = False  # its base isn't
    owner = b.copy()
    owner.flags.writeable = False  # and could be made writeable again
    buffer = np.frombuffer(bytearray(b.tobytes()), np.float32).reshape(b.shape)
    buffer.flags.writeable = False
    for matrix in (b, view, owner, buffer):
        multiply_thrice(a, matrix)
    assert (cache().hits, cache().matrices) == (0, 0)
    b[:] = 1
    np.testing.assert_array_equal(multiply_thrice(a, view)[0], a @ b)


def test_read_only_mappings_of_files_are_cached_and_private_ones_are_not(tmp_path):
    a, b = operands()
    path = tmp_path / "weights"
    path.write_bytes(b.tobytes())
    mapped = np.memmap(path, np.float32, "r", shape=b.shape)
    for result in multiply_thrice(a, mapped):
        np.testing.assert_array_equal(result, a @ b)
        assert type(result) is np.ndarray
    assert (cache().hits, cache().matrices) == (1, 1)
    private = np.memmap(path, np.float32, "c", shape=b.shape)
    private.flags.writeable = False
    multiply_thrice(a, private)
    assert cache().matrices == 1
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        matrix = np.frombuffer(mapping, np.float32).reshape(b.shape)
        assert _cache.owner_of(matrix) is mapping
        del matrix


def test_transposed_and_sliced_views_of_frozen_memory_are_matrices_of_their_own():
    a, b = operands(k=200, n=200)
    frozen = npublas.freeze(b)
    a = np.ones((3, 200), np.float32)
    for matrix, plain in [(frozen, b), (frozen.T, b.T), (frozen[::-1], b[::-1])]:
        for result in multiply_thrice(a, matrix):
            np.testing.assert_array_equal(result, a @ plain)
    assert cache().matrices == 3


def test_what_nobody_has_any_more_is_forgotten():
    a, b = operands()
    frozen = npublas.freeze(b)
    multiply_thrice(a, frozen)
    assert cache().matrices == 1
    del frozen
    gc.collect()
    multiply_thrice(a, npublas.freeze(b + 1))  # looks around when it adds its own
    assert cache().matrices == 1


def test_no_more_than_half_of_the_window_is_kept_packed():
    a, b = operands()
    npublas.set_config(memory_limit="512KiB")
    frozen = [npublas.freeze(b + i) for i in range(6)]
    for matrix in frozen:
        for result in multiply_thrice(a, matrix):
            np.testing.assert_array_equal(result, a @ matrix)
    assert 1 <= cache().matrices < 6 and cache().nbytes <= 256 << 10


def test_settings_that_keep_the_product_off_the_npu_pack_nothing():
    a, b = operands()
    frozen = npublas.freeze(b)
    for _ in range(3):
        np.testing.assert_array_equal(npublas.matmul(a, frozen, device="cpu"), a @ b)
        np.testing.assert_array_equal(npublas.matmul(a, frozen), a @ b)  # small: faster there
    assert cache().matrices == 0


def test_other_keywords_and_types_take_the_ordinary_way():
    a, b = operands()
    frozen = npublas.freeze(b)
    out = np.empty((7, 150), np.float32)
    for _ in range(3):
        assert npublas.matmul(a, frozen, out=out, device="npu") is out
        np.testing.assert_array_equal(out, a @ b)
        np.testing.assert_array_equal(npublas.matmul(a.astype(np.float64), frozen), a @ b)
    assert cache().matrices == 0


def test_nan_in_frozen_weights_gives_numpys_result():
    a, b = operands()
    b[3, 4] = np.nan
    for _ in range(3):
        result = npublas.matmul(a, npublas.freeze(b), device="npu")
        np.testing.assert_array_equal(result, a @ b)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_freeze_copies_values_type_and_order(shape, order):
    source = np.asarray(np.random.default_rng(1).standard_normal(shape), order=order)
    frozen = npublas.freeze(source)
    assert frozen.dtype == source.dtype and frozen.shape == shape
    assert frozen.flags[f"{order}_CONTIGUOUS"] and not frozen.flags.writeable
    np.testing.assert_array_equal(frozen, source)
    source[...] = 7
    assert not (frozen == 7).any()
    with pytest.raises(ValueError, match="WRITEABLE"):
        frozen.flags.writeable = True


def test_arrays_of_objects_cannot_be_frozen():
    with pytest.raises(TypeError, match="frozen"):
        npublas.freeze(np.array([object()]))

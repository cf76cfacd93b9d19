"""int8 and uint8 in one product, and their exact sums in int32: NumPy's numbers and rules."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npublas
from npublas import _engine
from npublas.testing import simulator

NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"
BYTES = [np.int8, np.uint8]
PAIRS = list(itertools.product(BYTES, BYTES))
MIXED = [(np.int8, np.uint8), (np.uint8, np.int8)]
needs_loops = pytest.mark.skipif(not NUMPY_2, reason="NumPy 1.26 widens mixed operands")

# Around a block of csrc/numpy/cpu.cpp (256, 512 and 1024 deep) and a tile of the NPU (2048).
# At odd ones the sums are odd, too.
DEPTHS = [1, 31, 255, 256, 257, 511, 512, 513, 1023, 1025, 2049]


@pytest.fixture(autouse=True)
def _simulator():
    npublas.set_config(runtime="simulator")
    yield
    _engine.close_engine()


def full(shape, dtype, which):
    return np.full(shape, getattr(np.iinfo(dtype), which), dtype)


def random(rng, shape, dtype):
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def exact(a, b):
    return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)


@pytest.mark.parametrize("device", ["npu", "cpu"])
@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("pair", PAIRS)
def test_sums_in_int32_are_exact_at_the_extremes(device, k, pair):
    for which in itertools.product(["min", "max"], repeat=2):
        a, b = full((5, k), pair[0], which[0]), full((k, 33), pair[1], which[1])
        b[-1] = 1  # an odd sum, which float32 can't hold beyond 2^24
        result = npublas.matmul(a, b, dtype=np.int32, device=device)
        np.testing.assert_array_equal(result, exact(a, b).astype(np.int32), strict=True)


@needs_loops
def test_operands_are_not_widened():
    npublas.set_config(device="npu", on_fallback="error")
    for pair in PAIRS:
        a, b = np.ones((9, 40), pair[0]), np.ones((40, 7), pair[1])
        npublas.matmul(a, b, dtype=np.int32)
        npublas.matmul(a, b)
    assert {row.dtype for row in npublas.counters().reasons} == {"int8", "uint8"}
    assert npublas.counters().npu.products == 8


@pytest.mark.parametrize("device", ["npu", "cpu"])
@pytest.mark.parametrize("pair", MIXED)
def test_mixed_results_are_numpys_int16_and_wrap_around(device, pair):
    a, b = full((4, 300), pair[0], "max"), full((300, 5), pair[1], "max")
    expected = np.matmul(a, b)
    assert expected.dtype == np.int16 and (expected != exact(a, b)).all(), "the sums wrap around"
    np.testing.assert_array_equal(npublas.matmul(a, b, device=device), expected, strict=True)


SIZES = st.sampled_from([0, 1, 2, 5, 31, 33])


@given(
    SIZES,
    st.sampled_from([0, 1, 7, 32, 300, 1030]),
    SIZES,
    st.sampled_from(PAIRS),
    st.sampled_from(["npu", "cpu"]),
    st.sampled_from([None, np.int32, np.int16, np.int64, np.float32]),
    st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_any_product_is_numpys(m, k, n, pair, device, dtype, seed):
    rng = np.random.default_rng(seed)
    a, b = random(rng, (2, k, m), pair[0]).swapaxes(1, 2), random(rng, (k, 2 * n), pair[1])[:, ::-2]
    if dtype is np.float32 and device == "npu":
        return  # sums of floats: see test_products.py
    result = npublas.matmul(a, b, dtype=dtype, device=device)
    np.testing.assert_array_equal(result, np.matmul(a, b, dtype=dtype), strict=True)


CALLS = {
    "plain": {},
    "dtype int16": {"dtype": np.int16},
    "dtype int64": {"dtype": np.int64},
    "dtype uint8, unsafe": {"dtype": np.uint8, "casting": "unsafe"},
    "dtype int8": {"dtype": np.int8},
    "dtype float32": {"dtype": np.float32},
    "dtype text": {"dtype": "U3"},
    "signature of one type": {"signature": "ii->i"},
    "signature of int16": {"signature": "hh->h"},
    "out int16": {"out": np.int16},
    "out int32": {"out": np.int32},
    "out int64": {"out": np.int64},
    "out int8": {"out": np.int8},
    "out uint16": {"out": np.uint16},
    "out float32": {"out": np.float32},
    "safe casting": {"casting": "safe"},
    "order": {"order": "F"},
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", CALLS)
def test_numpys_arguments_mean_what_they_mean_to_numpy(pair, name):
    rng = np.random.default_rng(1)
    a, b = random(rng, (3, 50), pair[0]), random(rng, (50, 4), pair[1])

    def outcome(matmul):
        options = dict(CALLS[name])
        if "out" in options:
            options["out"] = np.zeros((3, 4), options["out"])
        try:
            result = matmul(a, b, **options)
        except TypeError as error:
            return type(error), str(error)
        return result.dtype, result.strides, result.tolist()

    assert outcome(npublas.matmul) == outcome(np.matmul)


@needs_loops
@pytest.mark.parametrize("casting", ["no", "equiv"])
@pytest.mark.parametrize("pair", MIXED)
def test_casting_that_forbids_widening_forbids_what_stands_for_it(pair, casting):
    a, b = np.ones((3, 5), pair[0]), np.ones((5, 4), pair[1])
    for matmul in (np.matmul, npublas.matmul):
        with pytest.raises(TypeError, match="casting rule"):
            matmul(a, b, casting=casting)


def test_a_failing_npu_leaves_right_sums():
    npublas.set_config(device="npu")
    rng = np.random.default_rng(2)
    for pair in PAIRS:
        a, b = random(rng, (40, 700), pair[0]), random(rng, (700, 50), pair[1])
        npublas.matmul(a, b)  # opens the engine
        for kind in ("submit_failure", "zeros", "lost_device"):
            with simulator.fault(kind, count=0):
                result = npublas.matmul(a, b, dtype=np.int32)
            np.testing.assert_array_equal(result, exact(a, b).astype(np.int32), strict=True)

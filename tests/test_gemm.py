"""gemm: SciPy's sgemm in arguments and numbers, on the NPU and on the CPU.

SciPy itself is no part of the tests: the oracle is the formula in double.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npublas
from npublas import _engine
from npublas.testing import simulator

U = 2.0**-24
UNIT = {np.float16: 2.0**-11, np.float32: U, np.float64: 2.0**-53}


@pytest.fixture(autouse=True, params=["npu", "cpu"])
def where(request):
    npublas.set_config(
        runtime="simulator", device=request.param, on_fallback="error", float64="float32"
    )
    yield request.param
    _engine.close_engine()


def random(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def expected(alpha, a, b, beta=0.0, c=None):
    product = alpha * np.matmul(a.astype(np.float64), b.astype(np.float64))
    return product if c is None else product + beta * c.astype(np.float64)


def assert_right(result, alpha, a, b, beta=0.0, c=None, unit=U):
    """The sums in float32, or as told; alpha and beta in double; one rounding to the result."""
    size = np.matmul(abs(a.astype(np.float64)), abs(b.astype(np.float64)))
    sums = abs(alpha) * max(a.shape[1], 10) * unit * size
    exact = expected(alpha, a, b, beta, c)
    once = UNIT[result.dtype.type] * (abs(exact) + sums)
    assert result.shape == exact.shape
    assert (abs(result - exact) <= sums + once + 2.0**-25).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("trans", list(itertools.product((0, 1, 2), repeat=2)))
def test_every_transposition_is_the_formula(trans, dtype, where):
    a, b, c = random(0, 33, 70, dtype=dtype), random(1, 70, 41, dtype=dtype), random(2, 33, 41)
    c = c.astype(dtype)
    left, right = (a.T.copy() if trans[0] else a), (b.T.copy() if trans[1] else b)
    result = npublas.gemm(1.5, left, right, -0.5, c, *trans)
    assert result.dtype == dtype and not np.may_share_memory(result, c)
    assert_right(result, 1.5, a, b, -0.5, c, U if where == "npu" or dtype != np.float64 else 1e-16)
    assert npublas.counters().npu.products == (where == "npu")


def test_arguments_are_scipys_by_position_and_name():
    a, b, c = np.eye(3, dtype=np.float32), random(0, 3, 3), random(1, 3, 3)
    by_position = npublas.gemm(2.0, a, b, 3.0, c, 0, 1, 0)
    by_name = npublas.gemm(alpha=2.0, a=a, b=b, beta=3.0, c=c, trans_a=0, trans_b=1, overwrite_c=0)
    np.testing.assert_array_equal(by_position, by_name)
    np.testing.assert_allclose(by_name, 2 * b.T + 3 * c, rtol=1e-6, atol=1e-6)


@given(
    st.sampled_from([0, 1, 5, 33]),
    st.sampled_from([0, 1, 7, 300]),
    st.sampled_from([0, 1, 4, 33]),
    st.sampled_from([0.0, 1.0, -2.5]),
    st.sampled_from([0.0, 1.0, 0.3]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["npu", "cpu"]),
)
@settings(max_examples=100, deadline=None)
def test_any_shape_scale_and_order(m, k, n, alpha, beta, fortran, overwrite, device):
    a, b, c = random(m, m, k), random(n, k, n), random(k, m, n)
    if fortran:
        a, b, c = np.asfortranarray(a), np.asfortranarray(b), np.asfortranarray(c)
    before = c.copy()
    result = npublas.gemm(alpha, a, b, beta, c, overwrite_c=overwrite, device=device)
    assert (result is c) == overwrite
    if not overwrite:
        np.testing.assert_array_equal(c, before)
    assert_right(result, alpha, a, b, beta, before)


def test_without_beta_c_is_not_read():
    a, b = random(0, 5, 7), random(1, 7, 6)
    nan = np.full((5, 6), np.nan, np.float32)
    assert_right(npublas.gemm(1.0, a, b, c=nan), 1.0, a, b)
    assert_right(npublas.gemm(1.0, a, b, 0, nan, overwrite_c=1), 1.0, a, b)


def test_with_alpha_0_a_and_b_are_not_read():
    nan, c = np.full((5, 5), np.nan, np.float32), random(0, 5, 5)
    np.testing.assert_array_equal(npublas.gemm(0, nan, nan, 2, c), 2 * c)
    np.testing.assert_array_equal(npublas.gemm(0, nan, nan), np.zeros((5, 5), np.float32))


def test_beta_without_c_counts_for_nothing():
    a, b = random(0, 5, 7), random(1, 7, 6)
    assert_right(npublas.gemm(1.0, a, b, beta=3.0), 1.0, a, b)


KEPT = {
    "of a narrower dtype": lambda c: c.astype(np.float16),
    "read-only": lambda c: np.frombuffer(c.tobytes(), np.float32).reshape(c.shape),
    "of other byte order": lambda c: c.astype(">f4"),
    "a list": lambda c: c.tolist(),
    "unaligned": lambda c: np.ndarray(c.shape, "f4", bytearray(b"x" + c.tobytes()), 1),
}


@pytest.mark.parametrize("name", KEPT)
def test_c_that_can_not_be_overwritten_stays_as_it_is(name):
    a, b, plain = random(0, 5, 7), random(1, 7, 6), random(2, 5, 6)
    plain = plain.astype(np.float16).astype(np.float32)
    c = KEPT[name](plain)
    result = npublas.gemm(2.0, a, b, 0.5, c, overwrite_c=1)
    assert result is not c
    np.testing.assert_array_equal(c, plain)
    assert_right(result.astype(np.float32), 2.0, a, b, 0.5, plain)


def test_c_that_overlaps_an_operand_is_not_overwritten():
    a, b = random(0, 6, 6), random(1, 6, 6)
    before = a.copy()
    for c in (a, a.T, a[::-1]):
        old = c.copy()
        result = npublas.gemm(1.0, a, b, 2.0, c, overwrite_c=1)
        np.testing.assert_array_equal(a, before)
        assert_right(result, 1.0, a, b, 2.0, old)


def test_c_of_any_strides_is_overwritten_in_place():
    a, b = random(0, 33, 70), random(1, 70, 41)
    whole = random(2, 82, 66)
    c = whole[::-2, ::2].T
    old, others = c.copy(), whole[:, 1::2].copy()
    assert npublas.gemm(2.0, a, b, 0.5, c, overwrite_c=1) is c
    assert_right(c, 2.0, a, b, 0.5, old)
    np.testing.assert_array_equal(whole[:, 1::2], others)


BAD = {
    "trans_a": (ValueError, {"trans_a": 3}, "trans_a must be 0, 1 or 2"),
    "trans_b": (ValueError, {"trans_b": -1}, "trans_b must be 0, 1 or 2"),
    "shapes": (ValueError, {"trans_a": 1}, "5 columns, and op"),
    "c's shape": (ValueError, {"c": np.ones((6, 5))}, r"\(6, 5\), and the result \(5, 6\)"),
    "three axes": (ValueError, {"a": np.ones((1, 5, 7))}, "3 axes"),
    "complex": (TypeError, {"a": np.ones((5, 7), np.complex64)}, "complex64"),
    "complex c": (TypeError, {"c": np.ones((5, 6), complex)}, "complex128"),
    "complex alpha": (TypeError, {"alpha": 1j}, "alpha is 1j; .* real numbers"),
    "complex beta": (TypeError, {"beta": np.complex64(1)}, "beta is .* real numbers"),
    "complex alpha in an array": (TypeError, {"alpha": np.ones(1) * 1j}, "alpha is .* real num"),
    "two alphas": (TypeError, {"alpha": [1.0, 2.0]}, r"alpha must be one number.*\(2,\)"),
    "alpha of text": (TypeError, {"alpha": "1"}, "real numbers"),
    "packed weights": (TypeError, {"b": npublas.pack(np.ones((7, 6)))}, r"b is a Packed.*linear\("),
    "quantised weights": (TypeError, {"b": npublas.quantize(np.ones((7, 6)))}, r"linear\("),
    "text": (ValueError, {"a": [["x"]]}, "float"),
    "device": (ValueError, {"device": "gpu"}, "device must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_call_is_an_error_that_says_why(name):
    error, wrong, text = BAD[name]
    with pytest.raises(error, match=text):
        npublas.gemm(**{"alpha": 1.0, "a": np.ones((5, 7)), "b": np.ones((7, 6)), **wrong})


def test_vectors_are_columns_and_whole_numbers_are_float64():
    np.testing.assert_array_equal(npublas.gemm(1, [1, 2], [[3, 4]]), np.outer([1.0, 2], [3, 4]))
    np.testing.assert_array_equal(npublas.gemm(1, [1, 2], [3, 4], trans_a=1), [[11.0]])
    assert npublas.gemm(1, np.eye(2, dtype="i1"), np.eye(2, dtype=">f4")).dtype == np.float64


def test_factors_may_be_arrays_of_one_element():
    a, b, c = random(0, 5, 7), random(1, 7, 6), random(2, 5, 6)
    for alpha, beta in [
        (np.array(2.0), [3]),
        (np.array([[2]]), np.float16([3])),
        ([2.0], True * 3),
    ]:
        np.testing.assert_array_equal(
            npublas.gemm(alpha, a, b, beta, c), npublas.gemm(2.0, a, b, 3.0, c)
        )


def test_bytes_become_float64():
    a = np.full((2, 3), 100, np.int8)
    result = npublas.gemm(1, a, a.view(np.uint8), trans_b=1)
    np.testing.assert_array_equal(result, np.full((2, 2), 30000.0), strict=True)


def test_bfloat16_promotes_with_every_float():
    bfloat16 = ml_dtypes.bfloat16
    a, b = np.eye(5).astype(bfloat16), np.arange(15).reshape(5, 3)
    for dtype, wanted in [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), (bfloat16, bfloat16)]:
        for left, right in [(a, b.astype(dtype)), (a.astype(dtype), b.astype(bfloat16))]:
            result = npublas.gemm(1, left, right)
            assert result.dtype == wanted
            np.testing.assert_array_equal(result.astype(float), b)
        c = np.ones((5, 3)).astype(dtype)
        result = npublas.gemm(2, a, b.astype(bfloat16), 1, c)
        assert result.dtype == wanted
        np.testing.assert_array_equal(result.astype(float), 2 * b + 1)


def test_mixed_dtypes_promote():
    a, b, c = random(0, 5, 7, dtype=np.float16), random(1, 7, 6), random(2, 5, 6, dtype=np.float16)
    assert npublas.gemm(1, a, b).dtype == np.float32
    assert npublas.gemm(1, a, a, trans_b=1).dtype == np.float16
    result = npublas.gemm(1, a, a[:, ::-1].copy(), 1, random(3, 5, 5), trans_b=1)
    assert result.dtype == np.float32
    assert npublas.gemm(1, a, b, 1, c, overwrite_c=1) is not c


# --- When the NPU fails ---------------------------------------------------------------------------

FAULTS = ["submit_failure", "zeros", "lost_device", "enomem", "bind_failure", "sync_failure"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 0], ids=["once", "from then on"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_npu_that_fails_in_the_middle_loses_nothing_of_c(fault, count, dtype, where):
    """Blocks that were finished before the failure must not be scaled and added a second time."""
    npublas.set_config(device="npu", on_fallback="allow")
    a, b = random(0, 60, 1500, dtype=dtype), random(1, 1500, 1100, dtype=dtype)
    c = random(2, 60, 1100).astype(dtype)
    npublas.gemm(1.0, a, b)
    for nth in (1, 2, 3, 5, 7):
        before = c.copy()
        with simulator.fault(fault, nth=nth, count=count):
            assert npublas.gemm(0.01, a, b, 1.0, c, overwrite_c=1) is c
        assert_right(c, 0.01, a, b, 1.0, before)


@pytest.mark.parametrize("strided", [False, True])
def test_a_forbidden_fallback_leaves_c_as_it_was(strided):
    npublas.set_config(device="npu")
    a, b = random(0, 60, 1500), random(1, 1500, 1100)
    c = random(2, 60, 2200)[:, ::2] if strided else random(2, 60, 1100)
    before = c.copy()
    for nth in (1, 4):
        with (
            simulator.fault("submit_failure", nth=nth, count=0),
            pytest.raises(npublas.FallbackError),
        ):
            npublas.gemm(1.0, a, b, 1.0, c, overwrite_c=1)
        np.testing.assert_array_equal(c, before)

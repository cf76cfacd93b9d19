"""`quantize` and `dequantize`: the formula, its bounds, its layouts, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import npublas
from npublas._hadamard import Rotation
from npublas._symmetric import split_nibbles

RNG = np.random.default_rng(5)
Q_MAX = {8: 127, 4: 7}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def formula(lane: np.ndarray, q_max: int) -> tuple[np.ndarray, np.float32]:
    """One lane, as docs/quantization.md says it."""
    scale = np.float32(max(map(abs, lane), default=np.float32(0))) / np.float32(q_max)
    if scale < np.finfo(np.float32).tiny:
        scale = np.float32(1)
    integers = [min(max(round(float(np.float32(x) / scale)), -q_max), q_max) for x in lane]
    return np.array(integers, np.int8), np.float32(scale)


def columns_by_formula(
    w: np.ndarray, bits: int, group_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    size = group_size or max(len(w), 1)
    data = np.empty(w.shape, np.int8)
    scales = np.empty((max(-(-len(w) // size), 1), w.shape[1]), np.float32)
    for group in range(len(scales)):
        rows = slice(group * size, (group + 1) * size)
        for column in range(w.shape[1]):
            data[rows, column], scales[group, column] = formula(w[rows, column], Q_MAX[bits])
    return data, scales


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [None, 1, 4, 5])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (4, 3), (5, 1), (9, 4), (0, 3), (3, 0)])
class TestTheFormula:
    def test_each_column_or_group_of_it_is_rounded_by_its_own_scale(
        self, bits: Any, group_size: int | None, shape: tuple[int, int]
    ) -> None:
        w = normal(*shape)
        q = npublas.quantize(w, bits=bits, group_size=group_size)
        data, scales = columns_by_formula(w, bits, group_size)
        np.testing.assert_array_equal(q.data, data, strict=True)
        np.testing.assert_array_equal(q.scales, scales, strict=True)

    def test_rows_are_the_columns_of_the_transposed_matrix(
        self, bits: Any, group_size: int | None, shape: tuple[int, int]
    ) -> None:
        w = normal(*shape)
        q = npublas.quantize(w.T, bits=bits, group_size=group_size, axis=-2)
        same = npublas.quantize(w, bits=bits, group_size=group_size)
        for one, other in ((q, same.T), (q.T, same)):
            assert (one.shape, one.axis, one.group_size) == (
                other.shape,
                other.axis,
                other.group_size,
            )
            np.testing.assert_array_equal(one.data, other.data, strict=True)
            np.testing.assert_array_equal(one.scales, other.scales, strict=True)

    def test_a_stack_is_its_matrices_one_by_one(
        self, bits: Any, group_size: int | None, shape: tuple[int, int]
    ) -> None:
        w = normal(2, 3, *shape)
        for options in ({"group_size": group_size}, {"axis": None}, {"rotate": True}):
            q = npublas.quantize(w, bits=bits, **options)
            assert q.shape == w.shape
            for index in np.ndindex(2, 3):
                one = npublas.quantize(w[index], bits=bits, **options)
                np.testing.assert_array_equal(q.data[index], one.data, strict=True)
                np.testing.assert_array_equal(q.scales[index], one.scales, strict=True)

    def test_each_element_comes_back_as_its_integer_times_its_scale(
        self, bits: Any, group_size: int | None, shape: tuple[int, int]
    ) -> None:
        w = normal(*shape)
        q = npublas.quantize(w, bits=bits, group_size=group_size)
        data, scales = columns_by_formula(w, bits, group_size)
        each = np.repeat(scales, group_size or max(len(w), 1), axis=0)[: len(w)]
        np.testing.assert_array_equal(npublas.dequantize(q), data * each, strict=True)


@pytest.mark.parametrize("bits", [8, 4])
def test_one_scale_for_the_matrix_is_that_of_its_largest_element(bits: Any) -> None:
    w = normal(5, 7)
    q = npublas.quantize(w, bits=bits, axis=None)
    data, scale = formula(w.reshape(-1), Q_MAX[bits])
    np.testing.assert_array_equal(q.data, data.reshape(5, 7), strict=True)
    np.testing.assert_array_equal(q.scales, [[scale]])


def test_halves_are_rounded_to_even() -> None:
    q = npublas.quantize([[0.5], [1.5], [2.5], [-0.5], [-1.5], [127]])
    assert q.data.ravel().tolist() == [0, 2, 2, 0, -2, 127]


def test_zeros_have_the_scale_one() -> None:
    q = npublas.quantize(np.zeros((3, 2)))
    assert q.scales.tolist() == [[1, 1]] and not q.data.any()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_lane_whose_scale_would_be_subnormal_becomes_zeros(bits: Any) -> None:
    limit = np.finfo(np.float32).tiny * np.float32(Q_MAX[bits])
    below = np.nextafter(limit, np.float32(0))
    q = npublas.quantize(np.array([[limit, below, 1e-45]], np.float32), bits=bits)
    assert q.scales.tolist() == [[np.finfo(np.float32).tiny, 1, 1]]
    assert q.data.tolist() == [[Q_MAX[bits], 0, 0]]


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=9),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    st.sampled_from([8, 4]),
    st.sampled_from([-1, -2, None]),
    st.sampled_from([None, 1, 2, 3, 8, 100]),
)
def test_the_error_is_at_most_half_a_scale(
    w: np.ndarray, bits: Any, axis: Any, size: int | None
) -> None:
    size = None if axis is None else size
    q = npublas.quantize(w, bits=bits, axis=axis, group_size=size)
    scales = q.scales.astype(np.float64)
    if size and axis is not None:
        depth = -3 - axis
        scales = np.repeat(scales, size, axis=depth)
        scales = np.take(scales, range(w.shape[depth]), axis=depth)
    with np.errstate(over="ignore"):
        error = np.abs(npublas.dequantize(q).astype(np.float64) - w)
    # And what float32 adds: of the quotient before it is rounded, and of the product.
    assert (error <= scales * (0.5 + Q_MAX[bits] * 2.0**-22)).all()
    assert np.abs(q.data).max(initial=0) <= Q_MAX[bits]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.int64, np.uint8, bool])
def test_other_numbers_are_rounded_to_float32_first(dtype: Any) -> None:
    w = (normal(6, 3) * 10).astype(dtype)
    q = npublas.quantize(w)
    same = npublas.quantize(w.astype(np.float32))
    np.testing.assert_array_equal(q.data, same.data)
    np.testing.assert_array_equal(q.scales, same.scales)


def test_any_layout_of_the_source_gives_the_same_matrix() -> None:
    w = normal(12, 10)
    same = npublas.quantize(w[::-2, 1:7])
    for other in (np.asfortranarray(w), np.pad(w, 3)[3:-3, 3:-3]):
        q = npublas.quantize(other[::-2, 1:7])
        np.testing.assert_array_equal(q.data, same.data)
        assert q.data.flags.c_contiguous


class TestTheMatrix:
    def test_it_counts_half_a_byte_for_four_bits(self) -> None:
        w = np.ones((5, 3))
        assert npublas.quantize(w).nbytes == 15 + 3 * 4
        assert npublas.quantize(w, bits=4).nbytes == 8 + 3 * 4
        assert npublas.quantize(w, bits=4, group_size=2).nbytes == 8 + 9 * 4
        assert npublas.quantize(w, rotate=True).nbytes == 8 * 3 + 3 * 4

    def test_it_can_not_be_changed(self) -> None:
        q = npublas.quantize(np.eye(3))
        for change in (
            lambda: setattr(q, "bits", 4),
            lambda: q.data.fill(0),
            lambda: q.scales.fill(0),
        ):
            with pytest.raises((AttributeError, ValueError)):
                change()
        data = np.ones((2, 2), np.int8)
        own = npublas.QuantizedMatrix(data, np.ones((1, 2), np.float32))
        assert data.flags.writeable and not own.data.flags.writeable

    def test_it_says_what_it_is(self) -> None:
        w = np.ones((384, 2))
        assert repr(npublas.quantize(w)) == (
            "<npublas.QuantizedMatrix 384 × 2, int8 per column, 776 bytes>"
        )
        q = npublas.quantize(w.T, bits=4, axis=-2, group_size=64, rotate=True)
        assert repr(q.with_largest_activation(3)) == (
            "<npublas.QuantizedMatrix 2 × 384, int4 per row and 64 of K, rotated by 128, "
            "fixed activation scale, 432 bytes>"
        )
        assert (q.shape, q.ndim, q.dtype) == ((2, 384), 2, np.float32)

    @pytest.mark.parametrize(
        "make", [lambda q: pickle.loads(pickle.dumps(q)), copy.copy, copy.deepcopy]
    )
    def test_copies_are_equal_and_can_not_be_changed_either(self, make: Any) -> None:
        q = npublas.quantize(normal(40, 6), bits=4, group_size=16, rotate=True)
        q = q.with_largest_activation(2.5)
        other = make(q)
        assert repr(other) == repr(q) and not other.data.flags.writeable
        x = normal(3, 40)
        np.testing.assert_array_equal(x @ other, x @ q, strict=True)

    def test_a_stack_is_transposed_by_mT_alone(self) -> None:
        q = npublas.quantize(normal(2, 3, 4), group_size=2, rotate=True)
        assert q.mT.shape == (2, 4, 3) and q.mT.mT.shape == q.shape
        np.testing.assert_array_equal(
            npublas.dequantize(q.mT), npublas.dequantize(q).swapaxes(-1, -2)
        )
        with pytest.raises(ValueError, match=r"use \.mT"):
            _ = q.T

    def test_it_does_not_become_an_array_by_itself(self) -> None:
        with pytest.raises(TypeError, match=r"npublas\.dequantize"):
            np.asarray(npublas.quantize(np.eye(2)))


NAN = np.array([[1, np.nan], [2, 3]])


@pytest.mark.parametrize(
    ("w", "options", "complaint"),
    [
        (NAN, {}, r"finite.*nan at \(0, 1\)"),
        ([[1.0], [-np.inf]], {}, r"finite.*-inf at \(1, 0\)"),
        ([[1e39]], {}, r"finite in float32.*1e\+39"),
        ([[3e38], [3e38]], {"rotate": True}, "too large to be rotated"),
        ([1.0, 2.0], {}, "not 1 dimensions"),
        (np.eye(2), {"bits": 5}, "bits must be 8 or 4, not 5"),
        (np.eye(2), {"axis": 2}, "axis must be -1"),
        (np.eye(2), {"axis": 0}, "axis must be -1"),
        (np.eye(2), {"group_size": 0}, "group_size must be a positive"),
        (np.eye(2), {"group_size": 2.0}, "group_size must be a positive"),
        (np.eye(2), {"group_size": True}, "group_size must be a positive"),
        (np.eye(2), {"group_size": 2, "axis": None}, "group_size needs an axis"),
    ],
)
def test_what_can_not_be_quantised_is_refused(w: Any, options: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        npublas.quantize(w, **options)


@pytest.mark.parametrize("w", [np.eye(2) * 1j, np.array([["a"]]), np.array([[None]])])
def test_only_real_numbers_are_quantised(w: Any) -> None:
    with pytest.raises(TypeError, match="real numbers"):
        npublas.quantize(w)


def test_what_is_quantised_is_not_quantised_again_and_nothing_else_dequantised() -> None:
    q: Any = npublas.quantize(np.eye(2))
    with pytest.raises(TypeError, match="already"):
        npublas.quantize(q)
    with pytest.raises(TypeError, match="QuantizedMatrix is needed, not ndarray"):
        npublas.dequantize(np.eye(2))  # type: ignore[arg-type]


ONE = np.ones((1, 2), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ((np.ones((2, 2)), ONE), TypeError, "data must be int8, not float64"),
        ((np.full((2, 2), -128, np.int8), ONE), ValueError, "within ±127"),
        ((np.full((2, 2), 8, np.int8), ONE, 4), ValueError, "within ±7"),
        ((np.ones((2, 2), np.int8), ONE.T), ValueError, r"of shape \(1, 2\), not \(2, 1\)"),
        ((np.ones((2, 2), np.int8), ONE, 8, -1, 1), ValueError, r"of shape \(2, 2\)"),
        ((np.ones((2, 2), np.int8), ONE.astype(float)), TypeError, "scales must be float32"),
        ((np.ones((2, 2), np.int8), ONE * 0), ValueError, "finite and positive"),
        ((np.ones((2, 2), np.int8), ONE * np.nan), ValueError, "finite and positive"),
        ((np.ones((2, 2), np.int8), ONE, 16), ValueError, "bits must be"),
        ((np.ones(2, np.int8), ONE), ValueError, "1 dimensions"),
        (
            (np.ones((2, 2), np.int8), ONE, 8, -1, None, Rotation(4, 3, -2)),
            ValueError,
            "K, which would be 4 long",
        ),
        (
            (np.ones((2, 2), np.int8), ONE, 8, -1, None, Rotation(2, 2, -1)),
            ValueError,
            "axis=-1 can't have",
        ),
        (
            (np.ones((2, 2), np.int8), ONE, 8, -1, None, None, np.ones(2, np.float32)),
            ValueError,
            r"activation_scales must be of shape \(1,\)",
        ),
    ],
)
def test_integers_and_scales_from_elsewhere_are_checked(
    arguments: tuple[Any, ...], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        npublas.QuantizedMatrix(*arguments)


class TestNibbles:
    ALL = np.arange(-128, 120, dtype=np.int8)

    def test_every_integer_up_to_119_is_sixteen_times_one_plus_the_other(self) -> None:
        high, low = split_nibbles(self.ALL)
        assert high.dtype == low.dtype == np.int8
        for nibble in (high, low):
            assert nibble.min() == -8 and nibble.max() == 7
        np.testing.assert_array_equal(16 * high.astype(int) + low, self.ALL)

    def test_120_has_none(self) -> None:
        with pytest.raises(ValueError, match="120 is above 119"):
            split_nibbles(np.array([1, 120], np.int8))
        assert split_nibbles(np.array([], np.int8))[0].size == 0

    def test_a_product_is_two_products_of_nibbles(self) -> None:
        a = RNG.choice(self.ALL, (20, 300))
        w = RNG.integers(-7, 8, (300, 10), np.int8)
        high, low = (np.matmul(part.astype(int), w.astype(int)) for part in split_nibbles(a))
        np.testing.assert_array_equal(16 * high + low, a.astype(int) @ w.astype(int))


class TestWhatCanNotBeChanged:
    def test_the_arrays_of_the_caller_may_be(self) -> None:
        data, scales = np.ones((3, 2), np.int8), np.ones((1, 2), np.float32)
        fixed = np.ones(1, np.float32)
        q = npublas.QuantizedMatrix(data, scales, activation_scales=fixed)
        data[:], scales[:], fixed[:] = 5, 5, 5
        for array in (q.data, q.scales, q.activation_scales):
            assert array is not None and (array == 1).all()
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 2
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True

    def test_neither_are_read_only_views_of_what_can_change(self) -> None:
        data = np.ones((3, 2), np.int8)
        view = data[:]
        view.flags.writeable = False
        q = npublas.QuantizedMatrix(view, np.ones((1, 2), np.float32))
        data[:] = 7
        assert (q.data == 1).all()

    def test_what_is_derived_shares_the_integers(self) -> None:
        q = npublas.quantize(np.eye(40), group_size=20)
        for twin in (
            q.T.T,
            dataclasses.replace(q, activation_scales=np.ones(2, np.float32)),
            q.with_largest_activation(3.0),
            npublas.QuantizedMatrix(q.data, q.scales, group_size=20),
        ):
            assert np.shares_memory(twin.data, q.data)
            assert np.shares_memory(twin.scales, q.scales)

    def test_bytes_are_not_copied(self) -> None:
        data = np.frombuffer(bytes(6), np.int8).reshape(3, 2)
        q = npublas.QuantizedMatrix(data, np.ones((1, 2), np.float32))
        assert np.shares_memory(q.data, data)


def test_a_group_size_may_be_a_number_of_numpys() -> None:
    for size in (np.int64(16), np.uint8(16)):
        q = npublas.quantize(np.eye(64), group_size=size)  # type: ignore[arg-type]
        assert type(q.group_size) is int and len(q.scales) == 4
    with pytest.raises(ValueError, match="positive integer"):
        npublas.quantize(np.eye(4), group_size=np.bool_(True))  # type: ignore[arg-type]

"""Products with quantised matrices: the formula, the bound, the doors, and what is refused."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npublas
from npublas import _lanes
from npublas._hadamard import block_for, rotate

RNG = np.random.default_rng(6)
NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"
ACTIVATION_MAX = {8: 127, 4: 119}


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def by_formula(x: np.ndarray, q: npublas.QuantizedMatrix) -> np.ndarray:
    """x @ q for matrices, element by element, as docs/quantization.md says it."""
    rows = x.astype(np.float32)
    if q.rotation:
        rows = rotate(rows, q.rotation.block)
    depth = rows.shape[1]
    size = q.group_size or max(depth, 1)
    result = np.zeros((len(rows), q.data.shape[1]))
    for i, j in np.ndindex(result.shape):
        for group, start in enumerate(range(0, depth, size)):
            piece = rows[i, start : start + size]
            scale = np.float32(max(abs(piece))) / np.float32(ACTIVATION_MAX[q.bits])
            if scale == 0:
                scale = np.float32(1)
            a = np.rint(piece / scale).astype(int)
            exact = int(a @ q.data[start : start + size, j].astype(int))
            weight_scale = q.scales[min(group, len(q.scales) - 1), min(j, q.scales.shape[1] - 1)]
            result[i, j] += exact * (float(scale) * float(weight_scale))
    return result.astype(np.float64 if x.dtype == np.float64 else np.float32)


OPTIONS = [
    {"bits": bits, "axis": axis, "group_size": size, "rotate": rotated}
    for bits in (8, 4)
    for axis, size in ((None, None), (-1, None), (-1, 1), (-1, 16), (-1, 32))
    for rotated in (False, True)
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 15, 2), (2, 16, 3), (4, 17, 1), (2, 33, 3), (2, 0, 2), (0, 3, 2)]
)
def test_a_product_is_the_formula_to_the_last_bit(
    options: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    m, k, n = shape
    x, q = normal(m, k), npublas.quantize(normal(k, n), **options)
    expected = by_formula(x, q)
    np.testing.assert_array_equal(x @ q, expected, strict=True)
    transposed: Any = q.T
    np.testing.assert_array_equal(transposed @ x.T, expected.T, strict=True)
    x = x.astype(np.float64)
    np.testing.assert_array_equal(x @ q, by_formula(x, q), strict=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_product_is_the_same_on_the_npu(options: dict[str, Any], device: str) -> None:
    x, q = normal(5, 70), npublas.quantize(normal(70, 40), **options)
    npublas.reset_counters()
    on_npu = npublas.matmul(x, q, device="npu")
    counters = npublas.counters()
    # One product for each group; NumPy 1.26 widens int8 for an int32 result.
    assert (counters.npu if NUMPY_2 else counters.cpu).products == len(q.scales)
    assert counters.npu.products + counters.cpu.products == len(q.scales)
    np.testing.assert_array_equal(on_npu, npublas.matmul(x, q, device="cpu"), strict=True)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 140),
    st.integers(1, 6),
    st.sampled_from([8, 4]),
    st.sampled_from([None, 1, 7, 32, 64]),
    st.integers(-30, 30),
    st.integers(0, 2**32),
)
def test_the_error_is_within_the_bound(
    m: int, k: int, n: int, bits: Any, size: int | None, exponent: int, seed: int
) -> None:
    """|C' - C| <= sum of (|x| sW + |w| sX) / 2 + sX sW / 4, and what float32 adds."""
    rng = np.random.default_rng(seed)
    x = np.float32(10.0**exponent) * rng.standard_t(2, (m, k)).astype(np.float32)
    w = rng.standard_t(2, (k, n)).astype(np.float32)
    q = npublas.quantize(w, bits=bits, group_size=size)
    step = size or k
    s_w = np.repeat(q.scales, step, axis=0)[:k].astype(np.float64)
    s_x = np.concatenate(
        [
            np.repeat(np.abs(piece).max(axis=1, keepdims=True), piece.shape[1], axis=1)
            for piece in np.split(x, range(step, k, step), axis=1)
        ],
        axis=1,
    ) / float(ACTIVATION_MAX[bits])
    x, w = x.astype(np.float64), w.astype(np.float64)
    bound = (np.abs(x) @ s_w + s_x @ np.abs(w)) / 2 + s_x @ s_w / 4
    assert (np.abs(x @ q - x @ w) <= bound * (1 + 2.0**-12)).all()


@pytest.mark.parametrize("k", [1, 5, 31, 33, 64, 100, 130, 384])
def test_a_rotation_changes_nothing_but_the_rounding(k: int) -> None:
    """With integers fine enough to be exact, it would be the same product."""
    x, w = normal(6, k), normal(k, 5)
    block = block_for(k)
    turned = rotate(x, block).astype(np.float64) @ rotate(w.T.copy(), block).T.astype(np.float64)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    sizes = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=0)
    assert (np.abs(turned - exact) <= sizes * 16 * 2.0**-24).all()


def test_a_rotation_tames_an_outlier() -> None:
    x, w = normal(64, 256), normal(256, 64)
    x[:, 17] *= 100
    exact = x.astype(np.float64) @ w
    plain, rotated = (
        np.linalg.norm(x @ npublas.quantize(w, rotate=rotated) - exact) for rotated in (False, True)
    )
    assert rotated < plain / 4


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.int16, bool])
def test_narrow_activations_give_float32(dtype: Any) -> None:
    x, q = (normal(3, 20) * 5).astype(dtype), npublas.quantize(normal(20, 4))
    np.testing.assert_array_equal(x @ q, x.astype(np.float32) @ q, strict=True)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64])
def test_wide_activations_give_float64(dtype: Any) -> None:
    x, q = (normal(3, 20) * 5).astype(dtype), npublas.quantize(normal(20, 4))
    product = x @ q
    assert product.dtype == np.float64
    np.testing.assert_array_equal(product.astype(np.float32), x.astype(np.float32) @ q)


class TestTheDoors:
    def test_all_of_them_give_the_same(self) -> None:
        x, q = normal(3, 20), npublas.quantize(normal(20, 4))
        same = x @ q
        out = np.empty_like(same)
        for product in (
            np.matmul(x, q),
            npublas.matmul(x, q),
            npublas.matmul(x, q, precision="float16", device="cpu"),
            (x.tolist() @ q).astype(np.float32),  # Python's floats are float64
            q.T.__matmul__(x.T).T,
            np.matmul(x, q, out=out),
            npublas.matmul(x, q, dtype=np.float64).astype(np.float32),
        ):
            np.testing.assert_array_equal(product, same)
        assert np.matmul(x, q, out=out) is out
        np.testing.assert_array_equal(out, same)

    def test_out_has_the_products_shape_and_a_type_that_it_can_be_cast_to(self) -> None:
        x, q = normal(3, 20), npublas.quantize(normal(20, 4))
        with pytest.raises(ValueError, match=r"out= has shape \(4,\), and the product \(3, 4\)"):
            np.matmul(x, q, out=np.empty(4, np.float32))
        with pytest.raises(TypeError, match="Cannot cast"):
            np.matmul(x, q, out=np.empty((3, 4), np.int32))
        half = np.matmul(x, q, out=np.empty((3, 4), np.float16))
        np.testing.assert_array_equal(half, (x @ q).astype(np.float16))

    def test_other_functions_refuse_it(self) -> None:
        x, q = normal(4, 4), npublas.quantize(normal(4, 4))
        for call in (
            lambda: x + q,
            lambda: np.exp(q),
            lambda: np.dot(x, q),
            lambda: np.matmul(x, q, casting="no"),
        ):
            with pytest.raises(TypeError):
                call()

    def test_an_operand_with_an_override_of_its_own_goes_first(self) -> None:
        class Lazy:
            def __array_ufunc__(self, *_: Any, **__: Any) -> str:
                return "lazy"

        q = npublas.quantize(np.eye(2))
        assert np.matmul(Lazy(), q) == np.matmul(q, Lazy()) == "lazy"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((7,), (7, 3)),
        ((7,), (2, 7, 3)),
        ((2, 4, 7), (7, 3)),
        ((2, 4, 7), (2, 7, 3)),
        ((4, 7), (5, 1, 7, 3)),
        ((2, 0, 7), (7, 3)),
        ((2, 4, 0), (0, 3)),
    ],
)
def test_vectors_and_stacks_are_taken_as_numpy_takes_them(
    left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    x, w = normal(*left), normal(*right)
    q = npublas.quantize(w, rotate=True)
    product = x @ q
    expected = np.matmul(x, w)
    assert (product.shape, product.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(product, expected, atol=0.2)
    # And from the other side.
    v = x if x.ndim == 1 else x.swapaxes(-1, -2)
    mirrored = np.matmul(w.swapaxes(-1, -2), v)
    product = q.mT @ v
    assert product.shape == mirrored.shape
    np.testing.assert_allclose(product, mirrored, atol=0.2)


def test_a_row_does_not_depend_on_the_others() -> None:
    x, q = normal(50, 96), npublas.quantize(normal(96, 20), rotate=True, group_size=32)
    whole = x @ q
    for row in range(0, 50, 7):
        np.testing.assert_array_equal(x[row] @ q, whole[row])


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("largest", [None, 3.0])
def test_rows_with_nan_or_infinity_are_numpys_and_the_others_are_as_ever(
    rotated: bool, largest: float | None
) -> None:
    x, q = normal(5, 20), npublas.quantize(normal(20, 4), rotate=rotated)
    q = q.with_largest_activation(largest)
    clean = x @ q
    x[1, 3], x[3, 0], x[4, 19] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        product, numpys = x @ q, np.matmul(x, npublas.dequantize(q))
    np.testing.assert_array_equal(product[[0, 2]], clean[[0, 2]])
    np.testing.assert_array_equal(product[[1, 3, 4]], numpys[[1, 3, 4]])


@pytest.mark.parametrize("rotated", [False, True])
def test_rounding_on_the_way_raises_no_floating_point_errors(rotated: bool) -> None:
    x = np.array([[1e-300, 1e-40, 1e-30, 1.0]])
    with np.errstate(all="raise"):
        q = npublas.quantize(x.T, rotate=rotated)
        np.testing.assert_allclose(x @ q, 1, rtol=1e-2)
        np.testing.assert_allclose(x @ q.with_largest_activation(2.0**-100), 0, atol=2.0**-98)


def test_doubles_beyond_float32_are_multiplied_as_doubles() -> None:
    x, q = normal(2, 3, dtype=np.float64), npublas.quantize(np.eye(3))
    x[1, 1] = 1e200
    np.testing.assert_array_equal((x @ q)[1], x[1])


def test_long_sums_are_cut_before_they_leave_int32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _lanes._LONGEST_INT32_SUM * 127 * 127 < 2**31
    k = _lanes._LONGEST_INT32_SUM + 3000
    q = npublas.QuantizedMatrix(np.full((k, 1), 127, np.int8), np.ones((1, 1), np.float32))
    x = np.full((1, k), -127, np.float32)
    assert k * 127 * 127 > 2**31
    assert (x.astype(np.float64) @ q)[0, 0] == -k * 127.0 * 127.0
    x, q = normal(3, 50), npublas.quantize(normal(50, 4))
    whole = x @ q
    monkeypatch.setattr(_lanes, "_LONGEST_INT32_SUM", 7)
    np.testing.assert_array_equal(x @ q, whole, strict=True)


class TestTwoQuantisedMatrices:
    @pytest.mark.parametrize("left", [{}, {"group_size": 16}, {"bits": 4}])
    @pytest.mark.parametrize("right", [{}, {"group_size": 16}, {"bits": 4}])
    @pytest.mark.parametrize("rotated", [False, True])
    def test_their_product_is_that_of_what_they_stand_for(
        self, left: Any, right: Any, rotated: bool
    ) -> None:
        a = npublas.quantize(normal(4, 96), axis=-2, rotate=rotated, **left)
        b = npublas.quantize(normal(96, 3), rotate=rotated, **right)
        exact = npublas.dequantize(a).astype(np.float64) @ npublas.dequantize(b)
        product = a @ b
        assert product.dtype == np.float32
        np.testing.assert_allclose(product, exact, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal((b.T @ a.T).T, product)

    def test_per_matrix_scales_fit_either_side(self) -> None:
        q = npublas.quantize(normal(6, 6), axis=None)
        floats = npublas.dequantize(q).astype(np.float64)
        np.testing.assert_allclose(q @ q, floats @ floats, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("left", "right", "complaint"),
        [
            ({"rotate": True}, {}, "not rotated alike"),
            ({"group_size": 16}, {"group_size": 8}, "groups of different sizes"),
            ({"axis": -1}, {}, "can't be the left operand.*axis=-2"),
            ({}, {"axis": -2}, "can't be the right operand.*axis=-1"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, left: Any, right: Any, complaint: str) -> None:
        a = npublas.quantize(normal(32, 32), **{"axis": -2, **left})
        b = npublas.quantize(normal(32, 32), **{"axis": -1, **right})
        with pytest.raises(ValueError, match=complaint):
            a @ b

    def test_k_must_be_the_same(self) -> None:
        with pytest.raises(ValueError, match="different K"):
            npublas.quantize(np.eye(3), axis=-2) @ npublas.quantize(np.eye(4))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda q, x: x @ q.T, "can't be the right operand: its scales change along K"),
        (lambda q, x: q @ x, "can't be the left operand: its scales change along K"),
        (lambda q, x: x[:, :3] @ q, "has K = 4 here, and the other operand has 3"),
        (lambda q, x: q.T @ x[:3], "has K = 4 here, and the other operand has 3"),
        (lambda q, x: np.matmul(2.0, q), "has K = 4 here, and the other operand has no axes"),
        (lambda q, x: np.matmul(q.T, 2.0), "has K = 4 here, and the other operand has no axes"),
    ],
)
def test_products_that_can_not_be_are_refused(call: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call(npublas.quantize(normal(4, 4)), normal(4, 4))


def test_a_per_matrix_rotation_belongs_to_one_side() -> None:
    q = npublas.quantize(normal(4, 4), axis=None, rotate=True)
    with pytest.raises(ValueError, match="rotated to be the right one"):
        q @ normal(4, 4)
    assert (q.T @ normal(4, 4)).shape == (4, 4)


def test_stacks_that_can_not_be_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        normal(3, 2, 4) @ npublas.quantize(normal(2, 4, 4))


@pytest.mark.parametrize("x", [np.eye(2) * 1j, np.eye(2, dtype=object), np.eye(2, dtype="g")])
def test_activations_are_real_and_at_most_float64(x: np.ndarray) -> None:
    with pytest.raises(TypeError, match="real operands up to float64"):
        x @ npublas.quantize(np.eye(2))


def test_the_result_is_float32_or_float64() -> None:
    with pytest.raises(TypeError, match="float32 or float64, not int32"):
        np.matmul(np.eye(2), npublas.quantize(np.eye(2)), dtype=np.int32)


class TestCalibration:
    def calibrated(
        self, q: npublas.QuantizedMatrix, *batches: np.ndarray
    ) -> npublas.QuantizedMatrix:
        with npublas.calibrate() as calibration:
            for batch in batches:
                _ = batch @ q
        return calibration[q]

    @pytest.mark.parametrize("bits", [8, 4])
    @pytest.mark.parametrize("size", [None, 16])
    @pytest.mark.parametrize("rotated", [False, True])
    def test_the_scale_is_that_of_the_largest_activation_of_each_group(
        self, bits: Any, size: int | None, rotated: bool
    ) -> None:
        q = npublas.quantize(normal(40, 3), bits=bits, group_size=size, rotate=rotated)
        batches = normal(5, 40), normal(2, 3, 40)
        fixed = self.calibrated(q, *batches)
        rows = np.concatenate([batch.reshape(-1, 40) for batch in batches])
        if q.rotation:
            rows = rotate(rows, q.rotation.block)
        maxima = np.abs(rows).max(axis=0)
        step = size or len(maxima)
        maxima = np.array([maxima[i : i + step].max() for i in range(0, len(maxima), step)])
        scales = maxima / np.float32(ACTIVATION_MAX[bits])
        np.testing.assert_array_equal(fixed.activation_scales, scales, strict=True)
        # The product: by these scales, with clamping.
        x = 3 * normal(4, 40)
        turned = rotate(x, q.rotation.block) if q.rotation else x
        each = np.repeat(scales, step)[: turned.shape[1]]
        a = np.clip(np.rint(turned / each), -ACTIVATION_MAX[bits], ACTIVATION_MAX[bits])
        weights = np.repeat(q.scales, step, axis=0)[: len(q.data)] * q.data.astype(np.float64)
        np.testing.assert_allclose(x @ fixed, (a * each) @ weights, rtol=1e-5, atol=1e-5)

    def test_it_changes_no_product_and_no_matrix(self) -> None:
        x, q = normal(5, 20), npublas.quantize(normal(20, 3))
        plain = x @ q
        with npublas.calibrate() as calibration:
            np.testing.assert_array_equal(x @ q, plain, strict=True)
        assert q.activation_scales is None and calibration[q].data.base is not None
        np.testing.assert_array_equal(calibration[q].data, q.data)
        np.testing.assert_array_equal(
            x @ calibration[q].with_largest_activation(None), plain, strict=True
        )

    def test_a_left_matrix_is_watched_as_well(self) -> None:
        q = npublas.quantize(normal(3, 20), axis=-2)
        with npublas.calibrate() as calibration:
            _ = q @ np.full((20, 2), 12.7)
            _ = q @ np.full(20, -25.4)
        assert calibration[q].activation_scales == [np.float32(0.2)]

    def test_a_fixed_matrix_can_be_calibrated_again(self) -> None:
        q = npublas.quantize(normal(20, 3)).with_largest_activation(1)
        assert self.calibrated(q, np.full((1, 20), 12.7)).activation_scales == [np.float32(0.1)]

    def test_rows_that_are_not_finite_do_not_count(self) -> None:
        q = npublas.quantize(normal(2, 3))
        with np.errstate(invalid="ignore"):
            fixed = self.calibrated(q, np.array([[12.7, 0], [1e3, np.nan], [np.inf, 1]], "f4"))
        assert fixed.activation_scales == [np.float32(0.1)]
        with npublas.calibrate() as calibration:
            _ = np.full((1, 2), np.nan, np.float32) @ q
        assert q not in calibration

    def test_what_was_not_used_has_no_scale(self) -> None:
        q, other = npublas.quantize(np.eye(2)), npublas.quantize(np.eye(2))
        with npublas.calibrate() as calibration:
            _ = np.eye(2) @ q
        assert q in calibration and other not in calibration and len(calibration) == 1
        assert repr(calibration) == "<npublas.Calibration of 1 quantised matrices>"
        with pytest.raises(KeyError, match="was in no product"):
            calibration[other]

    def test_calibrations_nest_and_can_be_entered_again(self) -> None:
        q = npublas.quantize(np.eye(1))
        outer, inner = npublas.calibrate(), npublas.calibrate()
        with outer:
            _ = np.array([[127.0]]) @ q
            with inner, inner:
                _ = np.array([[12.7]]) @ q
            _ = np.array([[254.0]]) @ q
        _ = np.array([[1e6]]) @ q
        with inner:
            _ = np.array([[25.4]]) @ q
        assert outer[q].activation_scales == [2]
        assert inner[q].activation_scales == [np.float32(0.2)]

    def test_it_ends_with_an_error(self) -> None:
        q = npublas.quantize(np.eye(1))
        calibration = npublas.calibrate()
        with pytest.raises(KeyError), calibration:
            raise KeyError
        _ = np.eye(1) @ q
        assert q not in calibration

    def test_only_threads_that_enter_it_are_watched(self) -> None:
        q = npublas.quantize(np.eye(1))
        calibration = npublas.calibrate()

        def outside() -> None:
            _ = np.array([[1e6]]) @ q

        def inside(value: float) -> None:
            with calibration:
                for _ in range(20):
                    _ = np.array([[value]]) @ q

        threads = [threading.Thread(target=outside)]
        threads += [threading.Thread(target=inside, args=(12.7 * n,)) for n in range(8)]
        with calibration:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert calibration[q].activation_scales == [np.float32(12.7 * 7) / np.float32(127)]

    @pytest.mark.parametrize("largest", [-1, np.nan, math.inf, 1e39, [1, 2], [[1]]])
    def test_a_scale_of_ones_own_is_checked(self, largest: Any) -> None:
        with pytest.raises(ValueError, match="largest must be"):
            npublas.quantize(np.eye(4)).with_largest_activation(largest)

    def test_with_groups_one_number_is_for_all(self) -> None:
        q = npublas.quantize(np.eye(4), group_size=2)
        np.testing.assert_array_equal(
            q.with_largest_activation(127).activation_scales, np.float32([1, 1])
        )
        np.testing.assert_array_equal(
            q.with_largest_activation([127, 254]).activation_scales, np.float32([1, 2])
        )

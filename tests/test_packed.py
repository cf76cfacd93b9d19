"""Packed matrices: they give what NumPy gives for the array that was packed, by NumPy's rules."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import npublas

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = ["int8", "uint8", "float16", "float32", "float64"]
PRECISIONS: list[Any] = ["float32", "float16", "int8"]


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    """There every product is NumPy's, bit for bit: what is tested here is what comes before it."""
    with npublas.config_context(device="cpu"):
        yield


def some(shape: tuple[int, ...], dtype: Any = "float32", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)


def transposed(array: Any) -> Any:
    """The same matrices, of which the columns lie one after the other."""
    return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)


def same(got: Any, wanted: Any) -> None:
    assert type(got) is type(wanted)
    np.testing.assert_array_equal(got, wanted, strict=True)


# What is packed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["rows", "columns", "slices", "backwards"])
@pytest.mark.parametrize("shape", [(1, 1), (31, 33), (32, 32), (1025, 97), (2, 40, 3)])
def test_unpacking_gives_the_array_back_however_it_lies_in_memory(
    dtype: str, order: str, shape: tuple[int, ...]
) -> None:
    b = some(shape, dtype)
    if order == "columns":
        b = transposed(b)
    elif order == "slices":
        b = np.repeat(np.repeat(b, 2, -1), 3, -2)[..., ::3, ::2]
    elif order == "backwards":
        b = b[..., ::-1, ::-1]
    w = npublas.pack(b)
    same(w.unpack(), b)
    assert (w.shape, w.ndim, w.dtype) == (b.shape, b.ndim, b.dtype)


def test_bfloat16_is_packed_as_it_is() -> None:
    b = some((70, 40)).astype(BFLOAT16)
    w = npublas.pack(b)
    assert w.dtype == BFLOAT16
    same(w.unpack(), b)
    same(npublas.pack(b.T).unpack(), b.T)
    # Two parts of float16 hold a bfloat16 whose neighbours aren't a thousand times larger.
    assert npublas.pack(np.ones((70, 40), BFLOAT16)).nbytes < npublas.pack(some((70, 40))).nbytes


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=40),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
@settings(max_examples=100, deadline=None)
def test_every_finite_float32_comes_back_at_float32(b: Any) -> None:
    same(npublas.pack(b).unpack(), b)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", BFLOAT16])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_other_precisions_round_as_they_promise(dtype: Any, precision: Any) -> None:
    b = some((2100, 40), dtype)
    got = npublas.pack(b, precision=precision).unpack()
    assert got.dtype == b.dtype
    exact = b.astype(np.float64)
    # Of each column: 2^-11 of the element, or half of a step of 127 to the largest.
    bound = {
        "float16": 2.0**-11 * np.abs(exact) + 2.0**-28 * np.abs(exact).max(0),
        "int8": np.abs(exact).max(0) / 254 * (1 + 2.0**-20) + 0 * exact,
    }[precision]
    last = np.abs(exact) * {2: 2.0**-11, 4: 2.0**-24, 8: 2.0**-24}[b.dtype.itemsize]
    if dtype == BFLOAT16:
        last = np.abs(exact) * 2.0**-8
    assert (np.abs(got.astype(np.float64) - exact) <= bound + 2 * last).all()


def test_changing_the_array_afterwards_changes_nothing() -> None:
    b = some((40, 30))
    wanted = b.copy()
    w = npublas.pack(b)
    b[:] = np.nan
    same(w.unpack(), wanted)
    same(some((3, 40)) @ w, some((3, 40)) @ wanted)
    w.unpack()[:] = 7  # which is a copy
    same(w.unpack(), wanted)


def test_precision_is_what_was_asked_for_or_what_the_settings_say() -> None:
    b = some((8, 8))
    assert npublas.pack(b).precision == "float32"
    assert npublas.pack(b, precision="int8").precision == "int8"
    with npublas.config_context(precision="float16"):
        assert npublas.pack(b).precision == "float16"
    assert npublas.pack(b.astype(np.int8), precision="float16").precision == "exact"


def test_packed_bytes_are_counted() -> None:
    # One tile of 96 × 64, a scale for each column, and for two parts what they lose.
    b = some((96, 64))
    assert npublas.pack(b, precision="float16").nbytes == 96 * 64 * 2 + 64 * 8
    assert npublas.pack(b, precision="int8").nbytes == 96 * 64 + 64 * 8
    assert npublas.pack(b).nbytes == 2 * 96 * 64 * 2 + 64 * (8 + 24)
    assert npublas.pack(b.astype(np.float16)).nbytes == 96 * 64 * 2 + 64 * (8 + 24)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_nan_and_infinity_are_refused(dtype: str, value: float, precision: Any) -> None:
    b = some((33, 5), dtype)
    b[32, 4] = value
    with pytest.raises(ValueError, match="must be finite"):
        npublas.pack(b, precision=precision)


def test_what_float32_can_not_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        npublas.pack(np.full((2, 2), 1e300))


@pytest.mark.parametrize("dtype", ["int16", "int64", "bool", "complex64", "object", "U3"])
def test_other_types_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match=r"pack\(\) takes int8, uint8, int4, float16"):
        npublas.pack(np.zeros((2, 2), dtype))


@pytest.mark.parametrize("shape", [(), (3,), (1, 1, 2, 2)])
def test_other_numbers_of_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 or 3 dimensions"):
        npublas.pack(np.zeros(shape))


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(npublas.ConfigurationError, match="precision must be"):
        npublas.pack(np.eye(2), precision="fast")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="packed already"):
        npublas.pack(npublas.pack(np.eye(2)))  # type: ignore[arg-type]


def test_the_other_byte_order_is_packed_too() -> None:
    b = some((5, 4)).astype(">f4")
    same(npublas.pack(b).unpack(), b.astype(np.float32))


# What is multiplied

SHAPES = [
    ((40,), (40, 30)),
    ((1, 40), (40, 30)),
    ((7, 40), (40, 30)),
    ((2, 3, 7, 40), (40, 30)),
    ((40,), (2, 40, 30)),
    ((7, 40), (2, 40, 30)),
    ((2, 7, 40), (2, 40, 30)),
    ((3, 1, 7, 40), (2, 40, 30)),
    ((1, 7, 40), (2, 40, 30)),
    ((0, 40), (40, 30)),
    ((7, 0), (0, 30)),
    ((7, 40), (40, 0)),
    ((0, 7, 40), (1, 40, 30)),
    ((7, 40), (0, 40, 30)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("x_shape", "w_shape"), SHAPES)
@pytest.mark.parametrize("columns", [False, True])
def test_products_are_numpys(dtype: str, x_shape: Any, w_shape: Any, columns: bool) -> None:
    x, b = some(x_shape, dtype), some(w_shape, dtype, 1)
    if columns:
        b = transposed(b)
    w = npublas.pack(b)
    wanted = npublas.matmul(x, b)
    same(x @ w, wanted)
    same(np.matmul(x, w), wanted)
    same(npublas.matmul(x, w), wanted)


@pytest.mark.parametrize("x_dtype", ["int8", "int64", "float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("w_dtype", DTYPES)
def test_types_are_promoted_as_numpy_does(x_dtype: str, w_dtype: str) -> None:
    x, b = some((3, 40), x_dtype), some((40, 5), w_dtype, 1)
    same(x @ npublas.pack(b), npublas.matmul(x, b))


def test_lists_are_arrays() -> None:
    w = npublas.pack(np.eye(2, dtype=np.float32))
    same([[1, 2]] @ w, np.array([[1, 2]]) @ np.eye(2, dtype=np.float32))
    same(np.matmul([1.5, 2], w), np.array([1.5, 2.0]))


@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [
        ((), (4, 3)),
        ((3,), (4, 3)),
        ((2, 3), (4, 3)),
        ((2, 4, 1), (4, 3)),
        ((3, 2, 4), (2, 4, 3)),
        ((4, 0), (4, 3)),
    ],
)
@pytest.mark.parametrize("call", [np.matmul, npublas.matmul])
def test_shapes_that_do_not_fit_have_numpys_own_error(
    x_shape: Any, w_shape: Any, call: Any
) -> None:
    x, b = some(x_shape), some(w_shape)
    with pytest.raises(ValueError) as numpys:
        call(x, b)
    with pytest.raises(ValueError) as ours:
        call(x, npublas.pack(b))
    assert str(ours.value) == str(numpys.value)


@pytest.mark.parametrize("call", [np.matmul, npublas.matmul])
@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float64"},
        {"dtype": np.float32, "casting": "no"},
        {"dtype": "float16", "casting": "safe"},
        {"dtype": "int32"},
        {"dtype": "complex128"},
        {"order": "F"},
        {"order": "C"},
        {"order": "A"},
        {"subok": False},
        {"axes": [(0, 1), (-2, -1), (0, 1)]},
        {"axes": [(1, 0), (0, 1), (1, 0)]},
        {"axes": [(-1, -2), (-2, -1), (-1, -2)]},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_keywords_do_what_they_do_to_arrays(call: Any, options: Any, dtype: str) -> None:
    x, b = some((6, 6), dtype), some((6, 6), dtype, 1)
    try:
        wanted = call(x, b, **options)
    except TypeError as error:
        with pytest.raises(type(error)) as ours:
            call(x, npublas.pack(b), **options)
        assert str(ours.value) == str(error)
        return
    got = call(x, npublas.pack(b), **options)
    same(got, wanted)
    if options.get("order") in ("C", "F"):
        assert got.strides == wanted.strides


def test_a_narrower_dtype_rounds_the_result_and_not_the_operands() -> None:
    x, b = some((6, 40)), some((40, 6), seed=1)
    got = np.matmul(x, npublas.pack(b), dtype=np.float16)
    same(got, (x @ b).astype(np.float16))


def test_axes_of_stacks_and_vectors() -> None:
    x, b = some((7, 2, 40)), some((40, 30), seed=1)
    w = npublas.pack(b)
    axes: Any = [(0, 2), (0, 1), (1, 2)]
    same(np.matmul(x, w, axes=axes), np.matmul(x, b, axes=axes))
    out = np.empty((30, 7, 2), np.float32)
    axes = [(0, 2), (0, 1), (1, 0)]
    assert np.matmul(x, w, out=out, axes=axes) is out
    # NumPy adds in another order if the result is to lie in memory in another one.
    np.testing.assert_allclose(out, np.matmul(x, b, axes=axes), rtol=1e-4)
    with pytest.raises(TypeError, match="lie in its axes"):
        np.matmul(x, w, axes=[(0, 2), (1, 0), (0, 1)])


@pytest.mark.parametrize("call", [np.matmul, npublas.matmul])
@pytest.mark.parametrize("x_shape", [(40,), (7, 40), (2, 7, 40)])
@pytest.mark.parametrize("out_dtype", ["float32", "float64", "float16", "complex64"])
def test_out_is_filled_and_returned(call: Any, x_shape: Any, out_dtype: str) -> None:
    x, b = some(x_shape), some((40, 30), seed=1)
    out = np.empty((*x_shape[:-1], 30), out_dtype)
    wanted = call(x, b, out=np.empty_like(out))
    assert call(x, npublas.pack(b), out=out) is out
    same(out, wanted)
    out = np.empty((*x_shape[:-1], 60), out_dtype)[..., ::2]
    assert call(x, npublas.pack(b), out=(out,)) is out
    same(out, wanted)


@pytest.mark.parametrize("casting", ["no", "same_kind", "unsafe"])
def test_what_can_not_be_written_is_refused_before_anything_is_computed(casting: Any) -> None:
    x, b, out = some((3, 4)), some((4, 5)), np.zeros((3, 5), np.float32)
    out.flags.writeable = False
    npublas.reset_counters()
    with pytest.raises(ValueError, match="output array is read-only"):
        np.matmul(x, npublas.pack(b), out=out, casting=casting)
    assert npublas.counters().cpu.products == 0


@pytest.mark.parametrize("casting", ["no", "safe", "same_kind", "unsafe"])
@pytest.mark.parametrize("out_dtype", ["float32", "float64", "float16", "int32"])
def test_casting_says_what_out_may_be(casting: Any, out_dtype: str) -> None:
    x, b = some((7, 40)), some((40, 30), seed=1)
    out = np.empty((7, 30), out_dtype)
    try:
        wanted = np.matmul(x, b, out=np.empty_like(out), casting=casting)
    except TypeError as error:
        with pytest.raises(type(error)) as ours:
            np.matmul(x, npublas.pack(b), out=out, casting=casting)
        assert str(ours.value) == str(error)
        return
    assert np.matmul(x, npublas.pack(b), out=out, casting=casting) is out
    same(out, wanted)


def test_out_may_be_a_larger_stack() -> None:
    x, b = some((7, 40)), some((40, 30), seed=1)
    out = np.empty((5, 7, 30), np.float32)
    same(np.matmul(x, npublas.pack(b), out=out), np.matmul(x, b, out=np.empty_like(out)))


def test_out_may_be_the_operand() -> None:
    x, b = some((40, 40)), some((40, 40), seed=1)
    wanted = x @ b
    same(np.matmul(x, npublas.pack(b), out=x), wanted)


@pytest.mark.parametrize("out_shape", [(7, 29), (8, 30), (2, 7, 29), (30,), ()])
def test_an_out_that_does_not_fit_has_numpys_own_error(out_shape: Any) -> None:
    x, b = some((7, 40)), some((40, 30), seed=1)
    with pytest.raises(ValueError) as numpys:
        np.matmul(x, b, out=np.empty(out_shape, np.float32))
    with pytest.raises(ValueError) as ours:
        np.matmul(x, npublas.pack(b), out=np.empty(out_shape, np.float32))
    assert str(ours.value) == str(numpys.value)


def test_an_out_that_can_not_hold_the_result_is_refused_as_numpy_refuses_it() -> None:
    x, b = some((7, 40)), some((40, 30), seed=1)
    for out in (np.empty((7, 30), np.int32), np.broadcast_to(np.float32(0), (7, 30))):
        with pytest.raises((TypeError, ValueError)) as numpys:
            np.matmul(x, b, out=out)
        with pytest.raises(type(numpys.value)):
            np.matmul(x, npublas.pack(b), out=out)


@pytest.mark.parametrize("out", [[1], (1,), "out"])
def test_an_out_that_is_no_array_has_numpys_own_error(out: Any) -> None:
    b = some((4, 3))
    for w in (npublas.pack(b), npublas.quantize(b)):
        with pytest.raises(TypeError, match="return arrays must be of ArrayType"):
            np.matmul(np.ones((2, 4), np.float32), w, out=out)


def test_other_keywords_are_refused_by_name() -> None:
    w = npublas.pack(np.eye(3))
    with pytest.raises(TypeError, match="takes no signature="):
        np.matmul(np.eye(3), w, signature="dd->d")


def test_the_settings_of_a_call_hold() -> None:
    x, b = some((3, 40)), some((40, 5), seed=1)
    same(npublas.matmul(x, npublas.pack(b), device="cpu", precision="float32"), x @ b)
    with pytest.raises(npublas.ConfigurationError):
        npublas.matmul(x, npublas.pack(b), device="gpu")  # type: ignore[arg-type]


def test_a_packed_left_operand_is_refused_with_the_way_out() -> None:
    b = some((4, 4))
    w = npublas.pack(b)
    for left, right in ((w, b), (w, w)):
        for call in (np.matmul, npublas.matmul, lambda a, c: a @ c):
            with pytest.raises(TypeError, match="only be the right operand"):
                call(left, right)
    with pytest.raises(TypeError, match="only be the right operand"):
        w @ [[1.0]]
    x = some((4, 3))
    np.testing.assert_allclose((x.T @ npublas.pack(b.T)).T, b @ x, rtol=1e-5, atol=1e-6)


def test_nothing_else_takes_it_for_an_array() -> None:
    w = npublas.pack(np.eye(3))
    for action in (
        lambda: w + 1,
        lambda: np.add(np.eye(3), w),
        lambda: np.matmul.at(np.eye(3), w, 1),
        lambda: np.asarray(w),
        lambda: np.dot(np.eye(3), w),
        lambda: np.matmul(np.eye(3), np.eye(3), out=w),
        lambda: len(w),
    ):
        with pytest.raises((TypeError, ValueError)):
            action()  # type: ignore[no-untyped-call]


def test_the_transposed_matrix_is_not_to_be_had() -> None:
    w = npublas.pack(np.eye(3))
    for name in ("T", "mT"):
        with pytest.raises(AttributeError, match=r"use npublas.pack\(array\.m?T\)"):
            getattr(w, name)


class Labelled(np.ndarray):
    """A subclass such as users write."""


class Stubborn:
    __array_ufunc__ = None

    def __rmatmul__(self, other: object) -> str:
        return "mine"

    def __matmul__(self, other: object) -> str:
        return "mine"


class Eager:
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> str:
        return "mine"


def test_subclasses_come_back_as_they_do_from_numpy() -> None:
    b = some((4, 3))
    w = npublas.pack(b)
    x = some((2, 4)).view(Labelled)
    same(x @ w, x @ b)
    same(np.matmul(x, w, subok=False), np.matmul(x, b, subok=False))


def test_others_may_have_their_way() -> None:
    w = npublas.pack(np.eye(4))
    assert Stubborn() @ w == "mine"
    assert np.matmul(Eager(), w) == "mine"


# On the NPU


@pytest.mark.parametrize("dtype", [*DTYPES, BFLOAT16])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [
        ((1, 32), (32, 32)),
        ((1100,), (1100, 40)),
        ((3, 2100), (2100, 33)),
        ((70, 100), (100, 400)),
        ((2, 3, 50), (50, 30)),
        ((2, 3, 50), (2, 50, 30)),
    ],
)
def test_a_product_on_the_npu_has_the_bits_of_an_unpacked_one(
    device: str, dtype: Any, precision: Any, x_shape: Any, w_shape: Any
) -> None:
    x, b = some(x_shape, dtype), transposed(some(w_shape, dtype, 1))
    with npublas.config_context(device="npu", float64="float32", precision=precision):
        w = npublas.pack(b)
        npublas.reset_counters()
        same(x @ w, npublas.matmul(x, b))
        for rows in (1, 2, 70):  # the tiles are the same for every height
            taller = np.concatenate([x.reshape(-1, x.shape[-1])] * rows)
            if len(w_shape) == 2:
                same(taller @ w, npublas.matmul(taller, b))
    assert npublas.counters().cpu.products == 0


def test_a_quantised_matrix_is_multiplied_on_the_npu(device: str) -> None:
    x, b = some((5, 300)), some((300, 40), seed=1)
    q = npublas.quantize(b, rotate=True, group_size=64)
    with npublas.config_context(device="npu"):
        got = x @ npublas.pack(q)
    exact = x.astype(np.float64) @ npublas.dequantize(q)
    # Half a step of 127 to the largest of each row of activations, times the weights.
    bound = np.abs(x).max(1, keepdims=True) * 12 / 254 * np.abs(npublas.dequantize(q)).sum(0)
    assert (np.abs(got - exact) <= bound).all()
    assert np.abs(got - exact).max() < 0.02 * np.abs(exact).max()
    assert npublas.counters().cpu.products == 0


def test_closing_gives_back_what_the_npu_holds(device: str) -> None:
    with npublas.config_context(device="npu"):
        w = npublas.pack(some((300, 200)), pin=True)
        twin = copy.copy(w)
        np.ones((2, 300), np.float32) @ w
        held = npublas.memory_info()
        assert held.weights == held.pinned >= 300 * 200 * 4
        w.close()
        assert npublas.memory_info().pinned == held.pinned
        twin.close()
        gc.collect()
        assert npublas.memory_info().weights == npublas.memory_info().pinned == 0


# Its life


def test_a_closed_matrix_can_be_used_no_more() -> None:
    w = npublas.pack(some((4, 3)))
    twin = copy.copy(w)
    assert not w.closed
    with w as inside:
        assert inside is w
    assert w.closed
    w.close()
    assert repr(w) == "<npublas.PackedMatrix, closed>"
    for action in (
        lambda: np.ones((2, 4)) @ w,
        lambda: w.shape,
        lambda: w.nbytes,
        lambda: w.unpack(),
        lambda: pickle.dumps(w),
        lambda: copy.copy(w),
        lambda: w.save("nowhere"),
        lambda: w.__enter__(),
    ):
        with pytest.raises(ValueError, match=r"closed \(4 × 3 of float32\)"):
            action()
    same(np.ones((2, 4), np.float32) @ twin, np.ones((2, 4), np.float32) @ some((4, 3)))


def test_its_memory_goes_with_its_last_copy() -> None:
    w = npublas.pack(some((4, 3)))
    twin = copy.deepcopy(w)
    weights = weakref.ref(w._operand)
    del w
    gc.collect()
    assert weights() is not None
    twin.close()
    gc.collect()
    assert weights() is None


def test_pinning_is_remembered() -> None:
    assert not npublas.pack(np.eye(3)).pinned
    w = npublas.pack(np.eye(3), pin=True)
    assert w.pinned and copy.copy(w).pinned and pickle.loads(pickle.dumps(w)).pinned
    assert "pinned" in repr(w)


@pytest.mark.parametrize("dtype", [*DTYPES, BFLOAT16])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_and_copies_are_the_same_matrix(dtype: Any, precision: Any, protocol: int) -> None:
    b = transposed(some((2, 40, 30), dtype))
    w = npublas.pack(b, precision=precision)
    for twin in (
        pickle.loads(pickle.dumps(w, protocol)),
        cloudpickle.loads(cloudpickle.dumps(w, protocol)),
        copy.copy(w),
        copy.deepcopy([w])[0],
    ):
        assert (twin.shape, twin.dtype, twin.precision) == (w.shape, w.dtype, w.precision)
        assert twin._weights.data == w._weights.data
        same(twin.unpack(), w.unpack())
        if dtype != BFLOAT16:
            same(some((3, 40), dtype) @ twin, some((3, 40), dtype) @ w)


def test_copies_share_the_bytes() -> None:
    w = npublas.pack(np.eye(300))
    assert copy.deepcopy(w)._weights is copy.copy(w)._weights is w._weights


def test_buffers_of_a_pickle_stay_out_of_it() -> None:
    w = npublas.pack(some((300, 200)), precision="float16")
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(w, 5, buffer_callback=buffers.append)
    assert len(data) < 2000 and len(buffers) == 1
    same(pickle.loads(data, buffers=buffers).unpack(), w.unpack())
    # Bytes that others may write to, or that begin anywhere, are copied.
    odd = bytearray(b"x" + buffers[0].raw())
    twin = pickle.loads(data, buffers=[memoryview(odd)[1:]])
    odd[:] = bytes(len(odd))
    same(twin.unpack(), w.unpack())


def test_threads_may_share_it() -> None:
    x, b = some((8, 400)), some((400, 300), seed=1)
    w = npublas.pack(b)
    wanted, results = x @ b, []
    threads = [threading.Thread(target=lambda: results.append(x @ w)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for got in results:
        same(got, wanted)


# Quantised matrices


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [None, 32, 50, 3000])
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("shape", [(100, 40), (2, 70, 33), (4100, 5)])
def test_a_quantised_matrix_is_packed_with_its_own_scales(
    bits: Any, group_size: int | None, rotate: bool, shape: tuple[int, ...]
) -> None:
    q = npublas.quantize(some(shape), bits=bits, group_size=group_size, rotate=rotate)
    w = npublas.pack(q)
    assert (w.shape, w.dtype, w.precision) == (q.shape, q.dtype, "int8")
    same(w.unpack(), npublas.dequantize(q))
    for dtype in ("float32", "float64"):
        x = some((3, shape[-2]), dtype)
        same(x @ w, x @ q)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [None, 32, 50])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("shape", [(100, 40), (700, 33), (2, 70, 33), (4100, 5)])
def test_on_the_npu_a_packed_quantised_matrix_has_the_bits_of_the_unpacked_one(
    bits: Any, group_size: int | None, fixed: bool, shape: tuple[int, ...], device: str
) -> None:
    q = npublas.quantize(some(shape), bits=bits, group_size=group_size, rotate=group_size is None)
    if fixed:
        q = q.with_largest_activation(1.5)  # some are beyond it, and clamped
    w = npublas.pack(q)
    for dtype in ("float32", "float64"):
        x = some((9, shape[-2]), dtype)
        wanted = x @ q
        with npublas.config_context(device="npu", on_fallback="error", float64="float32"):
            same(x @ w, wanted)


@pytest.mark.parametrize("where", ["auto", "cpu", "npu"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_results_of_quantised_weights_do_not_depend_on_where_they_are_computed(
    where: Any, bits: Any, rotate: bool, fixed: bool, device: str
) -> None:
    shapes: list[Any] = [((1, 300), None), ((300,), 50), ((5, 300), 128), ((2, 3, 300), None)]
    for x_shape, group_size in shapes:
        q = npublas.quantize(
            some((300, 70), seed=1), bits=bits, group_size=group_size, rotate=rotate
        )
        if fixed:
            q = q.with_largest_activation(1.5)
        x = some(x_shape)
        with npublas.config_context(device=where):
            same(x @ npublas.pack(q), x @ q)


@pytest.mark.parametrize("precision_of", ["float16", "float32", "float64", BFLOAT16])
@pytest.mark.parametrize("k", [5, 300, 4100])
def test_floats_packed_as_int8_give_the_same_bits_on_both_paths(
    precision_of: Any, k: int, device: str
) -> None:
    x, b = some((7, k), precision_of), some((2, k, 40), precision_of, 1)
    w = npublas.pack(b, precision="int8")
    with npublas.config_context(device="npu", on_fallback="error", float64="float32"):
        on_npu = x @ w
    same(x @ w, on_npu)
    assert w.precision == "int8" and w._is_quantized


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("k", [100, 700])
def test_linear_by_quantised_weights_has_the_same_bits_on_both_paths(
    activation: Any, bits: Any, k: int, device: str
) -> None:
    x, bias = some((2, 3, k)), some((40,), seed=2)
    w = npublas.pack(npublas.quantize(some((k, 40), seed=1), bits=bits, rotate=True))
    here = npublas.linear(x, w, bias, activation=activation)
    there = npublas.linear(x, w, bias, activation=activation, device="npu")
    assert npublas.counters().npu.products == 1
    same(here, there)


@pytest.mark.parametrize("where", ["cpu", "npu"])
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_rows_without_integers_are_those_of_the_quantised_matrix(
    where: Any, rotate: bool, bits: Any, device: str
) -> None:
    q = npublas.quantize(some((100, 40)), bits=bits, rotate=rotate)
    w = npublas.pack(q)
    x = some((6, 100))
    x[1, 3], x[2, 0], x[4, 99] = np.nan, np.inf, -np.inf
    doubles = some((4, 100), "float64")
    doubles[0] *= 1e60
    doubles[1] *= 1e-60
    x[5] *= 1e-38
    with npublas.config_context(device=where, float64="float32"), np.errstate(all="ignore"):
        same(x @ w, x @ q)
        got = doubles @ w
        same(got, doubles @ q)
    assert np.isfinite(got).all() and got[0].any() and not got[1].any()


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "object", "longdouble"])
@pytest.mark.parametrize("rotate", [False, True])
def test_quantised_weights_multiply_real_numbers_up_to_float64(dtype: str, rotate: bool) -> None:
    x = np.ones((3, 40)).astype(dtype)
    for w in (
        npublas.pack(npublas.quantize(some((40, 5)), rotate=rotate)),
        npublas.pack(some((40, 5)), precision="int8"),
    ):
        with pytest.raises(TypeError, match="real operands up to float64"):
            x @ w


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float16", "float64"])
def test_quantised_weights_take_activations_as_the_quantised_matrix_does(
    bits: Any, dtype: str
) -> None:
    q = npublas.quantize(some((40, 5)), bits=bits, rotate=True)
    x = (3 * some((3, 40))).astype(dtype)
    same(x @ npublas.pack(q), x @ q)
    for empty in ((0, 40), (2, 0, 40)):
        same(np.ones(empty, dtype) @ npublas.pack(q), np.ones(empty, dtype) @ q)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (2, 0, 3), (0, 4, 3)])
def test_empty_quantised_weights_multiply_to_zeros(shape: Any) -> None:
    q = npublas.quantize(np.zeros(shape, np.float32))
    x = np.ones((2, shape[-2]), np.float32)
    same(x @ npublas.pack(q), np.zeros((*shape[:-2], 2, shape[-1]), np.float32))


@pytest.mark.parametrize(("bits", "group_size"), [(8, 3000), (4, 1200), (4, 1021)])
@pytest.mark.parametrize("fixed", [False, True])
def test_groups_deeper_than_a_tile_are_multiplied_as_their_parts(
    bits: Any, group_size: int, fixed: bool, device: str
) -> None:
    q = npublas.quantize(some((4100, 33)), bits=bits, group_size=group_size)
    if fixed:
        q = q.with_largest_activation(2.5)
    w = npublas.pack(q)
    same(w.unpack(), npublas.dequantize(q))
    x = some((3, 4100))
    same(x @ w, x @ q)
    with npublas.config_context(device="npu", on_fallback="error"):
        same(x @ w, x @ q)


def test_groups_of_a_large_prime_do_not_become_tiles_of_one_row() -> None:
    q = npublas.quantize(some((2042, 64)), bits=4, group_size=1021)
    w = npublas.pack(q)  # a byte for each, where two fit one: but not 32 bytes
    assert w.nbytes < 1.2 * q.data.size


def test_fixed_activation_scales_survive_files_and_pickles(tmp_path: Path, device: str) -> None:
    q = npublas.quantize(some((300, 40)), group_size=100).with_largest_activation([1.0, 2.0, 0.5])
    x = some((5, 300))
    w = npublas.pack(q)
    w.save(tmp_path / "w")
    with npublas.config_context(device="npu", on_fallback="error"):
        for copy_ in (npublas.load(tmp_path / "w"), pickle.loads(pickle.dumps(w))):
            same(x @ copy_, x @ q)


@pytest.mark.parametrize("scaled", [False, True])
def test_int4_survives_a_file_and_a_pickle(tmp_path: Path, scaled: bool) -> None:
    b = np.random.default_rng(0).integers(-8, 8, (300, 128)).astype(np.int8)
    right: Any = npublas.quantize(some((300, 128)), bits=4) if scaled else b.astype(ml_dtypes.int4)
    wanted = npublas.dequantize(right) if scaled else b
    w = npublas.pack(right)
    w.save(tmp_path / "w")
    for twin in (npublas.load(tmp_path / "w"), pickle.loads(pickle.dumps(w))):
        same(twin.unpack(), wanted)
        assert twin.nbytes < 300 * 128


def test_fixed_activation_scales_survive_a_file_and_a_pickle(tmp_path: Path) -> None:
    q = npublas.quantize(some((300, 40)), group_size=100).with_largest_activation([1.0, 2.0, 3.0])
    w = npublas.pack(q)
    w.save(tmp_path / "w")
    for twin in (w, npublas.load(tmp_path / "w"), pickle.loads(pickle.dumps(w))):
        assert twin._activation_scales is not None and q.activation_scales is not None
        same(twin._activation_scales, q.activation_scales)


def test_one_scale_for_a_whole_matrix_is_enough() -> None:
    q = npublas.quantize(some((4100, 40)), axis=None)
    same(npublas.pack(q).unpack(), npublas.dequantize(q))


def test_quantised_matrices_of_the_left_side_are_refused() -> None:
    with pytest.raises(ValueError, match="scales change along K"):
        npublas.pack(npublas.quantize(np.eye(4), axis=-2))
    with pytest.raises(ValueError, match="packed as int8"):
        npublas.pack(npublas.quantize(np.eye(4)), precision="float16")


def test_a_rotated_matrix_survives_a_file_and_a_pickle(tmp_path: Path) -> None:
    q = npublas.quantize(some((100, 40)), rotate=True)
    w = npublas.pack(q)
    w.save(tmp_path / "w")
    x = some((3, 100))
    for twin in (npublas.load(tmp_path / "w"), pickle.loads(pickle.dumps(w))):
        same(twin.unpack(), npublas.dequantize(q))
        same(x @ twin, x @ w)


# The short way to NumPy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_product_that_is_numpys_is_counted_with_its_reason(dtype: str, precision: Any) -> None:
    b = some((40, 30), dtype)
    w = npublas.pack(b, precision=precision)
    for x_shape in ((40,), (1, 40), (2, 3, 40)):
        x = some(x_shape, dtype, 1)
        counts = []
        for product in (lambda x=x: x @ w, lambda x=x: np.matmul(x, w, casting="same_kind")):
            npublas.reset_counters()
            result = product()
            counts.append(npublas.counters().to_dict())
            if not w._is_quantized:
                same(result, npublas.matmul(x, w.unpack()))
        for count in counts:
            assert count["cpu"]["products"] == 1 and count["npu"]["products"] == 0
            for device in ("cpu", "npu"):
                count[device].pop("seconds", None)
        assert counts[0]["cpu"]["products"] == counts[1]["cpu"]["products"]
        assert counts[0]["reasons"] == counts[1]["reasons"]


def test_the_short_way_heeds_the_settings_of_its_context(device: str) -> None:
    x, w = some((7, 40)), npublas.pack(some((40, 30)))
    npublas.reset_counters()
    with npublas.config_context(device="npu"):
        x @ w
        assert npublas.counters().npu.products == 1
        with npublas.config_context(device="cpu"):
            x @ w
        x @ w
    assert npublas.counters().npu.products == 2 and npublas.counters().cpu.products == 1


@pytest.mark.parametrize(
    ("detail", "times"), [("", 1), ("needs the source: 3 elements", 2), ("a row", 1)]
)
def test_a_refused_product_runs_again_only_where_the_source_helps(
    detail: str, times: int, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    x, b = some((7, 40)), some((40, 30))
    w = npublas.pack(b)
    calls = []

    def refuse(*operands: Any, **_: Any) -> dict[str, Any]:
        calls.append(operands[1])
        return {
            "on_npu": False,
            "code": "precision_loss",
            "reason": "magnitudes",
            "detail": detail,
            "seconds": 0.0,
            "overflowed": False,
            "underflowed": False,
        }

    with npublas.config_context(device="npu"):
        x @ w  # opens the engine
        monkeypatch.setattr(npublas._core, "multiply", refuse)
        same(x @ w, x @ b)
    assert [call is not None for call in calls] == [False, True][:times]


@pytest.mark.parametrize("where", ["cpu", "npu"])
def test_products_of_quantised_weights_are_floats(where: Any, device: str) -> None:
    q = npublas.quantize(some((40, 5)))
    x, w = some((3, 40)), npublas.pack(q)
    with npublas.config_context(device=where):
        for dtype in ("complex64", "longdouble"):
            with pytest.raises(TypeError, match="gives floats up to float64"):
                np.matmul(x, w, dtype=dtype)
        same(np.matmul(x, w, dtype=np.float16), (x @ q).astype(np.float16))
        out = np.empty((3, 5), np.complex64)
        assert np.matmul(x, w, out=out) is out
        same(out, (x @ q).astype(np.complex64))


def test_the_short_way_leaves_to_the_npu_what_pays_there(device: str) -> None:
    x, w = some((128, 1024), "int8"), npublas.pack(some((1024, 1024), "int8"))
    with npublas.config_context(device="auto"):
        assert npublas.explain(x, w).on_npu
        npublas.reset_counters()
        x @ w
    assert npublas.counters().npu.products == 1
    assert npublas.counters().to_dict()["work"]["runs"] > 0


# The precision of a call


@pytest.mark.parametrize("asked", PRECISIONS)
@pytest.mark.parametrize("packed_for", PRECISIONS)
def test_a_call_that_asks_for_another_precision_than_was_packed_is_refused(
    packed_for: Any, asked: Any
) -> None:
    x, w = some((5, 40)), npublas.pack(some((40, 30)), precision=packed_for)
    calls = [
        lambda: npublas.matmul(x, w, precision=asked),
        lambda: npublas.matmul(x, w, None, precision=asked, dtype=np.float32),
        lambda: npublas.matmul_async(x, w, precision=asked).result(),
        lambda: npublas.linear(x, w, precision=asked),
    ]
    for call in calls:
        if asked == packed_for:
            same(call(), x @ w)
        else:
            refusal = f"packed with precision='{packed_for}'; pack them with precision='{asked}'"
            with pytest.raises(npublas.ConfigurationError, match=refusal):
                call()
    same(npublas.matmul(x, w), x @ w)  # what was asked for ended with its call


def test_a_precision_of_the_settings_leaves_packed_weights_theirs() -> None:
    x, w = some((5, 40)), npublas.pack(some((40, 30)))
    with npublas.config_context(precision="int8"):
        same(npublas.matmul(x, w), x @ w)
        same(npublas.matmul(x, w, precision="float32"), x @ w)
        same(npublas.matmul(x, w, precision=None), x @ w)
        with pytest.raises(npublas.ConfigurationError, match="packed with precision='float32'"):
            npublas.matmul(x, w, precision="int8")


def test_packed_integers_are_exact_whatever_is_asked_for() -> None:
    x, w = some((5, 40), "int8"), npublas.pack(some((40, 30), "int8"))
    for precision in PRECISIONS:
        same(npublas.matmul(x, w, precision=precision), x @ w)


class Unwrapped:
    """Multiplies what it wraps, in settings of its own if it has any."""

    def __init__(self, array: Any, **settings: Any) -> None:
        self.array, self.settings = array, settings

    def __array_ufunc__(self, ufunc: Any, method: str, x: Any, wrapped: Any) -> Any:
        with npublas.config_context(**self.settings):
            return ufunc(x, wrapped.array)


def test_what_a_call_asks_for_holds_for_the_products_that_it_is_made_of() -> None:
    x, w = some((5, 40)), npublas.pack(some((40, 30)), precision="float16")
    same(npublas.matmul(x, Unwrapped(w)), x @ w)
    same(npublas.matmul(x, Unwrapped(w), precision="float16"), x @ w)
    with pytest.raises(npublas.ConfigurationError, match="packed with precision='float16'"):
        npublas.matmul(x, Unwrapped(w), precision="float32")
    with pytest.raises(npublas.ConfigurationError, match="packed with precision='float16'"):
        npublas.matmul(x, Unwrapped(w, device="cpu"), precision="float32")
    # A context says what it says to whatever there is, again.
    same(npublas.matmul(x, Unwrapped(w, precision="int8"), precision="float32"), x @ w)

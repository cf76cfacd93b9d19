"""NumPy's rules for a product whose right operand is no array: shapes, axes, subclasses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_type_of", "move_axes", "moved_out", "result_shape", "result_type", "same"]


def same(array: NDArray[Any]) -> NDArray[Any]:
    """The axes of a product that are where they always are."""
    return array


@functools.lru_cache(maxsize=256)
def result_type(
    ufunc: Any,
    x: np.dtype[Any],
    w: np.dtype[Any],
    out: np.dtype[Any] | None,
    dtype: np.dtype[Any] | None,
    casting: Any,
) -> np.dtype[Any]:
    """The dtype of a product, or NumPy's own error if there is none."""
    resolved: np.dtype[Any] = ufunc.resolve_dtypes(
        (x, w, out), signature=(None, None, dtype), casting=casting
    )[2]
    return resolved


def result_shape(
    x: NDArray[Any], w_shape: tuple[int, ...], ufunc: Any, out: NDArray[Any] | None
) -> tuple[int, ...]:
    """The shape of a product, or NumPy's own error if there is none."""
    *stack, k, n = w_shape
    if not stack and x.ndim > 0 and x.shape[-1] == k:  # as nearly always
        shape = (*x.shape[:-1], n)
        if out is None or out.shape == shape:
            return shape
    try:
        fits = x.ndim > 0 and x.shape[-1] == k
        shape = (*np.broadcast_shapes(x.shape[:-2], tuple(stack)), *x.shape[-2:-1], n)
    except ValueError:
        fits = False
    if fits and out is not None and out.shape != shape:
        # As any ufunc, matmul repeats a result for a larger stack.
        cores = min(x.ndim, 2)
        try:
            fits = out.shape == (
                *np.broadcast_shapes(shape[:-cores], out.shape[:-cores]), *shape[-cores:]
            )  # fmt: skip
        except ValueError:
            fits = False
    if not fits:
        # The same product of arrays that take no memory: NumPy refuses it before it computes.
        zero = np.zeros(())
        ufunc(np.broadcast_to(zero, x.shape), np.broadcast_to(zero, w_shape), out=out)
        raise ValueError(f"a product of {x.shape} and {w_shape} can't be")
    return shape


def move_axes(
    x: NDArray[Any], ndim: int, axes: Sequence[Any]
) -> tuple[NDArray[Any], Callable[[NDArray[Any]], NDArray[Any]]]:
    """`x` with its matrices in the last two axes, and how to move those of the result."""
    if len(axes) != 3:
        raise ValueError("axes should be a list with an entry for each input and the output")
    of_x, of_w, of_out = map(_as_tuple, axes)
    if tuple(axis - ndim if axis >= 0 else axis for axis in of_w) != (-2, -1):
        raise TypeError("the matrices of a PackedMatrix lie in its axes (-2, -1), and nowhere else")
    if len(of_x) != min(x.ndim, 2) or len(of_out) != len(of_x):
        raise ValueError("axes must name one axis of a vector, and two of a matrix")
    last = tuple(range(-len(of_x), 0))
    return np.moveaxis(x, of_x, last), lambda result: np.moveaxis(result, last, of_out)


def moved_out(out: NDArray[Any], axes: Sequence[Any]) -> NDArray[Any]:
    of_out = _as_tuple(axes[2])
    return np.moveaxis(out, of_out, tuple(range(-len(of_out), 0)))


def _as_tuple(axes: Any) -> tuple[int, ...]:
    return tuple(axes) if isinstance(axes, (tuple, list)) else (axes,)


def as_type_of(x: NDArray[Any], result: NDArray[Any], ufunc: Any, inputs: Any) -> Any:
    """A product in the class of its left operand, as NumPy has it for subclasses of ndarray."""
    if type(x) is np.ndarray:
        return result
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        return x.__array_wrap__(result, (ufunc, inputs, 0))
    return x.__array_wrap__(result, (ufunc, inputs, 0), result.ndim == 0)

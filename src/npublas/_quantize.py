"""Quantising: real matrices as small integers with scales, and back."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npublas import _symmetric
from npublas._hadamard import Rotation, block_for, rotate
from npublas._quantized import QuantizedMatrix, as_group_size, check_layout, own
from npublas._symmetric import WEIGHT_MAX, Float32s

__all__ = ["dequantize", "quantize"]


def quantize(
    w: ArrayLike,
    *,
    bits: Literal[8, 4] = 8,
    axis: Literal[-1, -2] | None = -1,
    group_size: int | None = None,
    rotate: bool = False,
) -> QuantizedMatrix:
    """Round a matrix to small integers with a scale for each column, row, or group.

    With the largest integer q_max (127 for 8 bits, 7 for 4), in float32, rounding half to even::

        scale = max|w| / q_max       of the column, row or group; 1 where that is 0
        data  = rint(w / scale)      within ±q_max

    Parameters
    ----------
    w : array_like
        Weights of shape (K, N), or a stack of them, whose matrices are quantised one by one.
        Integers and floats, finite; they are rounded to float32 first.
    bits : {8, 4}
    axis : {-1, -2, None}
        -1: a scale per column, for the right operand of a product. -2: one per row, for the left
        operand. None: one for the whole matrix, which may be either.
    group_size : int, optional
        Cuts K into groups with scales of their own: K is axis -2 of a right operand (``axis=-1``)
        and -1 of a left one (``axis=-2``). The last group may be shorter. Every group is a product
        of its own on the NPU, so small groups cost time.
    rotate : bool
        Multiply K by a Hadamard matrix first, which spreads outliers. K is padded with zeros to a
        multiple of a power of two (up to 128). Products rotate the other operand to match.

    Returns
    -------
    QuantizedMatrix

    Raises
    ------
    ValueError
        For NaN and infinity, also where float32 or the rotation has no such large numbers; for
        fewer than 2 dimensions; for options that are none of these.
    TypeError
        If `w` has no real numbers.

    See Also
    --------
    dequantize, calibrate, error_report

    Examples
    --------
    >>> import numpy as np, npublas
    >>> w = np.array([[0.5, -20.0], [1.27, 25.4]], np.float32)
    >>> q = npublas.quantize(w)
    >>> q.data
    array([[  50, -100],
           [ 127,  127]], dtype=int8)
    >>> x = np.array([[1.0, 0.5]], np.float32)
    >>> x @ q
    array([[ 1.14     , -7.2000003]], dtype=float32)
    """
    return _quantize(w, bits, axis, group_size, rotate)


def dequantize(q: QuantizedMatrix) -> Float32s:
    """Return the matrix that a quantised one stands for.

    Each element is an integer times its scale, in float32; a rotation is turned back.

    Parameters
    ----------
    q : QuantizedMatrix

    Returns
    -------
    array of float32
        A new one, of the shape of `q`. Without a rotation it differs from the matrix that was
        quantised by at most half a scale, and float32's rounding.

    Raises
    ------
    TypeError
        If `q` isn't quantised.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> npublas.dequantize(npublas.quantize(np.array([[0.3], [12.7]])))
    array([[ 0.3],
           [12.7]], dtype=float32)
    """
    if not isinstance(q, QuantizedMatrix):
        raise TypeError(f"a QuantizedMatrix is needed, not {type(q).__name__}")
    return q._dequantized()


def _quantize(
    w: ArrayLike, bits: int, axis: int | None, group_size: int | None, rotated: bool
) -> QuantizedMatrix:
    if isinstance(w, QuantizedMatrix):
        raise TypeError("it is quantised already")
    matrix = np.asarray(w)
    group_size = as_group_size(group_size)
    check_layout(matrix.ndim, bits, axis, group_size)
    floats = _as_float32(matrix)
    depth = -1 if axis == -2 else -2
    lanes = floats.swapaxes(-1, -2) if depth == -2 else floats
    rotation = None
    if rotated:
        rotation = Rotation(block_for(lanes.shape[-1]), lanes.shape[-1], depth)
        with np.errstate(over="ignore", invalid="ignore"):
            lanes = rotate(lanes, rotation.block)
        if not np.isfinite(lanes).all():
            raise ValueError("w has values that are too large to be rotated in float32")
    maxima = _symmetric.largest(lanes, group_size)
    if axis is None:
        maxima = maxima.max(axis=-2, keepdims=True, initial=0)
    scales = _symmetric.scales_for(maxima, WEIGHT_MAX[bits])
    data = _symmetric.to_integers(lanes, scales, group_size, WEIGHT_MAX[bits])
    if depth == -2:
        data, scales = data.swapaxes(-1, -2), scales.swapaxes(-1, -2)
    return QuantizedMatrix(
        own(np.ascontiguousarray(data), fresh=True),
        own(np.ascontiguousarray(scales), fresh=True),
        bits,
        axis,
        group_size,
        rotation,
    )


def _as_float32(matrix: NDArray[Any]) -> Float32s:
    try:
        real = np.can_cast(np.result_type(matrix.dtype, np.float32), np.longdouble)
    except TypeError:
        real = False
    if not real:
        raise TypeError(f"w must be of real numbers, not {matrix.dtype}")
    with np.errstate(over="ignore", under="ignore"):
        floats = matrix.astype(np.float32, copy=False)
    if not np.isfinite(floats).all():
        wrong = matrix[~np.isfinite(floats)][0]
        raise ValueError(
            f"w must be finite in float32 to be quantised, but has {wrong} at "
            f"{tuple(map(int, np.argwhere(~np.isfinite(floats))[0]))}"
        )
    return floats

"""Symmetric quantisation: a lane of real numbers as small integers times one scale.

    scale = max|x| / q_max             in float32; 1 if that is below float32's normal range
    q     = rint(x / scale)            in float32, half to even, clamped to -q_max ... q_max
    x    ~= q * scale                  to within scale / 2 where nothing was clamped

A lane runs along the last axis, or, with groups, a piece of it does. There is no zero point: zero
is zero, and a product of integers stands for the product of the lanes but for two factors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Int8s = NDArray[np.int8]

# The largest magnitude of a weight, by its bits.
WEIGHT_MAX = {8: 127, 4: 7}
# The largest magnitude of an activation, by the bits of the weights that it meets. With 4-bit
# weights it is 16·7 + 7, the last up to which both nibbles of `split_nibbles` fit 4 bits.
ACTIVATION_MAX = {8: 127, 4: 119}

# A scale below float32's normal range has too few bits to bring the largest value to q_max, and a
# processor may flush it to zero. Values this small (below 1.5e-36 for 127) become zeros.
_SMALLEST_SCALE = np.finfo(np.float32).tiny
_LARGEST = np.finfo(np.float32).max


def groups(length: int, group_size: int | None) -> int:
    """How many scales a lane of `length` has; an empty lane has one."""
    return 1 if group_size is None else max(1, -(-length // group_size))


def largest(x: Float32s, group_size: int | None) -> Float32s:
    """The largest magnitude of each group: (..., K) -> (..., groups). NaN if there is one."""
    if group_size is None or group_size >= x.shape[-1]:
        # Not abs(x).max(): that writes a second x.
        above = x.max(axis=-1, keepdims=True, initial=0)
        below = x.min(axis=-1, keepdims=True, initial=0)
        one: Float32s = np.maximum(above, -below)
        return one
    starts = np.arange(0, x.shape[-1], group_size)
    maxima: Float32s = np.maximum.reduceat(np.abs(x), starts, axis=-1)
    return maxima


def scales_for(maxima: Float32s, q_max: int) -> Float32s:
    """The scales that bring `maxima` to `q_max`."""
    with np.errstate(under="ignore"):
        scales = np.atleast_1d(maxima / np.float32(q_max))
    scales[scales < _SMALLEST_SCALE] = 1
    return scales


def to_integers(x: Float32s, scales: Float32s, group_size: int | None, q_max: int) -> Int8s:
    """Round x to whole multiples of its scales, and clamp."""
    with np.errstate(over="ignore", under="ignore"):  # clamped, and rounded to zero
        quotient = x / _each(scales, x.shape[-1], group_size)
    np.rint(quotient, out=quotient)
    np.clip(quotient, -q_max, q_max, out=quotient)
    return quotient.astype(np.int8)


def to_floats(q: Int8s, scales: Float32s, group_size: int | None) -> Float32s:
    """The values that the integers stand for."""
    with np.errstate(over="ignore"):  # q_max times its scale may round up beyond the last float32
        floats: Float32s = q * _each(scales, q.shape[-1], group_size)
    return np.clip(floats, -_LARGEST, _LARGEST, out=floats)


def _each(scales: Float32s, length: int, group_size: int | None) -> Float32s:
    """The scale of each element of a lane, to be broadcast."""
    if group_size is None or scales.shape[-1] == 1:
        return scales
    return np.repeat(scales, group_size, axis=-1)[..., :length]


def split_nibbles(a: NDArray[Any]) -> tuple[Int8s, Int8s]:
    """Split integers into nibbles: a = 16·high + low, both in -8 ... 7.

    So a product with 4-bit weights is two products of 4-bit integers, exactly:
    a @ w = 16·(high @ w) + low @ w.

    Parameters
    ----------
    a : array of int8
        From -128 to 119: 120 = 16·7 + 8 has no such nibbles.

    Returns
    -------
    high, low : arrays of int8

    Raises
    ------
    ValueError
        If an element is above 119.

    Examples
    --------
    >>> import numpy as np
    >>> high, low = split_nibbles(np.array([119, 8, -1, -119], np.int8))
    >>> high, low
    (array([ 7,  1,  0, -7], dtype=int8), array([ 7, -8, -1, -7], dtype=int8))
    """
    limit = ACTIVATION_MAX[4]
    if a.size and a.max() > limit:
        raise ValueError(f"{a.max()} is above {limit} and has no two nibbles in -8 ... 7")
    low = ((a & 15) ^ 8) - 8  # the sign of four bits carried on
    return ((a.astype(np.int16) - low) >> 4).astype(np.int8), low.astype(np.int8)

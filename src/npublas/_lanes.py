"""The product of quantised lanes: integers on the NPU, scales on the way out.

    a[i]  = rint(x[i] / sA[i])                      activations, quantised as they come
    C[ij] = sum over groups g of  n[ijg] · (sA[ig] sW[jg]),   n[ijg] = sum of a[ik] w[jk], k in g

n is exact. The product of two float32 scales is exact in float64, and so is n; their product is
rounded once, groups are added in order, and the sum is rounded to the result's type. So a result
depends neither on the number of rows nor on where n was computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npublas import _core, _symmetric
from npublas._hadamard import rotate
from npublas._matmul import ufunc as matmul
from npublas._symmetric import Float32s, Int8s

# |sum| <= 127·127·K fits int32 up to K = 133,143. Longer sums are added up in int64.
_LONGEST_INT32_SUM = 1 << 17
_DEEPEST = 2048  # int8 tiles, along K


class Lanes(NamedTuple):
    """Rows of integers with their scales: a left operand, or a right one transposed."""

    data: Int8s  # (..., rows, K)
    scales: Float32s  # (..., rows or 1, groups)
    group_size: int | None


def activations(
    x: NDArray[Any],
    *,
    block: int | None,
    group_size: int | None,
    q_max: int,
    fixed: Float32s | None,
    watch: Callable[[Float32s], object] | None,
) -> tuple[Lanes, NDArray[np.bool_]]:
    """Quantise the rows of x, by their own maxima or by `fixed` scales, one for each group.

    Returns the lanes, and which rows have no integers since they are not finite in float32; those
    are zeros. `watch` is given the largest magnitude of each group.
    """
    # What overflows makes its row unusable, and what underflows is rounded to zero anyway.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        floats = x.astype(np.float32, copy=False)
        if block is not None:
            floats = rotate(floats, block)
    if fixed is not None and watch is None:
        unusable = _any_not_finite(floats)
        maxima = None
    else:
        maxima = _symmetric.largest(floats, group_size)
        unusable = _any_not_finite(maxima)
    if unusable.any():
        floats = np.where(unusable[..., np.newaxis], np.float32(0), floats)
        if maxima is not None:
            maxima = np.where(unusable[..., np.newaxis], np.float32(0), maxima)
    if watch is not None and maxima is not None and not unusable.all():
        watch(maxima.max(axis=tuple(range(maxima.ndim - 1))))
    if fixed is not None:
        scales = fixed[np.newaxis]
    else:
        assert maxima is not None
        scales = _symmetric.scales_for(maxima, q_max)
    data = _symmetric.to_integers(floats, scales, group_size, q_max)
    return Lanes(data, scales, group_size), unusable


def _any_not_finite(x: Float32s) -> NDArray[np.bool_]:
    """For each row."""
    return np.asarray(~np.isfinite(x).all(axis=-1))


def tile_depth(bits: int, k: int, n: int, group_size: int | None) -> int:
    """How deep the NPU's tiles are for weights of `bits`: a group, or an equal part of it.

    Without groups it is what the core takes; one scale along K is then one for every tile. Each
    tile takes scales of the activations of its own.
    """
    if bits == 4:
        return _core.tile_depth("int4", k, n, group=group_size or max(k, 1))
    if group_size is None:
        return _core.tile_depth("int8", k, n, group=0)
    if group_size <= _DEEPEST:
        return group_size
    part = next(depth for depth in range(_DEEPEST, 0, -1) if group_size % depth == 0)
    return part if part >= 128 else group_size  # a prime number has no parts


def multiply(a: Lanes, b: Lanes) -> NDArray[np.float64]:
    """The product of a's rows with b's: (..., M, K) and (..., N, K) -> (..., M, N).

    Their groups are of the same size, or one of them has none.
    """
    length = a.data.shape[-1]
    size = a.group_size or b.group_size or max(length, 1)
    total: NDArray[np.float64] | None = None
    for group, start in enumerate(range(0, max(length, 1), size)):
        piece = np.s_[..., start : start + size]
        exact = _exact_sums(a.data[piece], b.data[piece])
        scale_a, scale_b = _scales(a, group), _scales(b, group)
        term = scale_a[..., :, np.newaxis] * scale_b[..., np.newaxis, :] * exact
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return total


def _scales(lanes: Lanes, group: int) -> NDArray[np.float64]:
    one = group if lanes.scales.shape[-1] > 1 else 0
    return lanes.scales[..., one].astype(np.float64)


def _exact_sums(a: Int8s, b: Int8s) -> NDArray[Any]:
    """The integer product of a's rows with b's."""
    b = b.swapaxes(-1, -2)
    if a.shape[-1] <= _LONGEST_INT32_SUM:
        return np.asarray(matmul(a, b, dtype=np.int32))
    sums: Any = 0
    for start in range(0, a.shape[-1], _LONGEST_INT32_SUM):
        k = slice(start, start + _LONGEST_INT32_SUM)
        sums = sums + matmul(a[..., k], b[..., k, :], dtype=np.int32).astype(np.int64)
    return np.asarray(sums)

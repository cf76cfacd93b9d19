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
from npublas._symmetric import ACTIVATION_MAX, Float32s, Int8s

# Tiles of 4 bits that are shallower, though a group isn't, are of 8 bits instead.
_SHALLOWEST = 64
# Up to this K, |sum| <= 127·127·K stays below 2^24, so that float32 adds up integers exactly, in
# any order.
_LONGEST_FLOAT32_SUM = 1024
# |sum| <= 127·127·K fits int32 up to K = 133,143. Longer sums are added up in int64.
_LONGEST_INT32_SUM = 1 << 17
_DEEPEST = 2048  # int8 tiles, along K


class Lanes(NamedTuple):
    """Rows of integers with their scales: a left operand, or a right one transposed."""

    data: NDArray[Any]  # (..., rows, K) of int8, or of the same integers as floats for `in_floats`
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
        scales = _scales_of_rows(maxima, q_max)
    data = _symmetric.to_integers(floats, scales, group_size, q_max)
    return Lanes(data, scales, group_size), unusable


def _scales_of_rows(maxima: Float32s, q_max: int) -> Float32s:
    """As csrc/npublas/math/coding.hpp has them: other than those of weights, down to subnormals."""
    with np.errstate(under="ignore"):
        scales = np.maximum(maxima / np.float32(q_max), np.finfo(np.float32).smallest_subnormal)
    scales[maxima == 0] = 1
    return np.asarray(scales)


def _any_not_finite(x: Float32s) -> NDArray[np.bool_]:
    """For each row."""
    return np.asarray(~np.isfinite(x).all(axis=-1))


class Tiles(NamedTuple):
    """How weights are cut along K where the NPU multiplies them."""

    bits: int  # of the weights in the tiles
    depth: int
    group_size: int | None  # how many elements along K share a scale

    @property
    def activation_max(self) -> int:
        """The largest magnitude of an activation that meets them."""
        return ACTIVATION_MAX[self.bits]

    def groups(self, k: int) -> NDArray[np.intp]:
        """Of each tile, the group that it lies in. An empty K has one tile here."""
        tiles = np.arange(max(1, -(-k // self.depth)))
        return tiles * self.depth // self.group_size if self.group_size else tiles * 0


def tiles(bits: int, k: int, n: int, group_size: int | None) -> Tiles:
    """How weights of `bits` are cut: a tile is a group, or an equal part of it.

    Without groups it is as deep as the core has it; one scale along K is then one for every tile.
    Each tile takes scales of the activations of its own.
    """
    if bits == 4:
        depth = _core.tile_depth("int4", k, n, group=group_size or max(k, 1))
        if depth >= min(_SHALLOWEST, group_size or k, max(k, 1)):
            return Tiles(4, depth, group_size)
        # The group has a large prime factor, and a tile is padded to a depth of 32.
    if group_size is None:
        return Tiles(8, _core.tile_depth("int8", k, n, group=0), None)
    if group_size <= _DEEPEST:
        return Tiles(8, group_size, group_size)
    part = next(depth for depth in range(_DEEPEST, 0, -1) if group_size % depth == 0)
    # A prime number has no parts.
    return Tiles(8, part if part >= 128 else group_size, group_size)


ExactSums = Callable[[Any, Any], NDArray[Any]]


def product(
    rows: NDArray[Any],
    weights: Lanes,
    cut: Tiles,
    *,
    block: int | None,
    fixed: Float32s | None,
    watch: Callable[[Float32s], object] | None,
    floats: Callable[[], Float32s],
    exact_sums: ExactSums,
) -> NDArray[np.float64]:
    """Rows of real numbers times the lanes of a quantised matrix.

    `weights` have a scale for each tile of `cut`, or one for all. `floats` gives the matrix that
    they stand for, for rows of NaN and infinity, which have no integers: those spread as NumPy has
    them spread.
    """
    quantized, unusable = activations(
        rows, block=block, group_size=cut.depth, q_max=cut.activation_max, fixed=fixed, watch=watch
    )
    sums = multiply(quantized, weights, exact_sums)
    if unusable.any():
        sums = np.where(unusable[..., np.newaxis], np.matmul(rows, floats()), sums)
    return sums


def multiply(a: Lanes, b: Lanes, exact_sums: ExactSums | None = None) -> NDArray[np.float64]:
    """The product of a's rows with b's: (..., M, K) and (..., N, K) -> (..., M, N).

    Their groups are of the same size, or one of them has none.
    """
    exact_sums = exact_sums or in_integers
    length = a.data.shape[-1]
    size = a.group_size or b.group_size or max(length, 1)
    total: NDArray[np.float64] | None = None
    for group, start in enumerate(range(0, max(length, 1), size)):
        piece = np.s_[..., start : start + size]
        exact = exact_sums(a.data[piece], b.data[piece])
        scale_a, scale_b = _scales(a, group), _scales(b, group)
        term = scale_a[..., :, np.newaxis] * scale_b[..., np.newaxis, :] * exact
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return total


def _scales(lanes: Lanes, group: int) -> NDArray[np.float64]:
    one = group if lanes.scales.shape[-1] > 1 else 0
    return lanes.scales[..., one].astype(np.float64)


def in_integers(a: Int8s, b: Int8s) -> NDArray[Any]:
    """The product of a's rows with b's, by `npublas.matmul`."""
    b = b.swapaxes(-1, -2)
    if a.shape[-1] <= _LONGEST_INT32_SUM:
        return np.asarray(matmul(a, b, dtype=np.int32))
    sums: Any = 0
    for start in range(0, a.shape[-1], _LONGEST_INT32_SUM):
        k = slice(start, start + _LONGEST_INT32_SUM)
        sums = sums + matmul(a[..., k], b[..., k, :], dtype=np.int32).astype(np.int64)
    return np.asarray(sums)


def in_floats(a: Int8s, b: Float32s) -> NDArray[Any]:
    """The same on the CPU, for a `b` of integers as floats: BLAS is faster than integers are."""
    b = b.swapaxes(-1, -2)
    floats = a.astype(np.float32)
    if a.shape[-1] <= _LONGEST_FLOAT32_SUM:
        return np.asarray(np.matmul(floats, b))
    sums: Any = 0.0
    for start in range(0, a.shape[-1], _LONGEST_FLOAT32_SUM):
        k = slice(start, start + _LONGEST_FLOAT32_SUM)
        sums = sums + np.matmul(floats[..., k], b[..., k, :]).astype(np.float64)
    return np.asarray(sums)

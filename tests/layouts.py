"""The native layouts' formulas, written a second time in NumPy, and kinds of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def up(value: int, step: int) -> int:
    return -(-value // step) * step


def padded(matrix: Array, rows: int, columns: int) -> Array:
    out = np.zeros((rows, columns), matrix.dtype)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


def surface_a(matrix: Array) -> Array:
    """[K/x, M, x] of a matrix whose sides are multiples already."""
    x = 16 // matrix.dtype.itemsize
    m, k = matrix.shape
    return matrix.reshape(m, k // x, x).transpose(1, 0, 2).ravel()


def surface_b(matrix: Array) -> Array:
    """[N/y, K/z, y, z]."""
    y, z = 32 // matrix.dtype.itemsize, 32
    k, n = matrix.shape
    return matrix.T.reshape(n // y, y, k // z, z).transpose(0, 2, 1, 3).ravel()


def surface_c(matrix: Array) -> Array:
    """[N/4, M, 4]."""
    m, n = matrix.shape
    return matrix.reshape(m, n // 4, 4).transpose(1, 0, 2).ravel()


def views(matrix: Array) -> Iterator[Array]:
    """Copies in every kind of memory that a caller may have."""
    yield matrix.copy("C")
    yield matrix.copy("F")
    yield np.repeat(np.repeat(matrix, 2, 0), 3, 1)[::2, ::3]
    yield matrix[::-1, ::-1].copy()[::-1, ::-1]
    # A step of the inner axis that is no multiple of the size of an element.
    record = np.zeros(matrix.shape, np.dtype([("before", "u1"), ("value", matrix.dtype)]))
    record["value"] = matrix
    yield record["value"]


def bfloat16_values(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bfloat16_bits(values: Array) -> Array:
    """The nearest, ties to even; not for NaN."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

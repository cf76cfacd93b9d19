"""What a product multiplies: dtypes, shapes, precision, and where its result can go.

All of it by the rules of ``numpy.matmul``, for products that don't pass through a ufunc.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from npublas import _config, _core, _ufuncs
from npublas._dtypes import name_of
from npublas._matmul import ufunc
from npublas._types import Precision
from npublas.errors import ConfigurationError, WeightsFileError

__all__ = [
    "BYTES",
    "FLOATS",
    "Array",
    "DType",
    "Packed",
    "Types",
    "check_out",
    "check_real",
    "check_writeable",
    "plain",
    "precision_for",
    "result_shape",
    "types_of",
    "usable",
]

Array: TypeAlias = NDArray[Any]
DType: TypeAlias = np.dtype[Any]

BYTES = ("int8", "uint8")
FLOATS = ("float16", "bfloat16", "float32", "float64")


class Packed(Protocol):
    """What stands in the place of an array on the right: a `PackedMatrix`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> DType: ...
    @property
    def precision(self) -> str: ...
    @property
    def pinned(self) -> bool: ...
    @property
    def _weights(self) -> _core.Weights: ...
    @property
    def _activation_scales(self) -> NDArray[np.float32] | None: ...

    @property
    def _depth(self) -> int: ...
    @property
    def _is_quantized(self) -> bool: ...

    def _prepare(self, x: Array) -> Array:
        """What the NPU multiplies in the place of the left operand."""

    def _times(self, x: Array) -> NDArray[np.float64]:
        """The sums of a product by quantised weights on the CPU."""

    def _altered(self, how: str) -> WeightsFileError:
        """The error for weights of a file that was altered."""

    def _dense(self) -> Array:
        """What was packed, for the CPU and for what is too delicate for packed parts."""


class Types(NamedTuple):
    """Of the operands as they are multiplied, and of the result."""

    a: DType
    b: DType
    out: DType


@functools.lru_cache(maxsize=256)
def types_of(a: DType, b: DType, out: DType | None = None) -> Types:
    """Return the types that ``npublas.matmul`` would multiply with, on NumPy 1.26, too.

    Raises
    ------
    TypeError
        NumPy's own, if there is no such product.
    """
    _ufuncs.learn_bfloat16(ufunc)
    if a.name in BYTES and b.name in BYTES:
        int16, int32 = np.dtype(np.int16), np.dtype(np.int32)
        if out == int32 or (a != b and out in (None, int16)):
            return Types(a, b, int16 if out is None else out)
    wanted: dict[str, Any] = {} if out is None else {"signature": (None, None, out)}
    return Types(*ufunc.resolve_dtypes((a, b, None), **wanted))


def plain(a: Any) -> Array:
    """The array itself, in this machine's byte order and aligned, with any strides."""
    array = np.asarray(a)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.aligned else array.copy()


def result_shape(a: Array, b: Array | Packed) -> tuple[int, ...]:
    """The shape of the result, or NumPy's own error."""
    b_shape = b.shape
    if len(b_shape) == 2 and a.ndim > 0 and a.shape[-1] == b_shape[0]:  # as nearly always
        return (*a.shape[:-1], b_shape[1])
    depth = b.shape[-2 if b.ndim > 1 else 0] if b.ndim else -1
    try:
        fits = a.ndim > 0 and a.shape[-1] == depth
        stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        fits = False
    if not fits:
        hollow = [np.broadcast_to(np.zeros((), np.bool_), x.shape) for x in (a, b)]  # of no memory
        np.matmul(*hollow)  # raises
    rows = a.shape[-2:-1]
    columns = b.shape[-1:] if b.ndim > 1 else ()
    return (*stack, *rows, *columns)


def usable(
    out: Array | None, shape: tuple[int, ...], dtype: DType, others: tuple[Any, ...]
) -> Array | None:
    """`out`, if the result can be written there while the operands are read."""
    fits = (
        isinstance(out, np.ndarray)
        and out.shape == shape
        and out.dtype == dtype
        and out.dtype.isnative
        and out.flags.writeable
        and out.flags.aligned
        and not (
            out.size > 1 and 0 in [t for t, n in zip(out.strides, shape, strict=True) if n > 1]
        )
        and not any(isinstance(x, np.ndarray) and np.may_share_memory(out, x) for x in others)
    )
    return out if fits else None


def check_writeable(out: Array) -> None:
    """Raise if nothing can be written there."""
    if not out.flags.writeable:
        raise ValueError("output array is read-only")


def check_out(out: Any, shape: tuple[int, ...], dtype: DType) -> None:
    """Raise, before anything is computed, if the result can't be copied there afterwards."""
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError("return arrays must be of ArrayType")
    check_writeable(out)
    if not np.can_cast(dtype, out.dtype, "same_kind"):
        raise TypeError(
            f"Cannot cast the result from {dtype!r} to {out.dtype!r} with casting rule 'same_kind'"
        )
    try:
        np.broadcast_to(np.broadcast_to(np.zeros((), np.bool_), shape), out.shape)
    except ValueError:
        raise ValueError(f"out has the shape {out.shape}, and the result {shape}") from None


def precision_for(b: Array | Packed, precision: Precision | None) -> Precision | None:
    """The precision of the call: that of packed weights, which can't be changed any more."""
    if isinstance(b, np.ndarray) or b.precision == "exact":
        return precision
    if precision not in (None, b.precision):
        _config.packed(precision=precision)  # or it raises: that there is no such precision
        raise ConfigurationError(
            f"the weights were packed with precision={b.precision!r}; pack them with "
            f"precision={precision!r} to have that"
        )
    return cast(Precision, b.precision)


def check_real(dtype: DType, out: DType) -> None:
    """Raise unless a product by quantised weights can be of such operands and results."""
    try:
        natural = np.result_type(dtype, np.float32)
    except TypeError:
        natural = dtype
    if natural not in (np.float32, np.float64):
        raise TypeError(
            f"a product with quantised weights takes real operands up to float64, not {dtype}"
        )
    if name_of(out) not in FLOATS:
        raise TypeError(f"a product with quantised weights gives floats up to float64, not {out}")

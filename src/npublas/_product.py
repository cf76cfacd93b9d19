"""Products that NumPy's loops have no room for: with packed weights, bias, activation, alpha, beta.

The same sequence as in the loops of ``npublas.matmul`` (``csrc/numpy/loops.cpp``): decide; open the
engine if it is closed; multiply; if that fails, report it and compute on the CPU; count. Shapes and
dtypes are ``numpy.matmul``'s. Products of one matrix `b` with a stack are one product of all rows.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from npublas import _config, _core, _engine, _log, _ufuncs
from npublas._dtypes import name_of
from npublas._matmul import ufunc
from npublas._types import Activation, Device, Precision
from npublas.errors import ConfigurationError, NpuUnavailableError, WeightsFileError

__all__ = [
    "Finish",
    "Packed",
    "Plain",
    "Types",
    "at_once",
    "check_out",
    "finish_sums",
    "forget",
    "multiply",
    "plain",
    "precision_for",
    "result_shape",
    "types_of",
    "usable",
]

Array: TypeAlias = NDArray[Any]
DType: TypeAlias = np.dtype[Any]

_NEEDS_SOURCE = "needs the source"  # how the core begins what it says of packed weights then
_BYTES = ("int8", "uint8")
_FLOATS = ("float16", "bfloat16", "float32", "float64")

# How often a product opens an engine that another thread closes again, as the loops do.
_REOPENINGS = 8
_BUSY = {
    "on_npu": False,
    "code": "busy",
    "fallback": True,
    "reason": "another process held the NPU for too long",
}


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


def multiply(
    a: Array,
    b: Array | Packed,
    *,
    dtype: DType | None = None,
    out: Array | None = None,
    precision: Precision | None = None,
    device: Device | None = None,
    bias: Array | None = None,
    activation: Activation | None = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    a_limit: int = 127,
) -> Any:
    """Return ``activation(alpha * a @ b + beta * out + bias)``.

    `dtype` is that of the result, as in `numpy.matmul`. `bias` (one number per column), activation,
    alpha and beta are for results of float16, bfloat16, float32 and float64; with `beta`, `out`
    must have the result's shape and dtype. `a_limit` promises, of an int8 `a`, the largest
    magnitude (8: -8 ... 7).
    """
    _ufuncs.begin_product()
    a = plain(a)
    shape = result_shape(a, b)
    types = types_of(a.dtype, b.dtype, dtype)
    settings = _config.packed(precision=precision_for(b, precision), device=device)
    finish = Finish(bias, activation or "none", float(alpha), float(beta))
    result = usable(out, shape, types.out, (a, b, bias))
    if result is None:
        check_out(out, shape, types.out)
        result = np.empty(shape, types.out)
        if beta != 0:
            np.copyto(result, cast(Array, out))
    _compute(a, b, result, types, settings, finish, a_limit)
    if out is None:
        return result if shape else result[()]
    if result is not out:
        with _told_to_the_caller("cast"):
            np.copyto(out, result, casting="same_kind")
    return out


class Plain(NamedTuple):
    """What is to be known of a packed matrix whose products NumPy can do as they stand."""

    dtype: DType
    name: str
    precision: Precision | None
    k: int
    n: int
    weights: _core.Weights


def at_once(a: Array, b: Plain, restore: Callable[[], Array]) -> Array | None:
    """The product by packed weights, if it is decided for the CPU and all of it is NumPy's.

    None leaves it to `multiply`, which comes to the same result by a longer way.
    """
    if a.dtype != b.dtype or a.ndim == 0 or a.shape[-1] != b.k or a.size == 0 or _log.is_verbose():
        return None
    _ufuncs.begin_product()
    settings = _config.packed(precision=b.precision)
    if _config.demands_npu(settings):
        return None
    m = a.size // b.k
    decision = _core.decide(settings, b.name, b.name, b.name, 1, m, b.k, b.n, b.weights)
    if decision["on_npu"] or decision["fallback"]:
        return None
    dense = restore()
    start = time.perf_counter()
    result: Array = _on_cpu(a, dense)
    seconds = time.perf_counter() - start
    _core.count(b.name, 1, m, b.k, b.n, decision["code"], False, seconds)
    return result


def forget(weights: _core.Weights) -> None:
    """Free what the NPU's memory holds of packed weights."""
    _core.forget(weights)


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
    if a.name in _BYTES and b.name in _BYTES:
        int16, int32 = np.dtype(np.int16), np.dtype(np.int32)
        if out == int32 or (a != b and out in (None, int16)):
            return Types(a, b, int16 if out is None else out)
    wanted: dict[str, Any] = {} if out is None else {"signature": (None, None, out)}
    return Types(*ufunc.resolve_dtypes((a, b, None), **wanted))


# Arrays


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


def check_out(out: Any, shape: tuple[int, ...], dtype: DType) -> None:
    """Raise, before anything is computed, if the result can't be copied there afterwards."""
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError("return arrays must be of ArrayType")
    if not out.flags.writeable:
        raise ValueError("output array is read-only")
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


def _check_real(dtype: DType, out: DType) -> None:
    """Raise unless a product by quantised weights can be of such operands and results."""
    try:
        natural = np.result_type(dtype, np.float32)
    except TypeError:
        natural = dtype
    if natural not in (np.float32, np.float64):
        raise TypeError(
            f"a product with quantised weights takes real operands up to float64, not {dtype}"
        )
    if out.name not in _FLOATS:
        raise TypeError(f"a product with quantised weights gives floats up to float64, not {out}")


# Stacks


def _compute(
    a: Array,
    b: Array | Packed,
    c: Array,
    types: Types,
    settings: int,
    finish: Finish,
    a_limit: int,
) -> None:
    """Bring the operands into the form of one product, or of a stack of them, and run it."""
    weights = None
    if not isinstance(b, np.ndarray):
        weights = b._weights
        if b._is_quantized:
            _check_real(a.dtype, types.out)
        b_stack = b.shape[:-2]
        if name_of(b.dtype) not in _BYTES and name_of(a.dtype) not in _FLOATS:
            a = a.astype(types.a)  # any other float is multiplied as it is
    else:
        a = a.astype(types.a, copy=False)
        b = plain(b).astype(types.b, copy=False)
        if b.ndim == 1:
            b, c = b[:, np.newaxis], c[..., np.newaxis]
        b_stack = b.shape[:-2]
    if 0 in b_stack:
        return  # a stack of no matrices
    whole = a, b, c
    if a.ndim == 1:
        a, c = a[np.newaxis], c[..., np.newaxis, :]
    b_flat: Array | Packed = b
    if b_stack:
        a, b_flat, target, flat = _stacked(a, b, c, b_stack)
    else:  # one matrix, and all of A are its rows
        flat = target = c
        if a.ndim > 2:
            height = math.prod(a.shape[:-1])
            a, flat = a.reshape(height, a.shape[-1]), c.reshape(height, c.shape[-1])
    call = _Call(a, b_flat, flat, weights, types, settings, finish, whole, a_limit)
    call.run()
    if flat is target or call.is_whole or flat.size == 0:
        return
    if not np.may_share_memory(flat, target):
        target[...] = flat.reshape(target.shape)


def _stacked(
    a: Array, b: Array | Packed, c: Array, b_stack: tuple[int, ...]
) -> tuple[Array, Array | Packed, Array, Array]:
    """A, B, C with its axes as they are multiplied, and C as it is multiplied.

    Axes of the stack along which B changes are a stack of products, all others more rows of A.
    """
    (m, k), n = a.shape[-2:], c.shape[-1]
    stack = c.shape[:-2]
    a = a.reshape((1,) * (len(stack) + 2 - a.ndim) + a.shape)
    b_lengths = (1,) * (len(stack) - len(b_stack)) + tuple(b_stack)
    products = [i for i, length in enumerate(b_lengths) if length > 1]
    rows = [i for i, length in enumerate(b_lengths) if length <= 1]
    batch = math.prod(b_lengths)
    height = math.prod([*(stack[i] for i in rows), m])
    flat: Array
    if products:
        order = (*products, *rows, len(stack), len(stack) + 1)
        a = np.broadcast_to(a, (*stack, m, k)).transpose(order).reshape(batch, height, k)
        c = c.transpose(order)
        flat = c.reshape(batch, height, n)
    else:
        a = a.reshape(height, k)
        flat = c.reshape(height, n)
    b_flat: Array | Packed = b
    if isinstance(b, np.ndarray):
        b_flat = b.reshape((batch, k, n) if products else (k, n))
    return a, b_flat, c, flat


# One product


class Finish(NamedTuple):
    """What is done to the sums."""

    bias: Array | None = None
    activation: str = "none"
    alpha: float = 1.0
    beta: float = 0.0

    @property
    def is_plain(self) -> bool:
        return self.bias is None and self[1:] == ("none", 1.0, 0.0)


@dataclass(eq=False)
class _Call:
    """One product, or a stack: `a` is (batch,) m × k, `c` likewise m × n and not read but by beta.

    `b` is an array of (batch,) k × n, or what is packed as `weights`.
    """

    a: Array
    b: Array | Packed
    c: Array
    weights: _core.Weights | None
    types: Types
    settings: int
    finish: Finish
    whole: tuple[Array, Array | Packed, Array]  # the stacks as they came
    a_limit: int = 127
    is_whole: bool = False  # the result is in `whole`, not in `c`

    def __post_init__(self) -> None:
        batch = self.c.shape[0] if self.c.ndim == 3 else 1
        k = self.a.shape[-1] if isinstance(self.b, np.ndarray) else self.b._depth
        self.shape = batch, self.c.shape[-2], k, self.c.shape[-1]

    @functools.cached_property
    def dense(self) -> Array:
        """B as an array."""
        if isinstance(self.b, np.ndarray):
            return self.b
        dense = self.b._dense()
        return dense if self.c.ndim == 3 or dense.ndim == 2 else dense[0]

    def run(self) -> None:
        on_npu_or_error = _config.demands_npu(self.settings)
        decision = self._decide()
        # Whoever demands the NPU is told if there is none, also for what it could not take.
        demanded = on_npu_or_error and decision["code"] != "empty"
        for _ in range(_REOPENINGS):
            if decision["on_npu"] or demanded:
                decision = self._decide_anew(decision)
            if decision["code"] == "no_npu" and on_npu_or_error:
                raise NpuUnavailableError(_core.engine_status()["unavailable_because"])
            attempt = self._attempt(decision)
            if (
                not decision["on_npu"]
                or attempt["code"] != "no_npu"
                or _core.engine_state() == "unavailable"
            ):
                break
            # Somebody closed the engine meanwhile, to change a setting of the process.
            attempt.update(_BUSY, detail="rather, this process changed its settings all the while")
        if attempt["code"] == "weights_file" and not isinstance(self.b, np.ndarray):
            raise self.b._altered(attempt["detail"])
        if attempt["fallback"]:
            on_fallback = _config.unpacked(self.settings)["on_fallback"]
            _log.fallback(attempt["reason"], attempt["detail"], on_fallback)
        seconds = attempt["seconds"]
        if not attempt["on_npu"]:
            start = time.perf_counter()
            self._multiply_on_cpu()
            seconds = time.perf_counter() - start
        kind = name_of(self.types.a)
        _core.count(kind, *self.shape, attempt["code"], attempt["fallback"], seconds)
        if attempt["on_npu"]:
            _log.news()
        if _log.is_verbose():
            _log.product(kind, self.shape, attempt["on_npu"], attempt["reason"], seconds)

    def _decide(self) -> dict[str, Any]:
        a, b, out = map(name_of, self.types)
        return _core.decide(self.settings, a, b, out, *self.shape, self.weights)

    def _decide_anew(self, decision: dict[str, Any]) -> dict[str, Any]:
        """Decide once more with the engine open."""
        for _ in range(_REOPENINGS):
            if _core.engine_state() not in ("closed", "opening"):
                return decision
            was_opened = _engine.open_engine()
            decision = self._decide()
            if not decision["on_npu"]:
                return decision
            if not was_opened:
                break
        if _core.engine_state() == "closed":
            # Another process holds the NPU: this product is the CPU's, the next one may have it.
            decision.update(_BUSY)
        return decision

    def _attempt(self, decision: dict[str, Any]) -> dict[str, Any]:
        """Multiply on the NPU if that was decided, and say what it came to."""
        if not decision["on_npu"]:
            return {**decision, "detail": "", "seconds": 0.0}
        outcome = self._multiply_on_npu(None if self.weights else self.dense)
        if self.weights and outcome["detail"].startswith(_NEEDS_SOURCE):
            # A few elements are too delicate for packed parts, and come right with the source.
            outcome = self._multiply_on_npu(self.dense)
        return {**outcome, "fallback": not outcome["on_npu"]}

    def _multiply_on_npu(self, b: Array | None) -> dict[str, Any]:
        bias, activation, alpha, beta = self.finish
        a = self.a if isinstance(self.b, np.ndarray) else self.b._prepare(self.a)
        outcome = _core.multiply(
            a, b, self.c, self.weights, self.settings,
            bias=bias, activation=activation, alpha=alpha, beta=beta, a_limit=self.a_limit,
            a_scales=None if isinstance(self.b, np.ndarray) else self.b._activation_scales,
            pin=not isinstance(self.b, np.ndarray) and self.b.pinned,
        )  # fmt: skip
        if outcome["on_npu"]:
            _signal(outcome["overflowed"], outcome["underflowed"])
        return outcome

    def _multiply_on_cpu(self) -> None:
        if not isinstance(self.b, np.ndarray) and self.b._is_quantized:
            # The NPU's integers and scales, and its one rounding.
            finish_sums(self.b._times(self.a).reshape(self.c.shape), self.c, self.finish)
            return
        natural, out = types_of(self.a.dtype, self.b.dtype).out, self.types.out
        if self.finish.is_plain:
            # As they came, for NumPy's own bits: BLAS adds in another order for a taller matrix.
            a, b, c = self.whole
            b = b if isinstance(b, np.ndarray) else b._dense()
            self.is_whole = True
            wider = out.kind in "iu" or out.itemsize > natural.itemsize
            _on_cpu(a, b, out=c, dtype=out if wider and out != natural else None)
            return
        # Narrow floats are summed in float32, and rounded once, when they are finished.
        sums_type = np.dtype(np.float64 if out.name == "float64" else np.float32)
        dtype = None if natural == sums_type else sums_type
        finish_sums(_on_cpu(self.a, self.dense, dtype=dtype), self.c, self.finish)


def finish_sums(sums: Array, c: Array, finish: Finish) -> None:
    """Write what becomes of the sums, a stack of matrices of float32 or float64, to `c`."""
    bias, activation, alpha, beta = finish
    overflow = underflow = False
    for index in np.ndindex(*c.shape[:-2]):
        seen = _core.finish(
            np.ascontiguousarray(sums[index]), c[index],
            bias=bias, activation=activation, alpha=alpha, beta=beta,
        )  # fmt: skip
        overflow |= seen["overflow"]
        underflow |= seen["underflow"]
    _signal(overflow, underflow)


def _signal(overflow: bool, underflow: bool) -> None:
    """Let NumPy tell of an overflow or underflow as `numpy.errstate` has it."""
    for raised, value in ((overflow, 2.0**9), (underflow, 1.5 * 2.0**-12 + 2.0**-22)):
        if raised:
            culprit = np.full((1, 1), value, np.float16)
            _on_cpu(culprit, culprit)


def _on_cpu(a: Array, b: Array, out: Array | None = None, dtype: DType | None = None) -> Any:
    with _told_to_the_caller("matmul"):
        return _ufuncs.on_cpu(ufunc, a, b, out=out, dtype=dtype)


@contextlib.contextmanager
def _told_to_the_caller(operation: str) -> Iterator[None]:
    """Let NumPy's warnings point to the line that asked for the product, as those of a ufunc do.

    NumPy has them point to the innermost frame of Python, which is one of this file.
    """
    states = np.geterr()
    warned = [name for name, state in states.items() if state == "warn"]
    has_functions = not {"call", "log"}.isdisjoint(states.values())
    if not warned or has_functions:  # which stay as they are
        yield
        return

    def tell(condition: str, flags: int) -> None:
        text = f"{condition} encountered in {operation}"
        warnings.warn(text, RuntimeWarning, stacklevel=_log._callers_level())

    changed: dict[str, Any] = dict.fromkeys(warned, "call")
    with np.errstate(call=tell, **changed):
        yield

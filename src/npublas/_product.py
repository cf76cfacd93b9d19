"""Products that NumPy's loops have no room for: with packed weights, bias, activation, alpha, beta.

The same sequence as in the loops of ``npublas.matmul`` (``csrc/numpy/loops.cpp``): decide; open the
engine if it is closed; multiply; if that fails, report it and compute on the CPU; count. Shapes and
dtypes are ``numpy.matmul``'s. Products of one matrix `b` with a stack are one product of all rows.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from npublas import _config, _core, _engine, _log, _on_cpu, _ufuncs
from npublas._dtypes import name_of
from npublas._on_cpu import Finish
from npublas._operands import (
    BYTES,
    FLOATS,
    Array,
    DType,
    Packed,
    Types,
    check_out,
    check_real,
    plain,
    precision_for,
    result_shape,
    types_of,
    usable,
)
from npublas._types import Activation, Device, Precision
from npublas.errors import NpuUnavailableError

__all__ = ["Plain", "at_once", "forget", "multiply"]

_NEEDS_SOURCE = "needs the source"  # how the core begins what it says of packed weights then

# How often a product opens an engine that another thread closes again, as the loops do.
_REOPENINGS = 8
_BUSY = {
    "on_npu": False,
    "code": "busy",
    "fallback": True,
    "reason": "another process held the NPU for too long",
}


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
        with _on_cpu.told_to_the_caller("cast"):
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
    result: Array = _on_cpu.multiply(a, dense)
    seconds = time.perf_counter() - start
    _core.count(b.name, 1, m, b.k, b.n, decision["code"], False, seconds)
    return result


def forget(weights: _core.Weights) -> None:
    """Free what the NPU's memory holds of packed weights."""
    _core.forget(weights)


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
            check_real(a.dtype, types.out)
        b_stack = b.shape[:-2]
        if name_of(b.dtype) not in BYTES and name_of(a.dtype) not in FLOATS:
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
            _on_cpu.signal(outcome["overflowed"], outcome["underflowed"])
        return outcome

    def _multiply_on_cpu(self) -> None:
        if not isinstance(self.b, np.ndarray) and self.b._is_quantized:
            # The NPU's integers and scales, and its one rounding.
            _on_cpu.finish_sums(self.b._times(self.a).reshape(self.c.shape), self.c, self.finish)
            return
        natural, out = types_of(self.a.dtype, self.b.dtype).out, self.types.out
        if self.finish.is_plain:
            # As they came, for NumPy's own bits: BLAS adds in another order for a taller matrix.
            a, b, c = self.whole
            b = b if isinstance(b, np.ndarray) else b._dense()
            self.is_whole = True
            wider = out.kind in "iu" or out.itemsize > natural.itemsize
            _on_cpu.multiply(a, b, out=c, dtype=out if wider and out != natural else None)
            return
        # Narrow floats are summed in float32, and rounded once, when they are finished.
        sums_type = np.dtype(np.float64 if out.name == "float64" else np.float32)
        dtype = None if natural == sums_type else sums_type
        _on_cpu.finish_sums(_on_cpu.multiply(self.a, self.dense, dtype=dtype), self.c, self.finish)

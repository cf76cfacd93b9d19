"""Products with something done to their result: `linear` and `gemm`."""

from __future__ import annotations

import math
import typing
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from npublas import _on_cpu, _operands, _product, _rules
from npublas._dtypes import name_of
from npublas._matmul import ufunc as matmul
from npublas._operands import BYTES, FLOATS
from npublas._types import Activation, Device, Precision

__all__ = ["gemm", "linear"]

_INT4_LARGEST = 8  # in magnitude
_ACTIVATIONS = typing.get_args(Activation)


def linear(
    x: npt.ArrayLike,
    w: Any,
    bias: npt.ArrayLike | None = None,
    *,
    activation: Activation | None = None,
    out: NDArray[Any] | None = None,
    precision: Precision | None = None,
    device: Device | None = None,
) -> Any:
    """A layer of a network: ``activation(x @ w + bias)``.

    On the NPU, bias and activation are applied while the result is unpacked: they cost no pass of
    their own, and the result is rounded once.

    Parameters
    ----------
    x : array_like
        Activations, ``(..., in)``.
    w : array_like, PackedMatrix or QuantizedMatrix
        Weights, ``(in, out)`` or a stack of such matrices. Weights that are stored ``(out, in)``,
        as frameworks have them, are passed as ``w.T``, which copies nothing.
    bias : array_like, optional
        One number for each column of the result, or one for all, of any shape that broadcasts so.
    activation : {'relu', 'gelu', 'gelu_tanh', 'silu'}, optional
        ``max(y, 0)``; ``y Φ(y)``, and its approximation with tanh; ``y / (1 + exp(-y))``.
    out : ndarray, optional
        Where to put the result.
    precision, device : optional
        As in `matmul`.

    Returns
    -------
    ndarray or scalar
        Of the shape and dtype of ``matmul(x, w)``, with two exceptions. Two of bfloat16 give
        bfloat16, where `matmul` gives float32; a bfloat16 with anything else is as for `matmul`
        (with float16 it gives float32). And int8, uint8 and int4, two alike or one of each, give
        int32, the exact sums plus bias (modulo 2³²): their bias must consist of integers, and their
        activation can only be ``'relu'``. Other integers are multiplied as by `matmul`, wrapping
        around, and so have neither bias nor activation.

    Raises
    ------
    ValueError
        If the shapes don't fit together, or there is no such activation.
    TypeError
        For a bias or an activation that the dtype can't have, or an `out` that can't take the
        result.
    NpuUnavailableError, FallbackError
        As `matmul`.

    Notes
    -----
    On the NPU and on the CPU, sums of float16, bfloat16 and float32 are in float32, those of
    float64 in float64 (in float32 parts under ``float64='float32'``); bias and activation are
    computed from them in double, and the result is rounded once.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> x = np.array([[1, -2]], np.float32)
    >>> w = np.array([[1, 0, 2], [0, 1, 1]], np.float32)
    >>> npublas.linear(x, w, [0.5, 0.5, 0.5], activation="relu")
    array([[1.5, 0. , 0.5]], dtype=float32)
    """
    if activation is not None and activation not in _ACTIVATIONS:
        names = ", ".join(map(repr, _ACTIVATIONS))
        raise ValueError(f"activation must be {names} or None, not {activation!r}")
    x = np.asarray(x)
    if not hasattr(w, "_weights") and not hasattr(w, "__array_ufunc__"):
        w = np.asarray(w)
    if np.ndim(w) < 2:
        raise ValueError(f"the weights of linear() are a matrix, (in, out), not {np.ndim(w)}-D")
    shape = _rules.result_shape(x, w.shape, matmul, None)
    out = _out_for(out, shape, min(x.ndim, 2))
    if isinstance(w, np.ndarray) or hasattr(w, "_weights"):
        return _linear(x, w, shape, bias, activation, out, precision, device)
    # What multiplies by its own rules, such as a QuantizedMatrix.
    if out is not None:
        _operands.check_out(out, shape, np.result_type(x.dtype, np.float32))
    bias = _bias_for(bias, shape, np.dtype(np.float64))
    sums = np.asarray(matmul(x, w, precision=precision, device=device))
    if name_of(sums.dtype) not in FLOATS:
        raise TypeError(f"linear() can't finish a product of {sums.dtype}")
    result = np.empty_like(sums)
    finish = _on_cpu.Finish(bias, activation or "none")
    _on_cpu.finish_sums(np.atleast_2d(sums), np.atleast_2d(result), finish)
    return _put(result, out)


def _linear(
    x: NDArray[Any],
    w: Any,
    shape: tuple[int, ...],
    bias: npt.ArrayLike | None,
    activation: Activation | None,
    out: NDArray[Any] | None,
    precision: Precision | None,
    device: Device | None,
) -> Any:
    a_limit = 127
    if name_of(x.dtype) == "int4":  # a byte each, in NumPy
        x, a_limit = x.astype(np.int8), _INT4_LARGEST
    if name_of(w.dtype) == "int4":
        w = w.astype(np.int8)
    names = {name_of(x.dtype), name_of(w.dtype)}
    is_bytes = names <= {*BYTES}
    dtype = _operands.types_of(x.dtype, w.dtype).out
    if names == {"bfloat16"}:
        dtype = x.dtype
    elif is_bytes:
        dtype = np.dtype(np.int32)
    # Only where it is another than matmul's: of bfloat16 and float32, NumPy knows no signature.
    wanted = dtype if is_bytes or names == {"bfloat16"} else None
    if name_of(dtype) in FLOATS:
        return _product.multiply(
            x, w, dtype=wanted, out=out, precision=precision, device=device,
            bias=_bias_for(bias, shape, dtype), activation=activation,
        )  # fmt: skip
    if dtype.kind in "iu" and not is_bytes and (activation or bias is not None):
        raise TypeError(
            f"linear() of {x.dtype} and {w.dtype} has no bias and no activation, since its sums "
            "wrap around; use int8, uint8 or floats"
        )
    if activation not in (None, "relu") or (activation and dtype.kind not in "iu"):
        raise TypeError(f"there is no {activation} of {x.dtype} and {w.dtype}; use floats")
    addend = _bias_for(bias, shape, dtype)
    if out is not None:
        _operands.check_out(out, shape, dtype)
    y = _product.multiply(x, w, dtype=wanted, precision=precision, device=device, a_limit=a_limit)
    if addend is not None:
        y = y + addend
    if activation:
        y = np.maximum(y, dtype.type(0))
    return _put(y, out)


def _out_for(out: Any, shape: tuple[int, ...], cores: int) -> NDArray[Any] | None:
    """`out` as a ufunc takes it: also as a tuple of one, and for a larger stack of results."""
    if isinstance(out, tuple):
        if len(out) != 1:
            raise ValueError("the 'out' tuple must have exactly one entry")
        (out,) = out
    if out is None:
        return None
    if not isinstance(out, np.ndarray):
        raise TypeError("return arrays must be of ArrayType")
    stack = out.shape[: max(out.ndim - cores, 0)]
    try:
        fits = out.shape == (*np.broadcast_shapes(shape[:-cores], stack), *shape[-cores:])
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"out has the shape {out.shape}, and the result {shape}")
    return out


def _put(result: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
    if out is None:
        return result
    np.copyto(out, result, casting="same_kind")
    return out


def _bias_for(
    bias: npt.ArrayLike | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any] | None:
    """The bias of each column as it is added: in double to floats, in their own dtype to others."""
    if bias is None:
        return None
    array = np.asarray(bias)
    columns = shape[-1]
    rows, last = array.shape[:-1], array.shape[-1:]
    if array.ndim > len(shape) or math.prod(rows) != 1 or last not in ((), (1,), (columns,)):
        raise ValueError(
            f"bias has the shape {array.shape}; the result has {columns} columns, so it must be "
            f"({columns},), or what broadcasts to that"
        )
    target = np.dtype(np.float64) if name_of(dtype) in FLOATS else dtype
    if not np.can_cast(array.dtype, target, "same_kind"):
        raise TypeError(f"a bias of {array.dtype} can't be added to a result of {dtype}")
    flat = array.reshape(last).astype(target, copy=False)
    if flat.size != columns:
        flat = np.broadcast_to(flat, (columns,))
    return np.ascontiguousarray(flat)


def gemm(
    alpha: float,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    beta: float = 0.0,
    c: npt.ArrayLike | None = None,
    trans_a: int = 0,
    trans_b: int = 0,
    overwrite_c: int = 0,
    *,
    precision: Precision | None = None,
    device: Device | None = None,
) -> NDArray[Any]:
    """``alpha * op(a) @ op(b) + beta * c``, with the arguments of ``scipy.linalg.blas.sgemm``.

    Parameters
    ----------
    alpha : float
        Or an array of one element, as SciPy takes it.
    a, b : array_like
        Matrices of float16, bfloat16, float32 or float64, in any memory order: transposed and
        sliced views are not copied. Others, but complex ones, are converted to float64, as SciPy
        does it: also int8 and uint8, whose exact products are `matmul`'s and `linear`'s. So are
        those with packed or quantised weights.
    beta : float
        As `alpha`. With 0, `c` is not read.
    c : array_like, optional
        A matrix of the result's shape; zeros if left out.
    trans_a, trans_b : {0, 1, 2}
        0 takes the matrix as it is, 1 and 2 (of complex matrices: conjugated) transposed.
    overwrite_c : {0, 1}
        1 allows the result to be written to `c`, which is done, and `c` returned, if it is an
        aligned and writeable array of the result's dtype that shares no memory with `a` and `b`.
        Otherwise `c` stays as it is.
    precision, device : optional
        As in `matmul`.

    Returns
    -------
    ndarray
        Of the dtype to which those of `a`, `b` and `c`, if it is given, promote; that of bfloat16
        and float16 is float32.

    Raises
    ------
    ValueError
        If the shapes don't fit together, or `trans_a` or `trans_b` is none of the above.
    TypeError
        For complex operands or factors, and for packed or quantised matrices.
    NpuUnavailableError, FallbackError
        As `matmul`. With `beta`, `c` is what it was then, also if it may be overwritten.

    Notes
    -----
    On the NPU and on the CPU, sums of float16, bfloat16 and float32 are in float32, those of
    float64 in float64; ``alpha`` and ``beta`` are applied in double, and the result is rounded
    once, where a BLAS would round the product, and the sum, too.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> a = np.arange(6, dtype=np.float32).reshape(2, 3)
    >>> c = np.ones((2, 2), np.float32)
    >>> npublas.gemm(2.0, a, a, beta=1.0, c=c, trans_b=1)
    array([[ 11.,  29.],
           [ 29., 101.]], dtype=float32)
    """
    alpha, beta = _factor("alpha", alpha), _factor("beta", beta)
    a, b = _matrix("a", a), _matrix("b", b)
    for name, trans in (("trans_a", trans_a), ("trans_b", trans_b)):
        if trans not in (0, 1, 2):
            raise ValueError(f"{name} must be 0, 1 or 2, not {trans!r}")
    a, b = a.T if trans_a else a, b.T if trans_b else b
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"op(a) has {a.shape[1]} columns, and op(b) {b.shape[0]} rows")
    shape = a.shape[0], b.shape[1]
    given = None if c is None else _matrix("c", c)
    if given is not None and given.shape != shape:
        raise ValueError(f"c has the shape {given.shape}, and the result {shape}")
    if a.dtype != b.dtype and "bfloat16" in (name_of(a.dtype), name_of(b.dtype)):
        common = _promoted(a.dtype, b.dtype)  # of different ones NumPy knows no signature
        a, b = a.astype(common, copy=False), b.astype(common, copy=False)
    dtype = _promoted(a.dtype, b.dtype, *([] if given is None else [given.dtype]))
    result = None
    if overwrite_c and isinstance(c, np.ndarray):
        result = _operands.usable(c, shape, dtype, (a, b))
    beta = 0.0 if given is None else beta
    if result is None:
        result = np.empty(shape, dtype)
        if given is not None and beta != 0:
            np.copyto(result, given)
    if alpha == 0:  # a and b are not read, as in every BLAS
        sums = np.zeros(shape, np.float64 if dtype == np.float64 else np.float32)
        _on_cpu.finish_sums(sums, result, _on_cpu.Finish(beta=beta))
        return result
    product: NDArray[Any] = _product.multiply(
        a, b, dtype=dtype, out=result, precision=precision, device=device,
        alpha=alpha, beta=beta,
    )  # fmt: skip
    return product


def _promoted(*dtypes: np.dtype[Any]) -> np.dtype[Any]:
    """What floats promote to; NumPy has nothing for bfloat16 and float16."""
    names = {name_of(dtype) for dtype in dtypes}
    if names >= {"bfloat16", "float16"}:
        return np.dtype(np.float64 if "float64" in names else np.float32)
    return np.result_type(*dtypes)


def _factor(name: str, value: Any) -> float:
    """A real number, or the one element of an array."""
    array = np.asarray(value)
    if array.size != 1:
        raise TypeError(f"{name} must be one number, not an array of shape {array.shape}")
    element = array.item()
    if isinstance(element, (complex, str, bytes)):
        raise TypeError(f"{name} is {value!r}; gemm() takes real numbers, not {array.dtype}")
    return float(element)


def _matrix(name: str, operand: npt.ArrayLike) -> NDArray[Any]:
    """An operand as a matrix of floats; a vector is a column, as SciPy has it."""
    if hasattr(operand, "_weights") or hasattr(operand, "_dequantized"):
        raise TypeError(
            f"{name} is a {type(operand).__name__}, and gemm() multiplies arrays; use "
            "npublas.linear(x, w, bias), or x @ w"
        )
    array = np.asarray(operand)
    if array.dtype.kind == "c":
        raise TypeError(f"{name} is {array.dtype}; gemm() multiplies real matrices")
    if array.ndim > 2:
        raise ValueError(f"{name} has {array.ndim} axes; gemm() multiplies matrices")
    if name_of(array.dtype) not in FLOATS or not array.dtype.isnative:
        native = array.dtype.newbyteorder("=")
        array = array.astype(native if name_of(native) in FLOATS else np.float64)
    return array if array.ndim == 2 else array.reshape(-1, 1)

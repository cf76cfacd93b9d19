"""Comparing: one product at each precision, its errors, and how long the NPU would take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npublas._decide import explain
from npublas._matmul import ufunc as matmul
from npublas._quantize import quantize
from npublas._table import html_table, mebibytes, si, text_table
from npublas._types import Precision

__all__ = ["ErrorReport", "error_report"]

_HEAD = ("largest error", "RMS error", "SNR", "NPU time", "weights", "precision")

# Where K is cut, and where a lane's largest value is scaled to: docs/precision.md.
_FLOAT16_DEPTH, _FLOAT16_EXPONENT = 1024, 15


@dataclass(frozen=True)
class PrecisionError:
    """One row of an `ErrorReport`; errors against the product in float64."""

    precision: str
    max_error: float
    rms_error: float
    snr_db: float
    """10 log10 of the mean square of the product over that of the error; inf without an error."""
    npu_seconds: float | None
    """Predicted, from published figures of other boards; None where the NPU can't."""
    weight_bytes: int


@dataclass(frozen=True)
class ErrorReport:
    """What `error_report` returns.

    Attributes
    ----------
    shape : tuple of int
        (m, k, n) of one product, without the axes of a stack.
    rows : tuple of PrecisionError
        With ``precision``, ``max_error``, ``rms_error``, ``snr_db``, ``npu_seconds`` and
        ``weight_bytes``.
    """

    shape: tuple[int, int, int]
    rows: tuple[PrecisionError, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists and numbers."""
        return {"shape": list(self.shape), "rows": [asdict(row) for row in self.rows]}

    def _summary(self) -> str:
        shape = " × ".join(map(str, self.shape))
        return (
            f"npublas: {shape}; errors against float64, NPU times predicted from published figures"
        )

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                f"{row.max_error:.2e}",
                f"{row.rms_error:.2e}",
                f"{row.snr_db:.1f} dB",
                si(row.npu_seconds, "s") if row.npu_seconds else "-",
                mebibytes(row.weight_bytes),
                row.precision,
            )
            for row in self.rows
        ]

    def __repr__(self) -> str:
        return f"{self._summary()}\n{text_table(_HEAD, self._cells())}"

    def _repr_html_(self) -> str:
        return html_table(self._summary(), _HEAD, self._cells())


def error_report(a: ArrayLike, b: ArrayLike, *, group_size: int | None = 64) -> ErrorReport:
    """Compute a product at every precision, and compare it with float64.

    The rows: float32, float16, and `b` quantised to 8 and 4 bits with a scale per column; plain,
    rotated, in groups along K, and both. Activations are rounded to int8, row by row.

    Integer products run where the settings say and are the same everywhere; float16 is computed
    on the CPU by the formula of ``precision="float16"``, so that the report needs no NPU.

    Parameters
    ----------
    a, b : array_like
        Activations (M, K) and weights (K, N), or stacks of them; real and finite.
    group_size : int, optional
        Of the rows with groups; None leaves those out.

    Returns
    -------
    ErrorReport
        With a table as its ``repr`` and a ``to_dict`` method. The predicted times are those of the
        products on the NPU, 4 bits being multiplied as 8; rounding and rotating the activations on
        the CPU isn't in them.

    Raises
    ------
    ValueError
        If the operands can't be multiplied, or aren't finite.
    TypeError
        If they aren't real numbers.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.standard_normal((16, 256)), rng.standard_normal((256, 64))
    >>> report = npublas.error_report(a, b)
    >>> {row.precision: round(row.snr_db) for row in report.rows[1:4]}
    {'float16': 71, 'int8': 40, 'int8, rotated': 40}
    """
    x, w = np.asarray(a), np.asarray(b)
    for name, operand in (("a", x), ("b", w)):
        if not np.can_cast(np.result_type(operand.dtype, np.float32), np.longdouble):
            raise TypeError(f"{name} must be of real numbers, not {operand.dtype}")
        if operand.ndim < 2:
            raise ValueError(f"{name} must be a matrix or a stack of them")
        with np.errstate(over="ignore", under="ignore"):
            if not np.isfinite(operand.astype(np.float32)).all():
                raise ValueError(f"{name} must be finite in float32")
    if w.ndim == 2 and x.ndim > 2:
        x = x.reshape(-1 if w.shape[0] else int(np.prod(x.shape[:-1])), x.shape[-1])
    exact = np.matmul(x.astype(np.float64), w.astype(np.float64))
    rows = tuple(
        _row(precision, np.asarray(result), exact, seconds, weight_bytes)
        for precision, result, seconds, weight_bytes in _products(
            x.astype(np.float32), w.astype(np.float32), group_size
        )
    )
    return ErrorReport((x.shape[-2], x.shape[-1], w.shape[-1]), rows)


_Product = tuple[str, Any, float | None, int]


def _products(
    x: NDArray[np.float32], w: NDArray[np.float32], group_size: int | None
) -> Iterator[_Product]:
    """Each precision: its name, the product, its predicted time, and the bytes of the weights."""
    yield "float32", matmul(x, w, precision="float32"), _seconds(x, w, "float32"), w.nbytes
    yield "float16", float16_product(x, w), _seconds(x, w, "float16"), w.nbytes // 2
    for bits in (8, 4):
        for size in (None, group_size) if group_size else (None,):
            for rotated in (False, True):
                q = quantize(w, bits=bits, group_size=size, rotate=rotated)
                name = f"int{bits}"
                name += f", groups of {size}" if size else ""
                name += ", rotated" if rotated else ""
                yield name, matmul(x, q), _integer_seconds(x.shape, q.data.shape, size), q.nbytes


def _row(
    precision: str,
    result: NDArray[Any],
    exact: NDArray[np.float64],
    seconds: float | None,
    weight_bytes: int,
) -> PrecisionError:
    error = result.astype(np.float64) - exact
    noise = float(np.mean(error**2)) if error.size else 0.0
    signal = float(np.mean(exact**2)) if exact.size else 0.0
    snr = 10 * float(np.log10(signal / noise)) if noise and signal else float("inf")
    return PrecisionError(
        precision=precision,
        max_error=float(np.abs(error).max(initial=0)),
        rms_error=noise**0.5,
        snr_db=-snr if noise and not signal else snr,
        npu_seconds=seconds,
        weight_bytes=weight_bytes,
    )


def float16_product(x: NDArray[np.float32], w: NDArray[np.float32]) -> NDArray[np.float32]:
    """The product at ``precision="float16"``: lanes scaled by powers of two, and rounded."""
    total = np.zeros((), np.float32)
    for start in range(0, max(x.shape[-1], 1), _FLOAT16_DEPTH):
        depth = slice(start, start + _FLOAT16_DEPTH)
        left, left_exponents = _half(x[..., depth], -1)
        right, right_exponents = _half(w[..., depth, :], -2)
        sums = np.matmul(left, right).astype(np.float64)
        total = total + np.ldexp(sums, left_exponents + right_exponents).astype(np.float32)
    return np.asarray(total)


def _half(x: NDArray[np.float32], axis: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Lanes rounded to float16 at the top of its range, and the exponents that undo the scaling."""
    top = np.frexp(np.abs(x).max(axis=axis, keepdims=True, initial=0))[1] - _FLOAT16_EXPONENT
    with np.errstate(under="ignore"):
        return np.ldexp(x, -top).astype(np.float16).astype(np.float32), top


def _seconds(x: NDArray[Any], w: NDArray[Any], precision: Precision) -> float | None:
    return explain(x, w, precision=precision).npu_seconds or None


def _integer_seconds(
    left: tuple[int, ...], right: tuple[int, ...], group_size: int | None
) -> float | None:
    """The predicted time of the integer products, one for each group."""
    length = right[-2]  # with the padding of a rotation
    size = group_size or max(length, 1)
    depths = [min(size, length - start) for start in range(0, length, size)]
    seconds = {}
    for depth in set(depths):
        a = np.broadcast_to(np.int8(0), (*left[:-1], depth))
        b = np.broadcast_to(np.int8(0), (*right[:-2], depth, right[-1]))
        seconds[depth] = explain(a, b, dtype=np.int32).npu_seconds
    return sum(seconds[depth] for depth in depths) or None

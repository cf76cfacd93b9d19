"""What the CPU does: NumPy's products as they are, and what is to be done to sums.

Overflows and underflows are NumPy's, too, and told as `numpy.errstate` has it, to the line that
asked for the product.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from npublas import _core, _log, _ufuncs
from npublas._matmul import ufunc
from npublas._operands import Array, DType

__all__ = ["Finish", "finish_sums", "multiply", "signal", "told_to_the_caller"]


class Finish(NamedTuple):
    """What is done to the sums."""

    bias: Array | None = None
    activation: str = "none"
    alpha: float = 1.0
    beta: float = 0.0

    @property
    def is_plain(self) -> bool:
        return self.bias is None and self[1:] == ("none", 1.0, 0.0)


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
    signal(overflow, underflow)


def signal(overflow: bool, underflow: bool) -> None:
    """Let NumPy tell of an overflow or underflow as `numpy.errstate` has it."""
    for raised, value in ((overflow, 2.0**9), (underflow, 1.5 * 2.0**-12 + 2.0**-22)):
        if raised:
            culprit = np.full((1, 1), value, np.float16)
            multiply(culprit, culprit)


def multiply(a: Array, b: Array, out: Array | None = None, dtype: DType | None = None) -> Any:
    """NumPy's product, which is not counted."""
    with told_to_the_caller("matmul"):
        return _ufuncs.on_cpu(ufunc, a, b, out=out, dtype=dtype)


@contextlib.contextmanager
def told_to_the_caller(operation: str) -> Iterator[None]:
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

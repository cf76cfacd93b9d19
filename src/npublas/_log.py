"""What the loops of ``npublas.matmul`` tell their caller: fallbacks, and a line per product.

The loops call `fallback` and `product` on the caller's thread, with the interpreter's lock. All of
it goes through ``logging.getLogger("npublas")``; ``NPUBLAS_VERBOSE=1`` adds a handler that writes
the lines about products to stderr.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

from npublas import _core, _ufuncs
from npublas.errors import FallbackError, FallbackWarning

__all__ = ["fallback", "is_verbose", "news", "product", "set_verbose"]

_logger = logging.getLogger("npublas")
_products = logging.getLogger("npublas.products")
_PACKAGE = str(Path(__file__).parent)
_verbose = False


def fallback(reason: str, detail: str, on_fallback: str) -> None:
    """A product was meant for the NPU and can't run there; the loop goes on on the CPU.

    Raises
    ------
    FallbackError
        If `on_fallback` is "error".
    """
    if on_fallback == "allow" and not _logger.isEnabledFor(logging.INFO):
        return
    if detail and _core.engine_status()["simulated"]:
        detail = f"simulated NPU: {detail}"  # it advises what helps with a real one
    because = f"{reason}: {detail}" if detail else reason
    if on_fallback == "error":
        raise FallbackError(
            f"a product for the NPU could not run there ({because}), and on_fallback='error' "
            "forbids the CPU; allow it with on_fallback='allow' or 'warn'"
        )
    if on_fallback == "warn":
        message = f"a product for the NPU ran on the CPU: {because}"
        warnings.warn(message, FallbackWarning, stacklevel=_callers_level())
    _logger.info("a product for the NPU runs on the CPU: %s", because)


def _callers_level() -> int:
    """The line outside of npublas that asked for the product. (A ufunc is no Python frame.)"""
    level, frame = 2, sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level


def product(
    dtype: str, shape: tuple[int, int, int, int], on_npu: bool, reason: str, seconds: float
) -> None:
    """A product was computed; called while verbose."""
    batch, m, k, n = shape
    stack = f"{batch} x " if batch != 1 else ""
    npu = "the NPU (simulated)" if _core.engine_status()["simulated"] else "the NPU"
    where = npu if on_npu else f"the CPU ({reason})"
    _products.info(
        "%s %s(%d, %d) @ (%d, %d): %.3f ms on %s", dtype, stack, m, k, k, n, seconds * 1e3, where
    )


def news() -> None:
    """The engine has corrected what it predicts of products; called after one of them."""
    while text := _core.take_news():
        _logger.info("%s", text)


def set_verbose(verbose: bool) -> None:
    """Write one line per product to stderr, or stop it."""
    global _verbose
    _verbose = verbose
    for handler in _products.handlers[:]:
        _products.removeHandler(handler)
    # A program that configures logging would show each line a second time.
    _products.propagate = not verbose
    if verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("npublas: %(message)s"))
        _products.addHandler(handler)
        _products.setLevel(logging.INFO)
    _ufuncs.set_verbose(verbose)


def is_verbose() -> bool:
    """Tell whether there is a line per product."""
    return _verbose

"""Calibrating: the largest activations that quantised weights meet, for scales that stay fixed.

A product looks for calibrations in a context variable, so that threads and tasks which don't take
part aren't recorded. What is recorded is kept by the calibration, under a lock.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import numpy as np

from npublas._symmetric import Float32s

__all__ = ["Calibration", "calibrate"]


class _Weights(Protocol):
    def with_largest_activation(self, largest: Any) -> Any: ...


W = TypeVar("W", bound=_Weights)

_active: ContextVar[tuple[Calibration, ...]] = ContextVar("npublas_calibrations", default=())


class Calibration:
    """What `calibrate` returns: a context manager, and what it has seen.

    ``calibration[q]`` is a new `QuantizedMatrix` like ``q``, which rounds activations by the scale
    that was found for it; ``q in calibration`` tells whether ``q`` was used, and ``len`` how many
    matrices were. Any number of threads may be inside of the same calibration, each by a ``with``
    of its own, and it may be entered again to see more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._largest: dict[_Weights, Float32s] = {}

    def __enter__(self) -> Calibration:
        _active.set((*_active.get(), self))
        return self

    def __exit__(self, *exception: object) -> None:
        entered = list(_active.get())
        del entered[len(entered) - 1 - entered[::-1].index(self)]
        _active.set(tuple(entered))

    def __contains__(self, weights: object) -> bool:
        with self._lock:
            return weights in self._largest

    def __len__(self) -> int:
        with self._lock:
            return len(self._largest)

    def __getitem__(self, weights: W) -> W:
        with self._lock:
            largest = self._largest.get(weights)
        if largest is None:
            raise KeyError(
                f"{weights!r} was in no product with finite activations while this calibration was "
                "entered"
            )
        calibrated: W = weights.with_largest_activation(largest)
        return calibrated

    def __repr__(self) -> str:
        return f"<npublas.Calibration of {len(self)} quantised matrices>"

    def _add(self, weights: _Weights, largest: Float32s) -> None:
        with self._lock:
            seen = self._largest.get(weights)
            self._largest[weights] = largest if seen is None else np.maximum(seen, largest)


def is_active() -> bool:
    """Tell whether a product here is to be recorded."""
    return bool(_active.get())


def record(weights: _Weights, largest: Float32s) -> None:
    """Tell the calibrations that we are in the largest activation of each group along K."""
    for calibration in _active.get():
        calibration._add(weights, largest)


def calibrate() -> Calibration:
    """Watch products with quantised matrices, to give their activations fixed scales.

    By default every row of activations is rounded by its own largest magnitude, which must be found
    first. A calibration looks at representative activations once; afterwards the scale of a matrix
    is fixed, no product looks for a maximum, and what lies beyond is clamped.

    Returns
    -------
    Calibration
        A context manager. Products inside of it are computed as ever, and recorded: those of this
        thread or task; a thread that was started elsewhere enters the calibration itself.

    See Also
    --------
    QuantizedMatrix.with_largest_activation : to set the scale from a number of your own.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> q = npublas.quantize(np.eye(4))
    >>> with npublas.calibrate() as calibration:
    ...     for batch in (np.full((2, 4), 3.0), np.full((2, 4), 12.7)):
    ...         _ = batch @ q
    >>> fixed = calibration[q]
    >>> fixed.activation_scales
    array([0.1], dtype=float32)
    >>> float((np.full((1, 4), 100.0) @ fixed)[0, 0].round(3))
    12.7
    """
    return Calibration()

"""The few settings of the simulator that npublas itself has to turn, and back.

`npublas.testing.simulator` has all of them, for tests and for programs.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

from npublas import _core


def path() -> str:
    """Return where the simulator is; empty if it isn't there."""
    found = _core.simulator_path()
    return found if Path(found).is_file() else ""


def setting(name: str) -> int:
    """Return the value of a setting."""
    value = ctypes.c_int64()
    status = _library().npublas_simulator_get(name.encode(), ctypes.byref(value))
    assert status == 0, name
    return value.value


@contextlib.contextmanager
def settings(**values: int) -> Iterator[None]:
    """Settings for a ``with`` block; afterwards they are what they were."""
    before = {name: setting(name) for name in values}
    try:
        for name, value in values.items():
            _set(name, value)
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


def _set(name: str, value: int) -> None:
    status = _library().npublas_simulator_set(name.encode(), ctypes.c_int64(value))
    assert status == 0, name


def _library() -> ctypes.CDLL:
    """The instance that this process has, or will have: one file is loaded once."""
    return ctypes.CDLL(_core.simulator_path())

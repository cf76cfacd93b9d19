"""The words that settings are made of, and how those with more than a few values are read."""

from __future__ import annotations

import operator
import os
import re
from fractions import Fraction
from typing import Any, Literal, TypeAlias, cast

from npublas.errors import ConfigurationError

__all__ = [
    "Activation",
    "Device",
    "Float64",
    "MemoryLimit",
    "OnFallback",
    "Precision",
    "Runtime",
    "Threads",
]

Device: TypeAlias = Literal["auto", "npu", "cpu"]
Precision: TypeAlias = Literal["float32", "float16", "int8"]
Activation: TypeAlias = Literal["relu", "gelu", "gelu_tanh", "silu"]
Float64: TypeAlias = Literal["cpu", "float32"]
OnFallback: TypeAlias = Literal["allow", "warn", "error"]

# "auto", "simulator", or the path of a library.
Runtime: TypeAlias = str | os.PathLike[str]
# "auto", a number of bytes, or a text such as "512MiB".
MemoryLimit: TypeAlias = int | str

# "auto", or a number.
Threads: TypeAlias = int | str

MAX_THREADS = 127  # what seven bits of a call's settings have room for
MAX_CORES = 3  # of the RK3588's NPU
# The smallest tiles of the deepest products take 84 KiB; no board has more memory than the latter.
MIN_MEMORY, MAX_MEMORY = 1 << 18, 1 << 40

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"\s*(\d{1,99}(?:\.\d{1,99})?)\s*([a-z]*)\s*", re.ASCII | re.IGNORECASE)


def read_runtime(value: object) -> str:
    """Return a `runtime` in its final form, or raise ConfigurationError."""
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(cast("str | os.PathLike[str]", value))
        if isinstance(path, str) and (
            path in ("auto", "simulator") or os.sep in path or ".so" in path
        ):
            return path
    raise ConfigurationError(
        f"runtime must be 'auto', 'simulator' or the path of a library, not {value!r}"
    )


def read_memory_limit(value: object) -> int | str:
    """Return a `memory_limit` as bytes or ``'auto'``, or raise ConfigurationError."""
    size: int | Fraction | None = _integer(value)
    if isinstance(value, str):
        if value == "auto":
            return value
        match = _SIZE.fullmatch(value)
        if match and match[2].lower() in _UNITS:
            size = Fraction(match[1]) * _UNITS[match[2].lower()]
    if size is None or not MIN_MEMORY <= size <= MAX_MEMORY:
        raise ConfigurationError(
            "memory_limit must be 'auto', or from 256 KiB to 1 TiB as a number of bytes or a text "
            "such as '512MiB' (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), "
            f"not {_shown(value)}"
        )
    return int(size)


def read_cores(value: object) -> int:
    """Return a number of cores, or raise ConfigurationError."""
    cores = _integer(value)
    if cores is None or not 1 <= cores <= MAX_CORES:
        raise ConfigurationError(f"cores must be 1, 2 or 3, not {_shown(value)}")
    return cores


def read_threads(value: object) -> int | str:
    """Return a number of host threads, or ``'auto'``, or raise ConfigurationError."""
    threads = _integer(value)
    if isinstance(value, str) and value == "auto":
        return value
    if threads is None or not 1 <= threads <= MAX_THREADS:
        raise ConfigurationError(
            f"threads must be 'auto' or from 1 to {MAX_THREADS}, not {_shown(value)}"
        )
    return threads


def _integer(value: object) -> int | None:
    """Return what stands for an integer as one, also NumPy's; a truth value doesn't."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(cast(Any, value))
    except TypeError:
        return None


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of thousands of digits
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:40]}... ({len(text)} characters)"

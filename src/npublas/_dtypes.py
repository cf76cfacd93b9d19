"""What dtypes are called. NumPy works the name out anew each time, which takes microseconds."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

__all__ = ["name_of"]


@functools.lru_cache(maxsize=256)
def name_of(dtype: np.dtype[Any]) -> str:
    """``dtype.name``."""
    return str(dtype.name)

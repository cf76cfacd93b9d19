"""``npublas.matmul``: the ufunc of ``_ufuncs``, under the name that it has for users."""

from __future__ import annotations

from typing import Any

# Called `ufunc` in every module but the package itself: NumPy before 2.2 pickles a ufunc under the
# first module that has it by its name, and that is to be npublas.
from npublas._ufuncs import ufunc

__all__ = ["ufunc"]


def _name(matmul: Any) -> None:
    if hasattr(matmul, "__dict__"):  # from NumPy 2.2 on
        matmul.__module__ = "npublas"
        matmul.__qualname__ = "matmul"


_name(ufunc)

"""``npublas.matmul``: the ufunc of ``_ufuncs``, with a name and a signature of its own."""

from __future__ import annotations

import inspect
from typing import Any

# Called `ufunc` in every module but the package itself: NumPy before 2.2 pickles a ufunc under the
# first module that has it by its name, and that is to be npublas.
from npublas._ufuncs import ufunc

__all__ = ["ufunc"]


def _describe(matmul: Any) -> None:
    """Say in introspection what was added to NumPy's ufunc. NumPy has room for it from 2.2 on."""
    if not hasattr(matmul, "__dict__"):
        return
    matmul.__module__ = "npublas"
    matmul.__qualname__ = "matmul"
    try:
        numpys = inspect.signature(matmul)
    except ValueError:  # NumPy before 2.4 tells inspect nothing
        return
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in ("precision", "device")
    ]
    matmul.__signature__ = numpys.replace(parameters=[*numpys.parameters.values(), *added])


_describe(ufunc)

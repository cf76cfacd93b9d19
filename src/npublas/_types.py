"""The words that settings are made of."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

__all__ = ["Device", "Float64", "MemoryLimit", "OnFallback", "Precision", "Runtime"]

Device: TypeAlias = Literal["auto", "npu", "cpu"]
Precision: TypeAlias = Literal["float32", "float16", "int8"]
Float64: TypeAlias = Literal["cpu", "float32"]
OnFallback: TypeAlias = Literal["allow", "warn", "error"]

# "auto", "simulator", or the path of a library.
Runtime: TypeAlias = "str | os.PathLike[str]"
# "auto", a number of bytes, or a text such as "512MiB".
MemoryLimit: TypeAlias = "int | str"

"""The roof: how fast a product can be at best on an RK3588, whoever computes it there.

The larger of two times: the operations at the published peak of the cores at 1 GHz (2048, 1024 and
512 multiply-accumulates per cycle and core of int4, int8 and float16), and the bytes of the packed
operands and of the result, each once, at what CPU and NPU together were measured to draw from the
memory of a board (LPDDR4X-4224). Nothing of it was measured by npublas.
"""

from __future__ import annotations

FLOPS_PER_CORE = {"int4": 4.096e12, "int8": 2.048e12, "float16": 1.024e12}
MEMORY_BYTES_PER_SECOND = 29e9
CORES = 3

_BYTES = {"int4": (0.5, 0.5, 2.0), "int8": (1.0, 1.0, 4.0), "float16": (2.0, 2.0, 4.0)}


def compulsory_bytes(element: str, shape: tuple[int, int, int, int]) -> float:
    """The bytes of A and B as the NPU takes them, and of C as it gives it."""
    batch, m, k, n = shape
    a, b, c = _BYTES[element]
    return batch * (a * m * k + b * k * n + c * m * n)


def seconds(
    element: str, shape: tuple[int, int, int, int], flops: float, cores: int = CORES
) -> float:
    """The least time for a product of `shape` that takes `flops` operations of `element`.

    >>> round(1e6 * seconds("int8", (1, 1024, 1024, 1024), 2.0 * 1024**3), 1)
    349.5
    """
    compute = flops / (FLOPS_PER_CORE[element] * cores)
    return max(compute, compulsory_bytes(element, shape) / MEMORY_BYTES_PER_SECOND)

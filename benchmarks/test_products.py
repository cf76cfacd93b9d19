"""Products as programs have them, by type and precision, with B fresh and packed.

Each is computed and checked once. What is timed then is the whole call, by the same plan: on the
simulator, on the clock of its model of the chip, without computing; NumPy's float32 product stands
in the same group. Packing and unpacking are this machine's work, and NumPy's time is this
machine's.

What to conclude: on a board, everything. On the simulator, whether the host keeps up with the
model: the share of the roof, how much packed weights save, and what a call costs where the NPU has
little to do. Not that the NPU is so many times as fast as the CPU: they are not those of one board.
"""

from __future__ import annotations

from typing import Any

import pytest

from npublas.cli._bench_cases import Case

KINDS = {
    "float32": ("float32", "float32"),
    "float32 as float16": ("float32", "float16"),
    "float32 as int8": ("float32", "int8"),
    "float16": ("float16", "float32"),
    "int8": ("int8", "float32"),
}

# By group: those that every run has, and those of a slow run.
SHAPES: dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "square": (
        [(64, 64, 64), (256, 256, 256), (1024, 1024, 1024)],
        [(n, n, n) for n in (128, 512, 2048, 4096)],
    ),
    "decode": (
        [(1, 4096, 4096)],
        [(4, 4096, 4096), (16, 4096, 4096), *((m, 4096, 11008) for m in (1, 4, 16))],
    ),
    "prefill": (
        [],
        [(m, 4096, n) for m in (128, 512) for n in (4096, 11008)],
    ),
    "Whisper-tiny": ([(1500, 384, 384), (1500, 384, 1536), (1500, 1536, 384)], []),
    "odd": ([(7, 33, 65), (301, 1023, 517)], [(2047, 4097, 1025)]),
    "stacked": ([(6, 200, 64, 200)], [(6, 1500, 64, 1500), (32, 128, 128, 128)]),
    "vector search": ([(1, 384, 100_000)], [(m, 384, 100_000) for m in (2, 4, 8, 16)]),
}


def shapes() -> list[Any]:
    found = []
    for group, (fast, slow) in SHAPES.items():
        for shape in (*fast, *slow):
            whole = shape if len(shape) == 4 else (1, *shape)
            marks = [pytest.mark.slow] if shape in slow else []
            name = f"{group} {'x'.join(map(str, shape))}"
            found.append(pytest.param(group, whole, id=name, marks=marks))
    return found


@pytest.mark.parametrize("b", ["fresh", "packed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("group", "shape"), shapes())
def test_npu(benchmark, on_npu, group, shape, kind, b):
    case = Case(shape, *KINDS[kind], packed=b == "packed")
    benchmark.group = f"{group}, {case.size}"
    on_npu(case)


@pytest.mark.parametrize(("group", "shape"), shapes())
def test_numpy_float32(benchmark, on_cpu, group, shape):
    benchmark.group = f"{group}, {Case(shape, 'float32', 'float32', False).size}"
    on_cpu(shape)

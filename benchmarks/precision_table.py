"""Prints the tables of docs/precision.md: errors of `precision="float32"` next to NumPy's float32.

    python benchmarks/precision_table.py            products forced onto the NPU, on the simulator
    python benchmarks/precision_table.py --model    the same from the algorithm in NumPy

What to conclude: an error is in units of 2⁻²⁴ of |A||B|, against the product in double; the worst
of some seeds, of 32×32 results. The first number of a cell is the NPU's, the second NumPy's own
(whose float32 BLAS is that of this machine). "refused" is what runs on the CPU instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import npublas

sys.path.append(str(Path(__file__).parent.parent / "tests"))

import split_model
from families import ALL, errors

DEPTHS = (1, 7, 32, 256, 1024, 4096, 20_000)
SIDE = 32

# A product, or why it is refused.
Multiply = Callable[[np.ndarray, np.ndarray], "np.ndarray | str"]


def on_the_model(a: np.ndarray, b: np.ndarray) -> np.ndarray | str:
    product = split_model.multiply(a, b)
    return product.refused or product.values


def on_the_simulator(a: np.ndarray, b: np.ndarray) -> np.ndarray | str:
    try:
        with npublas.config_context(on_fallback="error"):
            return npublas.matmul(a, b, device="npu", precision="float32")
    except npublas.FallbackError as error:
        return str(error)


def worst(multiply: Multiply, family: str, k: int, seeds: int, refusals: set[str]) -> list[str]:
    """The cells of a family and a depth: by element, and of the whole matrix."""
    found = []
    for seed in range(seeds):
        a, b = ALL[family](np.random.default_rng([seed, k]), SIDE, k, SIDE)
        result = multiply(a, b)
        if isinstance(result, str):
            refusals.add(result)
        else:
            found.append([errors(result, a, b), errors(np.matmul(a, b), a, b)])
    if not found:
        return ["refused"] * 2
    ours, numpys = np.max(found, axis=0)
    note = "" if len(found) == seeds else f" ({seeds - len(found)} of {seeds} refused)"
    return [f"{x:.2g} / {y:.2g}{note}" for x, y in zip(ours, numpys, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="store_true", help="the algorithm in NumPy")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    npublas.set_config(runtime="simulator")
    multiply = on_the_model if options.model else on_the_simulator

    refusals: set[str] = set()
    cells = {
        family: [worst(multiply, family, k, options.seeds, refusals) for k in DEPTHS]
        for family in ALL
    }
    for title, which in (("By element", 0), ("Of the whole matrix", 1)):
        print(f"| {title} | " + " | ".join(f"K = {k}" for k in DEPTHS) + " |")
        print("|---" * (len(DEPTHS) + 1) + "|")
        for family, row in cells.items():
            print(f"| {family} | " + " | ".join(cell[which] for cell in row) + " |")
        print()
    for reason in sorted(refusals):
        print(f"Refused: {reason}")


if __name__ == "__main__":
    main()

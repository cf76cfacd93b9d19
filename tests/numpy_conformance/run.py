"""NumPy's own tests of its matrix product, with npublas.matmul in the place of numpy.matmul.

    python run.py cpu        the CPU path
    python run.py npu        device="npu" on the simulator, as accurate as NumPy
    python run.py float16    the same with precision="float16"

Every reference to ``numpy.matmul`` that NumPy's modules hold is replaced before its tests are
collected; so is ``@`` between plain arrays, as far as NumPy lets it be. The process ends with
status 1 if a test fails that is not in `EXCEPTIONS`, if one that is there passes, or if, but
with "cpu", less than 50 products of each type ran on the NPU.

The tests are part of NumPy's wheels and need pytest and hypothesis. It takes half a minute.
"""

from __future__ import annotations

import importlib
import operator
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npublas

NUMPY = tuple(int(part) for part in re.findall(r"\d+", np.__version__)[:2])
CORE = "numpy._core.tests" if NUMPY >= (2, 0) else "numpy.core.tests"
WHERE = [
    f"{CORE}.test_multiarray",
    f"{CORE}.test_ufunc",
    f"{CORE}.test_einsum",
    "numpy.linalg.tests",
    "numpy.matrixlib.tests",
    "numpy.lib.tests.test_mixins",
]
# Of test_multiarray, what has to do with matmul; of the others, all but what takes seconds and
# never multiplies matrices.
WHICH = (
    "(not test_multiarray or matmul or MatMul or matvec) and not openblas_threading "
    "and not sdot_bug and not TestCond and not TestDet and not TestEigvals and not Norm"
)
OPTIONS = [
    "-q",
    "--tb=short",
    "--no-header",
    "--no-summary",
    "-p",
    "no:cacheprovider",
    "-c",
    "/dev/null",
    "-W",
    "ignore",
    # NumPy's conftest.py, but not this project's, which stands above a .venv in its folder.
    f"--confcutdir={Path(np.__file__).parent}",
]
MIN_TESTS = 900
MIN_PRODUCTS = 50


@dataclass(frozen=True)
class Deviation:
    """Tests that fail with npublas.matmul, and why that is right."""

    tests: str
    """A regular expression for the whole name after the file's folder."""
    reason: str
    mode: str = "float16"
    since: tuple[int, int] = (1, 26)
    before: tuple[int, int] = (3, 0)

    def matches(self, nodeid: str) -> bool:
        return re.search(rf"(^|/){self.tests}$", nodeid) is not None


_PRECISION = (
    "the test multiplies float32 factors and compares the product with the matrix to {}; one "
    'float16 product, which precision="float16" asks for, is within 2^-10 of abs(a) @ abs(b)'
)
EXCEPTIONS = [
    Deviation(
        r"test_(matrix_)?linalg\.py::TestQR(Matrix)?::test_stacked_inputs\[float32-.*-size[012]\]",
        _PRECISION.format("6 decimals"),
    ),
    Deviation(
        r"test_linalg\.py::TestCholesky::test_basic_property\[.*float32-.*\]",
        _PRECISION.format("500 n 2^-23, relatively"),
    ),
    Deviation(
        r"test_linalg\.py::TestPinv::test_(generalized_)?(non)?sq_cases",
        _PRECISION.format("5 decimals"),
    ),
    Deviation(
        r"test_linalg\.py::TestPinvHermitian::test_generalized_herm_cases",
        _PRECISION.format("5 decimals"),
    ),
    Deviation(
        r"test_linalg\.py::TestPinvHermitian::test_herm_cases",
        _PRECISION.format("5 decimals"),
        before=(2, 0),
    ),
    Deviation(
        r"test_linalg\.py::TestSVDHermitian::test_(generalized_)?herm_cases",
        _PRECISION.format("1e-5, relatively"),
    ),
    # Before NumPy 2 these multiplied with dot.
    Deviation(
        r"test_linalg\.py::TestSVD::test_(generalized_)?sq_cases",
        _PRECISION.format("1e-5, relatively"),
        since=(2, 0),
    ),
    Deviation(
        r"test_linalg\.py::TestEighCases::test_(generalized_)?herm_cases",
        _PRECISION.format("1e-5, relatively"),
        since=(2, 0),
    ),
    Deviation(
        r"test_linalg\.py::Test(Solve|Inv)::test_generalized_sq_cases",
        _PRECISION.format("6 decimals"),
        since=(2, 0),
    ),
    # From NumPy 2.5 on all eigenvectors are complex, and so on the CPU.
    Deviation(
        r"test_linalg\.py::TestEig::test_(generalized_)?sq_cases",
        _PRECISION.format("1e-5, relatively"),
        since=(2, 0),
        before=(2, 5),
    ),
]


class Judge:
    """A pytest plugin that compares what fails with what may."""

    def __init__(self, mode: str) -> None:
        self.listed = [e for e in EXCEPTIONS if e.mode == mode and e.since <= NUMPY < e.before]
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed[report.nodeid] = report.longreprtext
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    def exception_for(self, nodeid: str) -> Deviation | None:
        return next((e for e in self.listed if e.matches(nodeid)), None)

    def problems(self) -> list[str]:
        problems = [
            f"{nodeid} failed:\n{text}"
            for nodeid, text in self.failed.items()
            if not self.exception_for(nodeid)
        ]
        problems += [
            f"{nodeid} passes now: take it from the exceptions"
            for nodeid in self.passed
            if self.exception_for(nodeid)
        ]
        problems += [
            f"no test is called {e.tests}: take it from the exceptions"
            for e in self.listed
            if not any(map(e.matches, [*self.failed, *self.passed]))
        ]
        if len(self.passed) < MIN_TESTS:
            problems.append(f"only {len(self.passed)} tests ran, expected at least {MIN_TESTS}")
        return problems


def replace_matmul() -> None:
    """Put npublas.matmul wherever NumPy's modules refer to numpy.matmul."""
    original = np.matmul
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "numpy":
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, npublas.matmul)
    importlib.reload(np.lib.mixins)  # binds the ufunc when its class is made
    operator.matmul = BetweenArrays(operator.matmul)
    if hasattr(np, "set_numeric_ops"):  # before NumPy 2, `@` itself can be replaced
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            np.set_numeric_ops(matmul=npublas.matmul)


class BetweenArrays:
    """``@`` as a function: npublas.matmul between plain arrays, which never defer to each other.

    Not a function, because NumPy's tests make it a class attribute, and a method would get `self`.
    """

    def __init__(self, original: Callable[[Any, Any], Any]) -> None:
        self.original = original

    def __call__(self, a: Any, b: Any, /) -> Any:
        if type(a) is np.ndarray and type(b) is np.ndarray and a.ndim and b.ndim:
            return npublas.matmul(a, b)
        return self.original(a, b)


def products_on_npu() -> dict[str, int]:
    products = dict.fromkeys(("int8", "uint8", "float16", "float32"), 0)
    for row in npublas.counters().reasons:
        if row.on_npu and row.dtype in products:
            products[row.dtype] += row.products
    return products


def main(mode: str) -> int:
    if mode in ("npu", "float16"):
        precision = "float32" if mode == "npu" else "float16"
        npublas.set_config(runtime="simulator", device="npu", precision=precision)
    elif mode != "cpu":
        print(__doc__, file=sys.stderr)
        return 2
    replace_matmul()
    judge = Judge(mode)
    npublas.reset_counters()
    pytest.main(
        [*OPTIONS, "-k", WHICH, "--pyargs", *WHERE],
        plugins=[judge],
    )
    problems = judge.problems()
    print(f"NumPy {np.__version__}, {mode}: {len(judge.passed)} tests passed")
    for deviation in judge.listed:
        count = sum(map(deviation.matches, judge.failed))
        print(f"{count} deviate as expected: {deviation.tests}: {deviation.reason}")
    if mode != "cpu":
        products = products_on_npu()
        print(f"products on the NPU: {products}")
        problems += [
            f"only {count} products of {dtype} ran on the NPU"
            for dtype, count in products.items()
            if count < MIN_PRODUCTS
        ]
    print(*problems, sep="\n\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) == 2 else ""))

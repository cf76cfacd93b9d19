"""What the benchmarks share: which of them run, and how a product is checked and then timed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import npublas
from npublas import _roof
from npublas.cli import _bench_cases
from npublas.cli._bench_cases import Case


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="benchmarks of large products as well")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes long (run with --slow or NPUBLAS_TEST_SLOW=1)")
    config.addinivalue_line("markers", "timed: only its time differs from that of others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--slow``, what takes long is not part of the run: nothing is skipped.

    Nor is with ``--benchmark-disable`` what there is for its time alone.
    """
    if _takes_long(config):
        return
    marks = ["slow", "timed"] if config.getoption("benchmark_disable") else ["slow"]
    left = [item for item in items if any(item.get_closest_marker(mark) for mark in marks)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def _takes_long(config: pytest.Config) -> bool:
    return bool(config.getoption("--slow")) or os.environ.get("NPUBLAS_TEST_SLOW") == "1"


@pytest.fixture
def slow(pytestconfig: pytest.Config) -> bool:
    """Whether the run may take long."""
    return _takes_long(pytestconfig)


@pytest.fixture(scope="session")
def brief(pytestconfig: pytest.Config) -> bool:
    """Whether answers are checked and nothing is timed: matrices may be small."""
    return bool(pytestconfig.getoption("benchmark_disable")) and not _takes_long(pytestconfig)


@functools.lru_cache(maxsize=2)
def operands(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The same for all that is asked of a shape and a type."""
    a, b = _bench_cases.operands(case)
    a.flags.writeable = b.flags.writeable = False
    return a, b.copy()  # of a read-only B the cache of weights may know the packed form


@pytest.fixture
def on_npu(benchmark: Any, device: str) -> Callable[[Case], None]:
    """Times a product on the NPU: once computed and checked, then, by the same plan, timed.

    On the simulator the timed ones run on its clock and compute nothing.
    """

    def run(case: Case) -> None:
        a, b = operands(case._replace(packed=False, precision="float32"))
        with npublas.config_context(device="npu", precision=case.precision, on_fallback="error"):
            right: Any = npublas.pack(b, precision=case.precision) if case.packed else b
            plan = npublas.explain(a, right, **case.options).plan
            answer = npublas.matmul(a, right, **case.options)
            error = _bench_cases.error_of(a, b, answer)
            assert _bench_cases.is_right(case, error), f"off by {error} of |A||B|"
            npublas.reset_counters()
            with _bench_cases.without_computing():
                assert npublas.explain(a, right, **case.options).plan == plan
                benchmark.pedantic(
                    npublas.matmul, (a, right), case.options, rounds=20, warmup_rounds=2
                )
            assert npublas.counters().cpu.products == 0
        _note(benchmark, case, 2.0 * np.prod(case.shape))
        if not benchmark.disabled:
            batch, m, k, n = case.shape
            least = _roof.seconds(plan.element, case.shape, 2.0 * batch * m * k * n)
            benchmark.extra_info["share of the roof"] = round(
                least / benchmark.stats.stats.median, 3
            )
            benchmark.extra_info["NPU"] = "simulated" if device == "simulator" else "board"

    return run


@pytest.fixture
def on_cpu(benchmark: Any) -> Callable[[tuple[int, int, int, int]], None]:
    """Times NumPy's float32 product of a shape."""

    def run(shape: tuple[int, int, int, int]) -> None:
        case = Case(shape, "float32", "float32", False)
        a, b = operands(case)
        answer = benchmark.pedantic(np.matmul, (a, b), rounds=20, warmup_rounds=2)
        assert _bench_cases.is_right(case, _bench_cases.error_of(a, b, answer))
        _note(benchmark, case, 2.0 * np.prod(shape))

    return run


def _note(benchmark: Any, case: Case, flops: float) -> None:
    if not benchmark.disabled:
        benchmark.extra_info["GFLOP/s"] = round(1e-9 * flops / benchmark.stats.stats.median, 2)

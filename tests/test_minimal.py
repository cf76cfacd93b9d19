"""The least that must work wherever the package is installed, in seconds: on every Python, with the
oldest NumPy, and on emulated aarch64.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import npublas

RNG = np.random.default_rng(2)
# One element, odd everything, both sides of the steps, a vector, several tiles along K and N.
SHAPES = [(1, 1, 1), (3, 5, 7), (4, 32, 16), (5, 33, 17), (1, 700, 65), (33, 2049, 130)]


@pytest.fixture(autouse=True)
def _simulator() -> None:
    npublas.set_config(runtime="simulator")


def on_npu(a: np.ndarray, b: np.ndarray, **options: object) -> np.ndarray:
    """The product, which must have run on the device."""
    before = npublas.counters().npu.products
    with npublas.config_context(device="npu", on_fallback="error"):
        product = npublas.matmul(a, b, **options)
    assert npublas.counters().npu.products == before + 1
    return product


def integers(shape: tuple[int, ...], dtype: type[np.integer]) -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_integer_products_are_numpys(m: int, k: int, n: int, dtype: type[np.integer]) -> None:
    a, b = integers((m, k), dtype), integers((k, n), dtype)
    np.testing.assert_array_equal(on_npu(a, b), np.matmul(a, b), strict=True)


@pytest.mark.skipif(np.__version__ < "2", reason="NumPy 1.26 has no loop for it")
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_int8_sums_are_exact_in_int32(m: int, k: int, n: int) -> None:
    a, b = np.full((m, k), -128, np.int8), integers((k, n), np.int8)
    expected = np.matmul(a.astype(np.int32), b.astype(np.int32))
    np.testing.assert_array_equal(on_npu(a, b, dtype=np.int32), expected, strict=True)


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
@pytest.mark.parametrize(
    ("dtype", "options"), [(np.float16, {}), (np.float32, {"precision": "float16"})]
)
def test_float_products_are_close(
    m: int, k: int, n: int, dtype: type[np.floating], options: dict[str, str]
) -> None:
    a, b = (RNG.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n)))
    exact = np.matmul(a.astype(np.float64), b.astype(np.float64))
    # Each operand and the result rounded to float16, and K sums in float32.
    bound = (3 * 2.0**-11 + k * 2.0**-24) * np.matmul(abs(a), abs(b), dtype=np.float64)
    product = on_npu(a, b, **options)
    assert product.dtype == dtype
    assert (abs(product - exact) <= bound + 2.0**-24).all()


def test_views_stacks_and_vectors_are_as_numpys() -> None:
    a, b = integers((2, 6, 40), np.int8), integers((40, 9), np.int8)
    for x, y in [
        (a[:, ::-2, ::2], b[:20]),
        (a[1].T[:6].T, b[::-1][:6]),
        (a[0, 0], b),
        (b.T, b.T[0]),
    ]:
        np.testing.assert_array_equal(npublas.matmul(x, y, device="npu"), np.matmul(x, y))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "complex64", "object", "bool"])
def test_what_the_npu_has_not_is_numpys_own(dtype: str) -> None:
    a = integers((5, 7), np.int8).astype(dtype)
    np.testing.assert_array_equal(npublas.matmul(a, a.T), np.matmul(a, a.T), strict=True)


def test_reports_can_be_made() -> None:
    a = np.ones((64, 64), np.float16)
    assert npublas.explain(a, a, device="npu").on_npu
    on_npu(a, a)
    assert npublas.counters().simulated
    reports = npublas.counters(), npublas.memory_info(), npublas.explain(a, a, device="npu")
    for report in reports:
        assert "simulated" in repr(report)
        assert report.to_dict()
    assert npublas.__version__ in str(npublas.info())


def test_importing_opens_prints_and_patches_nothing() -> None:
    program = """
import operator, os, numpy

def state():
    opened = [len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task")]
    return numpy.matmul, operator.matmul, numpy.ndarray.__matmul__, opened

before = state()
import npublas
assert state() == before
maps = open("/proc/self/maps").read()
assert "libnpublas.so" in maps and "rknn" not in maps and "simulator" not in maps
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

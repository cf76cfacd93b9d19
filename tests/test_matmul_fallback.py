"""What a call of matmul says when a product could not run on the NPU, and while it is verbose.

Which faults there are and that the numbers stay right is the matter of test_faults.py.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import npublas
from npublas import _cache, _core, _engine, _log, _ufuncs
from npublas.testing import simulator

A = np.eye(4, dtype=np.int32)
STACK, OTHERS = np.ones((3, 1, 4, 4), np.int32)[::-1], np.ones((1, 5, 4, 4), np.int32)[:, ::2]


@pytest.fixture(autouse=True)
def _simulator():
    npublas.set_config(runtime="simulator", device="npu")


def test_a_stack_of_several_loops_warns_once():
    # int32 on device="npu" is demanded of the NPU, which has no such type.
    with npublas.config_context(on_fallback="warn"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = npublas.matmul(STACK, OTHERS)
    np.testing.assert_array_equal(result, np.matmul(STACK, OTHERS))
    assert len(caught) == 1
    assert npublas.counters().fallbacks == 9


def test_the_warning_points_at_the_line_of_the_call():
    with npublas.config_context(on_fallback="warn"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = sys._getframe().f_lineno + 1
        npublas.matmul(A, A)
    (warning,) = caught
    assert (warning.filename, warning.lineno) == (__file__, line)
    assert warning.category is npublas.FallbackWarning
    assert "ran on the CPU: operands are int32" in str(warning.message)


def test_a_warning_that_is_an_error_ends_the_call():
    with npublas.config_context(on_fallback="warn"), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(npublas.FallbackWarning):
            npublas.matmul(STACK, OTHERS)
    assert npublas.counters().cpu.products == 0


def test_an_error_names_the_reason_and_how_to_allow_the_cpu():
    out = np.full((3, 3, 4, 4), -1, np.int32)
    with (
        npublas.config_context(on_fallback="error"),
        pytest.raises(npublas.FallbackError, match=r"operands are int32.*on_fallback='allow'"),
    ):
        npublas.matmul(STACK, OTHERS, out=out)
    assert (out == -1).all(), "nothing was multiplied"
    np.testing.assert_array_equal(npublas.matmul(A, A), A)  # and the next call works


def test_a_fallback_is_logged_for_those_who_listen(caplog):
    caplog.set_level(logging.INFO, "npublas")
    npublas.matmul(A, A)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("npublas", "INFO")
    assert "operands are int32" in record.getMessage()


def test_what_the_npu_would_lose_falls_back_with_its_reason():
    nan = np.full((40, 40), np.nan, np.float32)
    # Row by row, what is large meets what is too small beside it to be packed in two halves.
    far = np.ones((64, 64), np.float32)
    far[:, ::2] = 2.0**-60
    a, b = far, np.ascontiguousarray(far[:, ::-1].T)
    for x, y, reason in ((nan, nan, "contain NaN or infinity"), (a, b, "lie so far apart")):
        with (
            npublas.config_context(on_fallback="error"),
            pytest.raises(npublas.FallbackError, match=reason),
        ):
            npublas.matmul(x, y)
        np.testing.assert_array_equal(npublas.matmul(x, y), np.matmul(x, y))


def test_no_npu_is_an_error_under_device_npu_whatever_fallbacks_may_do(tmp_path):
    npublas.set_config(runtime=tmp_path / "librknnrt.so")
    a = np.ones((3, 1, 4, 4), np.int8)
    with pytest.raises(npublas.NpuUnavailableError, match=r"librknnrt\.so"):
        npublas.matmul(a, OTHERS.astype(np.int8))
    assert npublas.counters().cpu.products == 0
    with npublas.config_context(device="auto", on_fallback="error"):
        big = np.ones((600, 600), np.int8)
        np.testing.assert_array_equal(npublas.matmul(big, big), np.full((600, 600), 88, np.int8))
    assert npublas.counters().fallbacks == 0


# What the package sets, but for the one that opens.
HOOKS = {
    "fallback": _log.fallback,
    "product": _log.product,
    "cached": _cache.multiply,
    "news": _log.news,
}


@pytest.fixture
def _hooks():
    yield
    _ufuncs.set_hooks(open_engine=_engine.open_engine, **HOOKS)


@pytest.mark.usefixtures("_hooks")
@pytest.mark.parametrize("results", [16, 900])  # NumPy holds the lock, or has let it go
def test_what_python_raises_while_the_engine_opens_is_raised_once(results):
    calls = []

    def interrupted():
        calls.append(1)
        raise KeyboardInterrupt

    _ufuncs.set_hooks(open_engine=interrupted)
    side = int(results**0.5)
    a = np.ones((3, 1, side, side), np.int8)[::-1]
    with pytest.raises(KeyboardInterrupt):
        npublas.matmul(a, np.ones((1, 5, side, side), np.int8)[:, ::2])
    assert len(calls) == 1


# --- Floating-point flags -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
def test_packing_and_unpacking_leave_no_flags(dtype):
    rng = np.random.default_rng(0)
    a = rng.integers(1, 9, (70, 90)).astype(dtype)
    a = a if dtype == np.int8 else a * dtype(0.0171)  # inexact, but no sum is below the normals
    with np.errstate(all="raise"):
        np.matmul(a, a.T)
        npublas.matmul(a, a.T, precision="float16")
    assert npublas.counters().npu.products == 1


@pytest.mark.parametrize(
    ("value", "conditions"),
    [(2.0**-9, []), (1.5 * 2.0**-12 + 2.0**-22, ["underflow"]), (300, ["overflow"]), (1.001, [])],
)
def test_float16_results_of_the_npu_end_with_numpys_flags(value, conditions):
    a = np.diag(np.full(16, value, np.float16))
    heard = []
    with np.errstate(all="call", call=lambda condition, _: heard.append(condition)):
        result = npublas.matmul(a, a)
        expected = np.matmul(a, a)
    np.testing.assert_array_equal(result, expected)
    assert heard == 2 * conditions
    assert npublas.counters().npu.products == 1


def test_the_flags_of_earlier_products_of_a_stack_are_kept():
    a = np.ones((2, 1, 8, 8), np.float16)[::-1]
    b = np.ones((1, 6, 8, 8), np.float16)[:, ::2]
    b[:, 0] = 60_000
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="overflow"):
        npublas.matmul(a, b)
    b[:, 0], b[:, 2] = 1, 60_000
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="overflow"):
        npublas.matmul(a, b)
    assert npublas.counters().npu.products == 12


def test_python_that_is_told_of_a_fallback_leaves_the_flags_alone():
    def meddle(*_):
        with np.errstate(all="ignore"):
            np.float32(1e38) * np.float32(1e38)

    a, b = np.ones((2, 1, 4, 4), np.int32)[::-1], np.ones((1, 3, 4, 4), np.int32)
    logging.getLogger("npublas").setLevel(logging.INFO)
    logging.getLogger("npublas").addFilter(lambda record: meddle() or True)
    try:
        with np.errstate(all="raise"):
            npublas.matmul(a, b)
    finally:
        del logging.getLogger("npublas").filters[-1]


# --- A line per product ---------------------------------------------------------------------------


def test_verbose_writes_one_line_per_product_to_stderr():
    program = """
import numpy as np, npublas
a = np.ones((3, 4, 5), np.int8)
npublas.matmul(a, a[0].T, device="npu")
npublas.matmul(a[0], a[0].T)
npublas.matmul(a[0].astype("f8"), a[0].T, device="npu")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NPUBLAS_VERBOSE": "1", "NPUBLAS_RUNTIME": "simulator"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    first, second, third = done.stderr.splitlines()
    assert first.startswith("npublas: int8 3 x (4, 5) @ (5, 4): ")
    assert first.endswith(" ms on the NPU (simulated)")
    assert second.startswith("npublas: int8 (4, 5) @ (5, 4): ")
    assert second.endswith(" ms on the CPU (predicted to be faster on the CPU)")
    assert "operands are float64" in third


def test_verbose_lines_are_not_repeated_by_a_program_that_configures_logging():
    program = """
import logging, numpy as np, npublas
logging.basicConfig(level=logging.INFO)
npublas.matmul(np.eye(4, dtype="i1"), np.eye(4, dtype="i1"), device="cpu")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NPUBLAS_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("npublas: int8 (4, 4) @ (4, 4): ")


def test_what_a_simulated_npu_did_is_called_simulated(caplog):
    caplog.set_level(logging.INFO, "npublas")
    npublas.set_config(runtime="simulator")
    a = np.eye(64, dtype=np.int8)
    _engine.open_engine()
    with simulator.fault("submit_failure", count=0):
        npublas.matmul(a, a, device="npu")
    (record,) = caplog.records
    assert ": simulated NPU: " in record.getMessage()
    assert "dmesg" in record.getMessage()
    _engine.close_engine()


def test_lines_can_be_turned_on_and_off(capsys):
    _log.set_verbose(True)
    try:
        npublas.matmul(A, A, device="cpu")
    finally:
        _log.set_verbose(False)
    npublas.matmul(A, A, device="cpu")
    assert capsys.readouterr().err.count("npublas: int32 (4, 4) @ (4, 4)") == 1


# --- An engine that another thread closes, to change a setting of the process ---------------------


@pytest.fixture
def closed_again(monkeypatch):
    """The engine is closed again right after it was opened, so many times."""
    left = 0

    def set_times(times):
        nonlocal left
        _engine.close_engine()
        left = times

    real = _engine.open_engine

    def open_engine():
        nonlocal left
        opened = real()
        if left:
            left -= 1
            _core.close_engine()
        return opened

    monkeypatch.setattr(_engine, "open_engine", open_engine)
    _ufuncs.set_hooks(open_engine=open_engine, **HOOKS)
    yield set_times
    _ufuncs.set_hooks(open_engine=real, **HOOKS)


@pytest.mark.parametrize("function", [npublas.matmul, npublas.linear])
def test_an_engine_that_is_closed_again_is_opened_again(function, closed_again):
    npublas.set_config(runtime="simulator", device="npu", on_fallback="error")
    a = np.eye(4, dtype=np.float32)
    for times in (1, 2, 7):
        closed_again(times)
        np.testing.assert_array_equal(function(a, a), a)
        assert _core.engine_state() == "open"
    assert npublas.counters().npu.products == 3


@pytest.mark.parametrize("function", [npublas.matmul, npublas.linear])
def test_an_engine_that_is_always_closed_again_is_busy(function, closed_again):
    npublas.set_config(runtime="simulator", device="npu", on_fallback="error")
    a = np.eye(4, dtype=np.float32)
    closed_again(1000)
    with pytest.raises(npublas.FallbackError, match="held the NPU for too long"):
        function(a, a)
    closed_again(0)
    np.testing.assert_array_equal(function(a, a), a)


@pytest.mark.parametrize("times", [1, 7, 1000])
def test_an_engine_that_is_closed_before_the_product_begins_is_opened_again(times, monkeypatch):
    npublas.set_config(runtime="simulator", device="npu", on_fallback="error")
    a, left, multiply = np.eye(4, dtype=np.float32), times, _core.multiply

    def close_and_multiply(*args, **options):
        nonlocal left
        if left:
            left -= 1
            _core.close_engine()
        return multiply(*args, **options)

    monkeypatch.setattr(_core, "multiply", close_and_multiply)
    if times < 8:
        np.testing.assert_array_equal(npublas.linear(a, a), a)
        return
    with pytest.raises(npublas.FallbackError, match="changed its settings all the while"):
        npublas.linear(a, a)

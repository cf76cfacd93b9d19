"""Whatever fails on the NPU, at whichever call: right numbers, and nothing lost."""

from __future__ import annotations

import numpy as np
import pytest

import npublas
from npublas import _core, _engine
from npublas.testing import simulator

# Faults of a run and of everything around it. A refused mask is no failure, so nothing falls back.
FAULTS = sorted(set(simulator.names("fault")) - {"hang"})
RESOURCES = ("contexts", "buffers", "bytes", "fds")


@pytest.fixture(autouse=True)
def _on_the_simulator(monkeypatch):
    monkeypatch.setenv("NPUBLAS_SIMULATOR_LOG", "0")
    npublas.set_config(runtime="simulator")
    _engine.close_engine()
    simulator.reset()
    yield
    simulator.reset()
    _engine.close_engine()


@pytest.fixture
def operands():
    rng = np.random.default_rng(6)
    # Several blocks on three cores, and several depth tiles.
    return rng.integers(-128, 128, (40, 2100), np.int8), rng.integers(
        -128, 128, (2100, 400), np.int8
    )


def multiply(a, b):
    return npublas.matmul(a, b, device="npu")


def resources():
    counters = simulator.counters()
    return {name: counters[name] for name in RESOURCES}


def chances(fault, a, b):
    """How many calls of a product the fault could strike."""
    multiply(a, b)  # opens the engine
    _core.close_engine()
    _engine.open_engine()
    with simulator.fault(fault, nth=1_000_000):
        before = simulator.counters()
        multiply(a, b)
        after = simulator.counters()
    function = {
        "enomem": ["rknn_create_mem", "rknn_matmul_create"],
        "create_failure": ["rknn_matmul_create"],
        "refused_mask": ["rknn_matmul_set_core_mask"],
        "bind_failure": ["rknn_matmul_set_io_mem"],
        "sync_failure": ["rknn_mem_sync"],
        "lost_device": [name for name in after if name.startswith("rknn_")],
    }.get(fault, ["rknn_matmul_run"])
    return sum(after[name] - before[name] for name in function)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("count", [1, 2, 0], ids=["once", "twice", "from then on"])
def test_a_fault_at_any_call_of_a_product_leaves_the_numbers_right(fault, count, operands):
    a, b = operands
    expected = np.matmul(a, b)
    total = chances(fault, a, b)
    assert total >= 3
    _engine.close_engine()
    before = resources()
    steps = range(1, total + 1) if total < 30 else [*range(1, 16), *range(16, total + 1, 7)]
    for nth in steps:
        _engine.open_engine()
        with simulator.fault(fault, nth=nth, count=count):
            np.testing.assert_array_equal(multiply(a, b), expected, err_msg=f"{fault} at {nth}")
        np.testing.assert_array_equal(multiply(a, b), expected)
        _engine.close_engine()
        assert resources() == before, f"{fault} at {nth}"


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"refused_mask"}))
def test_a_lasting_fault_is_an_error_where_fallbacks_are_forbidden(fault, operands):
    a, b = operands
    multiply(a, b)
    # Everything must be made anew, so that faults of making it strike too.
    _engine.close_engine()
    _engine.open_engine()
    with (
        simulator.fault(fault, count=0),
        npublas.config_context(on_fallback="error"),
        pytest.raises(npublas.FallbackError) as caught,
    ):
        multiply(a, b)
    assert "on_fallback" in str(caught.value)
    np.testing.assert_array_equal(multiply(a, b), np.matmul(a, b))
    assert npublas.counters().npu.products == 2  # the first, and the one after the fault


def test_a_refused_core_mask_costs_nothing_but_the_choice_of_core(operands):
    a, b = operands
    with simulator.fault("refused_mask", count=0), npublas.config_context(on_fallback="error"):
        np.testing.assert_array_equal(multiply(a, b), np.matmul(a, b))


def test_one_failed_run_is_repeated_with_everything_made_anew_and_no_fallback(operands):
    multiply(*operands)
    created = simulator.counters()["rknn_matmul_create"]
    with simulator.fault("submit_failure"), npublas.config_context(on_fallback="error"):
        multiply(*operands)
    assert npublas.counters().npu.products == 2
    assert simulator.counters()["rknn_matmul_create"] == created + 1  # one core is enough
    assert npublas.memory_info().contexts == 2  # that one, and the one that all memory comes from


def test_a_device_that_keeps_failing_is_left_alone_for_a_while(operands):
    a, b = operands
    multiply(a, b)
    with simulator.fault("submit_failure", count=0):
        for _ in range(3):
            multiply(a, b)
        runs = simulator.counters()["rknn_matmul_run"]
        np.testing.assert_array_equal(multiply(a, b), np.matmul(a, b))
        assert simulator.counters()["rknn_matmul_run"] == runs
    assert "rknn_matmul_run" in _engine.status()["quarantined_because"]
    texts = [row.text for row in npublas.counters().reasons]
    assert any("left alone" in text for text in texts)
    _engine.close_engine()  # and opening it anew is a fresh start
    multiply(a, b)
    assert npublas.counters().npu.products == 2


def test_a_fallback_warns_where_that_is_asked_for(operands):
    a, b = operands
    multiply(a, b)
    with (
        simulator.fault("submit_failure", count=0),
        npublas.config_context(on_fallback="warn"),
        pytest.warns(npublas.FallbackWarning, match="rknn_matmul_run"),
    ):
        result = multiply(a, b)
    np.testing.assert_array_equal(result, np.matmul(a, b))


def test_a_stack_raises_once(operands):
    a, b = (np.stack([operand] * 5) for operand in operands)
    multiply(a[0], b[0])
    with (
        simulator.fault("submit_failure", count=0),
        npublas.config_context(on_fallback="error"),
        pytest.raises(npublas.FallbackError),
    ):
        multiply(a[:, None], b[None, ::2])
    assert npublas.counters().cpu.products == 0


def test_a_run_that_never_comes_back_is_given_up(operands, monkeypatch):
    a, b = operands
    monkeypatch.setenv("NPUBLAS_RUN_TIMEOUT", "0.2")
    multiply(a, b)
    with simulator.fault("hang"):
        out = np.empty((40, 400), np.int8)
        npublas.matmul(a, b, out=out, device="npu")
        expected = np.matmul(a, b)
        np.testing.assert_array_equal(out, expected)
        assert _core.engine_state() == "unavailable"
        assert "did not come back" in _engine.status()["unavailable_because"]
        out[:] = 77  # the result is the caller's now: the late answer must not reach it
        runs = simulator.counters()["runs"]
        simulator.release()
        while simulator.counters()["runs"] == runs:
            pass
        for _ in range(3000):  # time enough for the worker to unpack it
            assert (out == 77).all()
    with pytest.raises(npublas.NpuUnavailableError, match="did not come back"):
        multiply(a, b)
    _engine.close_engine()
    np.testing.assert_array_equal(multiply(a, b), expected)

"""Whatever fails on the NPU, at whichever call: right numbers, and nothing lost."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from processes import run_python

import npublas
from npublas import _core, _engine
from npublas.errors import NpuUnavailableError
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


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("count", [1, 2, 0], ids=["once", "twice", "from then on"])
def test_a_fault_while_the_engine_opens_passes(fault, count, operands):
    a, b = operands
    expected = np.matmul(a, b)
    before = resources()
    for nth in (1, 2, 3, 5, 8, 13, 40):
        with simulator.fault(fault, nth=nth, count=count), contextlib.suppress(NpuUnavailableError):
            np.testing.assert_array_equal(multiply(a, b), expected, err_msg=f"{fault} at {nth}")
        npublas.reset_counters()
        np.testing.assert_array_equal(multiply(a, b), expected, err_msg=f"after {fault} at {nth}")
        if fault != "zeros":  # which a self-test takes for what they are, for good
            assert npublas.counters().npu.products == 1, f"after {fault} at {nth}"
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
    npublas.set_config(threads=1)
    multiply(*operands)
    created = simulator.counters()["rknn_matmul_create"]
    with simulator.fault("submit_failure"), npublas.config_context(on_fallback="error"):
        multiply(*operands)
    assert npublas.counters().npu.products == 2
    # Two contexts that run, one to sync through, and the one that memory comes from.
    assert simulator.counters()["rknn_matmul_create"] == created + 4
    assert npublas.memory_info().contexts == 4  # one core was enough for the second attempt


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


GIVEN_UP = """
    import numpy as np
    import npublas
    from npublas import _core, _engine
    from npublas.testing import simulator

    npublas.set_config(runtime="simulator")
    rng = np.random.default_rng(6)
    a = rng.integers(-128, 128, (40, 2100), np.int8)
    b = rng.integers(-128, 128, (2100, 400), np.int8)
    expected = np.matmul(a, b)
    npublas.matmul(a, b, device="npu")
    simulator.arm("hang")
    out = np.empty((40, 400), np.int8)
    npublas.matmul(a, b, out=out, device="npu")
    np.testing.assert_array_equal(out, expected)
    assert _core.engine_state() == "unavailable"

    out[:] = 77  # the result is the caller's now: the late answer must not reach it
    runs = simulator.counters()["runs"]
    simulator.release()
    while simulator.counters()["runs"] == runs:
        pass
    for _ in range(3000):  # time enough for the worker to unpack it
        assert (out == 77).all()

    for _ in range(2):  # not even a new engine may have that device again
        try:
            npublas.matmul(a, b, device="npu")
        except npublas.NpuUnavailableError as error:
            assert "did not come back" in str(error)
        else:
            raise AssertionError
        _engine.close_engine()
    """


def test_a_run_that_never_comes_back_is_given_up():
    run_python(GIVEN_UP, NPUBLAS_RUN_TIMEOUT="3")


def test_callers_that_wait_for_room_are_let_go_when_the_device_hangs():
    run_python(
        """
        import threading

        import numpy as np
        import npublas
        from npublas.testing import simulator

        npublas.set_config(runtime="simulator", memory_limit="4MiB", cores=1)
        a = np.ones((512, 1024), np.float32)
        b = np.ones((1024, 512), np.float32)
        npublas.matmul(a, b, device="npu")
        simulator.arm("hang", count=0)
        results = []
        threads = [
            threading.Thread(
                target=lambda: results.append(npublas.matmul(a, b, device="npu")), daemon=True
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(results) == 4 and all((result == 1024).all() for result in results)
        simulator.release()
        """,
        NPUBLAS_RUN_TIMEOUT="2",
    )


def test_a_self_test_that_never_comes_back_is_given_up():
    run_python(
        """
        import numpy as np
        import npublas
        from npublas.testing import simulator

        npublas.set_config(runtime="simulator")
        simulator.arm("hang", nth=3)
        a = np.ones((4, 4), np.int8)
        try:
            npublas.matmul(a, a, device="npu")
        except npublas.NpuUnavailableError as error:
            assert "self-test" in str(error)
        else:
            raise AssertionError
        simulator.release()
        """,
        NPUBLAS_RUN_TIMEOUT="3",
    )


def test_a_second_attempt_is_reported(operands):
    multiply(*operands)
    with simulator.fault("submit_failure"):
        multiply(*operands)
    assert npublas.counters().work["retries"] == 1
    assert "rknn_matmul_run" in _engine.status()["last_retry"]


@pytest.mark.parametrize("flush", [0, 1])
def test_zeros_that_roundings_explain_are_no_fault_of_the_device(flush):
    with simulator.settings(flush_subnormals=flush), npublas.config_context(on_fallback="error"):
        a, b = np.zeros((1, 64), np.float32), np.ones((64, 4), np.float32)
        a[0, [0, 1, 32]] = 1.0, 2.0**-26, -1.0  # the group's sum rounds to 1, and cancels
        assert not npublas.matmul(a, b, device="npu", precision="float16").any()
        if flush:
            a, b = np.zeros((1, 32), np.float32), np.zeros((32, 4), np.float32)
            a[0, :2], b[1] = (1.0, 2.0**-30), 1.0
            assert not npublas.matmul(a, b, device="npu", precision="float16").any()

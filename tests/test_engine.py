"""Opening the engine: what is trusted, by whom it is shared, and what a child inherits."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from processes import run_python

import npublas
from npublas import _core, _engine, _memory, _verify
from npublas.testing import simulator

A = np.arange(-60, 60, dtype=np.int8).reshape(4, 30)
B = np.arange(-75, 75, dtype=np.int8).reshape(30, 5)


@pytest.fixture(autouse=True)
def _closed():
    npublas.set_config(runtime="simulator")
    _engine.close_engine()
    simulator.reset()
    yield
    simulator.reset()
    _engine.close_engine()


def test_importing_opens_prints_and_patches_nothing():
    out = run_python(
        """
        import numpy, os, sys
        matmul, files = numpy.matmul, len(os.listdir("/proc/self/fd"))
        import npublas
        from npublas import _core
        assert numpy.matmul is matmul
        assert _core.engine_state() == "closed"
        assert len(os.listdir("/proc/self/fd")) == files
        assert "npublas.testing" not in sys.modules
        """
    )
    assert out == ""


def test_a_type_whose_known_answers_come_back_as_zeros_is_off():
    # What runtime 2.2.0 does: success, and zeros. Here for the float16 part of the self-test only.
    with simulator.fault("zeros", nth=19, count=0):
        _engine.open_engine()
    problems = _engine.status()["type_problems"]
    assert problems["int8"] == "" and "known answer" in problems["float16"]
    assert (npublas.matmul(A, B, device="npu") == np.matmul(A, B)).all()
    half = npublas.matmul(A.astype(np.float16), B.astype(np.float16), device="npu")
    np.testing.assert_array_equal(half, A.astype(np.float16) @ B.astype(np.float16))
    counters = npublas.counters()
    assert counters.npu.products == 1 and counters.fallbacks == 1
    assert "self-test" in npublas.explain(half, half.T, device="npu").reason


def test_each_core_is_put_to_the_test_on_both_sides_of_a_task_limit():
    _engine.open_engine()
    # (1, 4, 128, 132 rows) × 3 types × 3 cores, 3 and 324 row-major rows of two types, and on each
    # core one subnormal and the largest sums of int4.
    assert simulator.counters()["rknn_matmul_run"] == 4 * 3 * 3 + 2 * 2 * 3 + 3 + 3


def test_without_row_major_surfaces_native_ones_are_used():
    a, b = np.ones((1000, 2048), np.int8), np.ones((2048, 300), np.int8)
    plan = npublas.explain(a, b, device="npu").plan
    assert plan is not None and plan.layout == "normal"
    _engine.close_engine()
    with simulator.fault("zeros", nth=5):  # the first row-major answer of int8
        _engine.open_engine()
    assert not any(_engine.status()["type_problems"].values())
    plan = npublas.explain(a, b, device="npu").plan
    assert plan is not None and plan.layout == "native"
    with npublas.config_context(on_fallback="error"):
        assert (npublas.matmul(a[:50, :99], b[:99], dtype=np.int32, device="npu") == 99).all()


def test_subnormals_are_probed():
    for flush in (0, 1):
        with simulator.settings(flush_subnormals=flush):
            _engine.open_engine()
            assert _engine.status()["flushes_subnormals"] == bool(flush)
            _engine.close_engine()


def test_no_npu_is_an_error_where_one_is_demanded_and_none_where_not(tmp_path):
    npublas.set_config(runtime=str(tmp_path / "librknnrt.so"))
    big = np.ones((2000, 2000), np.int8)
    assert npublas.matmul(big, big)[0, 0] == -48  # 2000 modulo 256
    assert npublas.counters().fallbacks == 0
    with pytest.raises(npublas.NpuUnavailableError, match=r"librknnrt\.so"):
        npublas.matmul(A, B, device="npu")
    assert not npublas.is_available()


def test_another_process_that_holds_the_npu_sends_products_to_the_cpu(monkeypatch):
    monkeypatch.setenv("NPUBLAS_LOCK_TIMEOUT", "0.05")
    _engine.open_engine()
    with open(_engine.lock_file()) as file:  # noqa: PTH123
        fcntl.flock(file, fcntl.LOCK_EX)
        np.testing.assert_array_equal(npublas.matmul(A, B, device="npu"), np.matmul(A, B))
        assert npublas.counters().npu.products == 0
        assert "another process" in npublas.counters().reasons[0].text
    npublas.matmul(A, B, device="npu")
    assert npublas.counters().npu.products == 1


def test_another_process_that_holds_the_npu_at_the_opening_costs_those_products_alone(monkeypatch):
    monkeypatch.setenv("NPUBLAS_LOCK_TIMEOUT", "0.05")
    with open(_engine.lock_file(), "w") as file:  # noqa: PTH123
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(2):
            np.testing.assert_array_equal(npublas.matmul(A, B, device="npu"), np.matmul(A, B))
    assert "another process" in npublas.counters().reasons[0].text
    npublas.matmul(A, B, device="npu")
    assert npublas.counters().npu.products == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.int8])
def test_no_npu_is_an_error_for_every_type_where_one_is_demanded(dtype, tmp_path):
    npublas.set_config(runtime=str(tmp_path / "librknnrt.so"))
    a = np.ones((4, 4), dtype)
    for _ in range(2):
        with pytest.raises(npublas.NpuUnavailableError):
            npublas.matmul(a, a, device="npu")
    explained = npublas.explain(a, a, device="npu")
    assert explained.error and "there is no NPU" in explained.reason
    assert npublas.matmul(a[:0], a, device="npu").shape == (0, 4)  # nothing to multiply


def test_what_ran_on_the_simulator_stays_simulated():
    npublas.matmul(A, B, device="npu")
    npublas.set_config(memory_limit="64MiB")
    assert npublas.counters().simulated and "NPU (simulated)" in repr(npublas.counters())
    npublas.set_config(memory_limit="auto")


def test_two_processes_take_turns():
    code = """
        import numpy as np, npublas
        npublas.set_config(runtime="simulator")
        rng = np.random.default_rng()
        for _ in range(20):
            a = rng.integers(-128, 128, (40, 500), np.int8)
            assert (npublas.matmul(a, a.T, device="npu") == np.matmul(a, a.T)).all()
        print(npublas.counters().npu.products)
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "NPUBLAS_LOCK_TIMEOUT": "60"}
    children = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [child.communicate()[0].strip() for child in children] == ["20", "20"]


def test_a_forked_child_starts_with_a_fresh_engine():
    out = run_python(
        """
        import os, warnings
        import numpy as np, npublas
        from npublas import _core
        npublas.set_config(runtime="simulator")
        a = np.arange(64, dtype=np.int8).reshape(8, 8)
        npublas.matmul(a, a, device="npu")
        warnings.simplefilter("ignore")  # Python warns of forks beside threads
        if (child := os.fork()) == 0:
            fresh = _core.engine_state() == "closed"
            right = (npublas.matmul(a, a, device="npu") == np.matmul(a, a)).all()
            os._exit(0 if fresh and right and _core.engine_state() == "open" else 1)
        _, status = os.waitpid(child, 0)
        npublas.matmul(a, a, device="npu")
        print(os.waitstatus_to_exitcode(status), npublas.counters().npu.products)
        """
    )
    assert out == "0 2"


def test_a_forked_child_does_not_hold_its_parents_lock():
    out = run_python(
        """
        import fcntl, os, signal, warnings
        import numpy as np, npublas
        from npublas import _engine
        npublas.set_config(runtime="simulator")
        a = np.arange(64, dtype=np.int8).reshape(8, 8)
        npublas.matmul(a, a, device="npu")
        warnings.simplefilter("ignore")
        if (child := os.fork()) == 0:
            names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                     if os.path.exists(f"/proc/self/fd/{fd}")]
            os._exit(_engine.lock_file() in names)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert out == "0"


def test_a_lock_that_cannot_be_had_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("NPUBLAS_LOCK_FILE", str(tmp_path / "missing" / "lock"))
    npublas.matmul(A, B, device="npu")
    assert npublas.counters().npu.products == 1
    assert "missing/lock" in _engine.status()["lock_problem"]
    assert "missing/lock" in str(npublas.info())


def test_decisions_are_made_within_the_limits_that_hold():
    big = np.broadcast_to(np.zeros((), np.int8), (2048, 2048))
    _engine.open_engine()
    assert npublas.explain(big, big).on_npu
    npublas.set_config(memory_limit="1MiB")
    _engine.open_engine()
    explained = npublas.explain(big, big)
    assert explained.on_npu == (explained.npu_seconds < explained.cpu_seconds)
    npublas.set_config(memory_limit="auto")


def test_child_processes_inherit_environment_variables():
    code = """
        import numpy as np, npublas
        a = np.ones((4, 4), np.int8)
        npublas.matmul(a, a)
        print(npublas.counters().npu.products, npublas.memory_info().limit)
        """
    environment = {
        "NPUBLAS_RUNTIME": "simulator", "NPUBLAS_DEVICE": "npu", "NPUBLAS_MEMORY_LIMIT": "16MiB",
    }  # fmt: skip
    assert run_python(code, **environment) == f"1 {16 << 20}"


@contextlib.contextmanager
def a_product_under_way():
    npublas.matmul(A, B, device="npu")
    with simulator.fault("hang"):
        thread = threading.Thread(target=lambda: npublas.matmul(A, B, device="npu"))
        thread.start()
        while not simulator.fired("hang"):
            pass
        yield
        simulator.release()
        thread.join()


def test_products_of_other_threads_run_beside_one_that_is_under_way():
    with a_product_under_way(), npublas.config_context(on_fallback="error"):
        for _ in range(20):
            assert (npublas.matmul(A, B, device="npu") == np.matmul(A, B)).all()


@pytest.mark.parametrize("limit", ["4MiB", "1GiB"])
def test_many_callers_share_the_window_without_a_retry(limit):
    npublas.set_config(memory_limit=limit)
    a, b = np.ones((128, 512), np.float32), np.full((512, 600), 2**-20 + 1, np.float32)
    with npublas.config_context(on_fallback="error"):
        expected = npublas.matmul(a, b, device="npu")
    wrong = []

    def work():
        with npublas.config_context(on_fallback="error"):
            for _ in range(3):
                result = npublas.matmul(a, b, device="npu")
                if not np.array_equal(result, expected):
                    wrong.append(result)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = npublas.counters()
    assert not wrong and counters.npu.products == 49 and counters.work["retries"] == 0


def test_reports_do_not_wait_for_a_product():
    with a_product_under_way():
        assert npublas.counters().npu.products == 1
        assert npublas.memory_info().used > 0
        assert npublas.explain(A, B, device="npu").on_npu
        assert npublas.is_available()


def test_settings_of_the_process_are_refused_while_the_npu_is_busy():
    with a_product_under_way(), pytest.raises(npublas.NpuError, match="busy"):
        npublas.set_config(cores=1)
    assert npublas.get_config().cores == 3
    npublas.set_config(cores=1)
    npublas.set_config(cores=3)


def test_a_simulator_is_never_taken_by_itself(tmp_path):
    code = """
        import numpy as np, npublas
        a = np.ones((4, 4), np.int8)
        assert npublas.get_config().runtime == "auto"
        assert not npublas.is_available()
        try:
            npublas.matmul(a, a, device="npu")
        except npublas.NpuUnavailableError as error:
            print(error)
        """
    copy = tmp_path / "librknnrt.so"
    copy.write_bytes(simulator.path().read_bytes())
    assert "simulator" in run_python(code, NPUBLAS_RUNTIME=str(copy))


class TestUnknownRuntimes:
    """One that nobody knows is opened in a child process first, and the outcome remembered."""

    @pytest.fixture(autouse=True)
    def _unknown(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        self.cache = tmp_path / "npublas" / "verdicts.json"
        self.probe = {**_core.probe_runtime("simulator"), "untested": True}
        monkeypatch.setattr(_core, "probe_runtime", lambda runtime: self.probe)

    def test_one_that_works_is_used_and_tried_once(self, monkeypatch):
        npublas.matmul(A, B, device="npu")
        assert npublas.counters().npu.products == 1
        verdicts = json.loads(self.cache.read_text())["verdicts"]
        assert list(verdicts.values()) == [""]
        _engine.close_engine()
        monkeypatch.setattr(_verify, "_try_in_child", lambda *_: pytest.fail("tried again"))
        npublas.matmul(A, B, device="npu")

    def test_one_that_hangs_is_refused_with_the_reason(self, monkeypatch):
        monkeypatch.setenv("NPUBLAS_TRIAL_TIMEOUT", "0.01")
        with pytest.raises(npublas.NpuUnavailableError, match=r"did not finish within 0\.01 s"):
            npublas.matmul(A, B, device="npu")
        assert str(self.cache) in str(npublas.is_available())

    def test_one_that_crashes_is_refused_with_the_reason_now_and_later(self, monkeypatch, tmp_path):
        crash = tmp_path / "python"
        crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
        crash.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(crash))
            with pytest.raises(npublas.NpuUnavailableError, match="killed by signal 11"):
                npublas.matmul(A, B, device="npu")
        _engine.close_engine()
        with pytest.raises(npublas.NpuUnavailableError, match="killed by signal 11"):
            npublas.matmul(A, B, device="npu")

    def test_a_refusal_is_not_remembered(self, monkeypatch):
        monkeypatch.setattr(sys, "executable", "/bin/false")
        npublas.matmul(A, B, device="npu")
        assert not self.cache.exists()

    def test_the_trial_holds_the_lock(self, monkeypatch):
        monkeypatch.setenv("NPUBLAS_LOCK_TIMEOUT", "0.05")
        with open(_engine.lock_file(), "w") as file:  # noqa: PTH123
            fcntl.flock(file, fcntl.LOCK_EX)
            np.testing.assert_array_equal(npublas.matmul(A, B, device="npu"), np.matmul(A, B))
        assert npublas.counters().npu.products == 0
        assert not self.cache.exists()  # nothing was tried
        npublas.matmul(A, B, device="npu")
        assert npublas.counters().npu.products == 1

    @pytest.mark.parametrize("content", ["", "[]", "{", '{"verdicts": 3}'])
    def test_a_damaged_cache_is_no_cache(self, content):
        self.cache.parent.mkdir()
        self.cache.write_text(content)
        npublas.matmul(A, B, device="npu")
        assert npublas.counters().npu.products == 1
        assert json.loads(self.cache.read_text())["verdicts"]


class TestDefaultMemoryLimit:
    def machine(self, root, available_kib, groups):
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {available_kib} kB\n")
        (root / "proc/self/cgroup").write_text("0::/user/app\n")
        for path, limit in groups.items():
            group = root / "sys/fs/cgroup" / path
            group.mkdir(parents=True, exist_ok=True)
            (group / "memory.max").write_text(f"{limit}\n")

    @pytest.mark.parametrize(
        ("available_kib", "groups", "expected"),
        [
            (32 << 20, {}, 1 << 30),
            (2 << 20, {}, 512 << 20),
            (32 << 20, {"user/app": "max", "user": str(300 << 20)}, 300 << 20),
            (32 << 20, {"user/app": str(200 << 20)}, 200 << 20),
            (1 << 10, {}, 8 << 20),
        ],
    )
    def test_it_is_the_smallest_of_three(self, tmp_path, available_kib, groups, expected):
        self.machine(tmp_path, available_kib, groups)
        assert _memory.default_limit(tmp_path) == expected

    def test_old_control_groups_count_too(self, tmp_path):
        self.machine(tmp_path, 32 << 20, {})
        (tmp_path / "proc/self/cgroup").write_text("4:cpu,memory:/a\n")
        (tmp_path / "sys/fs/cgroup/memory/a").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/memory/a/memory.limit_in_bytes").write_text(str(99 << 20))
        assert _memory.default_limit(tmp_path) == 99 << 20

    def test_a_machine_that_tells_nothing_gets_one_gibibyte(self, tmp_path):
        assert _memory.default_limit(tmp_path) == 1 << 30

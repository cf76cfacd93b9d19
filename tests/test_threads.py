"""Host threads: what is asked for, and what CPUs, OpenMP and the control group leave of it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import run_python

import npublas
from npublas import _config, _core, _engine, _threads

CPUS = len(os.sched_getaffinity(0))


def group(root: Path, quotas: dict[str, str], path: str = "/a/b", controllers: str = "") -> Path:
    """A machine whose control groups have these quotas."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0:{controllers}:{path}\n")
    base = root / "sys/fs/cgroup"
    for name, text in quotas.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("wanted", "most", "threads"),
    [(0, 0, 4), (0, 2, 2), (0, 9, 4), (3, 0, 3), (9, 0, 9), (9, 5, 5), (1, 5, 1)],
)
def test_threads_are_what_is_asked_for_up_to_all_limits(wanted, most, threads):
    assert _core.host_threads(wanted, most) == min(threads, CPUS)


def test_the_caller_alone_is_left_on_one_cpu():
    def on_one_cpu() -> int:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread
        return _core.host_threads(8, 0)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(on_one_cpu).result() == 1
    assert len(os.sched_getaffinity(0)) == CPUS


@pytest.mark.parametrize(
    ("text", "most"),
    [("", 0), ("1", 1), ("3", 3), ("2,4", 2), (" 2 ", 2), ("0", 0), ("-1", 0), ("many", 0)],
)
def test_openmp_sets_an_upper_limit(tmp_path, text, most):
    assert _threads.most(tmp_path, {"OMP_NUM_THREADS": text}) == most


@pytest.mark.parametrize(
    ("quotas", "most"),
    [
        ({}, 0),
        ({"a/b/cpu.max": "max 100000"}, 0),
        ({"a/b/cpu.max": "200000 100000"}, 2),
        ({"a/b/cpu.max": "150000 100000"}, 2),
        ({"a/b/cpu.max": "1000 100000"}, 1),
        ({"a/b/cpu.max": "300000 100000", "a/cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"a/b/cpu.max": "nonsense"}, 0),
    ],
)
def test_quotas_of_control_groups_are_a_limit(tmp_path, quotas, most):
    assert _threads.most(group(tmp_path, quotas), {}) == most


def test_quotas_of_the_first_version_are_a_limit(tmp_path):
    quotas = {
        "cpu/a/b/cpu.cfs_quota_us": "250000",
        "cpu/a/b/cpu.cfs_period_us": "100000",
        "cpu/a/cpu.cfs_quota_us": "-1",
        "cpu/a/cpu.cfs_period_us": "100000",
    }
    assert _threads.most(group(tmp_path, quotas, controllers="cpu,cpuacct"), {}) == 3


def test_the_lowest_limit_holds(tmp_path):
    machine = group(tmp_path, {"a/b/cpu.max": "300000 100000"})
    assert _threads.most(machine, {"OMP_NUM_THREADS": "2"}) == 2
    assert _threads.most(machine, {"OMP_NUM_THREADS": "5"}) == 3


def test_the_environment_says_how_many():
    code = "import npublas; print(npublas.get_config().threads)"
    assert run_python(code, NPUBLAS_THREADS="12") == "12"
    assert run_python(code, NPUBLAS_THREADS="auto") == run_python(code) == "auto"


def test_the_engine_knows_the_limit_of_openmp():
    out = run_python(
        """
        import npublas
        from npublas import _engine, _threads
        npublas.set_config(runtime="simulator", threads=3)
        assert _engine.open_engine()
        print(_engine.status()["threads"], _threads.effective())
        """,
        OMP_NUM_THREADS="1",
    )
    assert out == "1 1"


def test_threads_hold_for_the_process_a_context_and_what_it_calls():
    assert npublas.get_config().threads == "auto"
    npublas.set_config(threads=2)
    assert npublas.get_config().threads == 2
    with npublas.config_context(threads=1):
        assert npublas.get_config().threads == 1
        with npublas.config_context(device="cpu"):
            assert npublas.get_config().threads == 1
        with npublas.config_context(threads="auto"):
            assert npublas.get_config().threads == "auto"
            npublas.set_config(threads=5)
            assert npublas.get_config().threads == "auto"
    assert npublas.get_config().threads == 5
    npublas.set_config(threads="auto")
    assert npublas.get_config().threads == "auto"


def test_threads_disturb_no_other_setting():
    npublas.set_config(threads=127, precision="float16", on_fallback="error")
    with npublas.config_context(threads=64, float64="float32"):
        config = npublas.get_config()
        assert (config.threads, config.precision, config.on_fallback) == (64, "float16", "error")
        assert config.float64 == "float32"
        assert _config.unpacked(_config.packed(device="cpu"))["threads"] == 64


@pytest.mark.parametrize("value", [0, -1, 128, 2.0, "2", "many", True, None.__class__])
def test_wrong_numbers_of_threads_are_refused(value):
    with pytest.raises(npublas.ConfigurationError, match="threads must be 'auto' or from 1 to 127"):
        npublas.set_config(threads=value)
    with pytest.raises(npublas.ConfigurationError, match="threads must be"):
        npublas.config_context(threads=value)


def test_the_engine_stays_open_when_threads_change(device):
    a = np.ones((64, 64), np.int8)
    npublas.matmul(a, a, device="npu")
    assert _core.engine_state() == "open"
    npublas.set_config(threads=1)
    assert _core.engine_state() == "open"
    with npublas.config_context(threads=2):
        assert (npublas.matmul(a, a, device="npu") == a @ a).all()
    assert (npublas.matmul(a, a, device="npu") == a @ a).all()
    assert _engine.status()["work"]["runs"] > 0

"""Threads as threadpoolctl limits them, and joblib."""

from __future__ import annotations

import os

import joblib
import numpy as np
import pytest
import threadpoolctl
from processes import run_python

import npublas
from npublas import _threads

CPUS = len(os.sched_getaffinity(0))


def ours() -> list[dict[str, object]]:
    return [lib for lib in threadpoolctl.threadpool_info() if lib["internal_api"] == "npublas"]


def test_importing_npublas_does_not_import_threadpoolctl():
    out = run_python("import sys, npublas; print('threadpoolctl' in sys.modules)")
    assert out == "False"


@pytest.mark.parametrize(
    "code",
    [
        "import threadpoolctl, npublas",
        "import npublas, threadpoolctl; npublas.register_threadpoolctl()",
        "import npublas, threadpoolctl; threadpoolctl.threadpool_info();"
        "npublas.register_threadpoolctl(); npublas.register_threadpoolctl()",
        "import npublas, threadpoolctl, numpy as np; npublas.set_config(runtime='simulator');"
        "a = np.ones((2, 2), np.int8); npublas.matmul(a, a, device='npu')",
    ],
)
def test_threadpoolctl_knows_npublas_once_whichever_is_imported_first(code):
    ask = "print([x['internal_api'] for x in threadpoolctl.threadpool_info()].count('npublas'))"
    assert run_python(f"{code}\n{ask}") == "1"


def test_limits_hold_for_the_block_and_the_setting_comes_back(device):
    npublas.register_threadpoolctl()
    (before,) = ours()
    assert before["user_api"] == "blas" and before["version"] == npublas.__version__
    assert before["num_threads"] == _threads.effective() == min(4, CPUS)
    for setting in ("auto", 3):
        npublas.set_config(threads=setting)
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            assert ours()[0]["num_threads"] == 1
            assert npublas.get_config().threads == 1
            a = np.ones((64, 64), np.int8)
            assert (npublas.matmul(a, a, device="npu") == a @ a).all()
        assert npublas.get_config().threads == setting


def test_limits_nest():
    npublas.register_threadpoolctl()
    with threadpoolctl.threadpool_limits(2):
        with threadpoolctl.threadpool_limits(1):
            assert _threads.effective() == 1
        assert _threads.effective() == min(2, CPUS)
    assert npublas.get_config().threads == "auto"


def test_a_context_of_its_own_is_no_setting_of_the_process():
    npublas.register_threadpoolctl()
    with npublas.config_context(threads=1):
        assert ours()[0]["num_threads"] == min(4, CPUS)
        with threadpoolctl.threadpool_limits(1):
            assert npublas.get_config().threads == 1
    assert npublas.get_config().threads == "auto"


def test_workers_of_joblib_have_the_threads_that_it_leaves_them():
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        assert joblib.Parallel(n_jobs=2)(
            joblib.delayed(_threads.effective)() for _ in range(2)
        ) == [1, 1]

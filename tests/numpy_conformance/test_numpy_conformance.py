"""NumPy's own tests of matmul pass with npublas.matmul, but for the listed exceptions of `run.py`.

In a process of its own, because numpy.matmul is replaced there for good.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).parent / "run.py"


@pytest.mark.parametrize("mode", ["cpu", "npu", "float16"])
def test_numpys_own_tests_pass_with_npublas_matmul(mode: str, tmp_path: Path) -> None:
    # The matrices are tiny: BLAS threads would only wait for each other.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    # Elsewhere, or pytest would find this project's conftest.py, which resets the counters.
    run = subprocess.run(
        [sys.executable, RUNNER, mode],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "tests passed" in run.stdout

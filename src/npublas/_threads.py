"""How many threads of the host one product may have at most, whatever the settings say.

`OMP_NUM_THREADS` is an upper limit, as it is for BLAS: whoever starts several processes beside each
other, as joblib does, says so with it. So is the CPUs' time that the control group allows. Which
CPUs the calling thread may run on is looked up by the core, for every product.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from npublas import _config, _core


def most(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Return the upper limit of the environment and the control group, 0 if there is none."""
    limits = [_openmp(environment), *_control_group(root)]
    return min((limit for limit in limits if limit > 0), default=0)


def effective(threads: int | str | None = None) -> int:
    """Return how many threads a product of this thread would have, by a setting or by that here."""
    if threads is None:
        threads = _config.get_config().threads
    return _core.host_threads(threads if isinstance(threads, int) else 0, most())


def _openmp(environment: Mapping[str, str]) -> int:
    """Return the first number of ``OMP_NUM_THREADS`` (one per level of nesting), 0 if none."""
    text = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(text) if text.isascii() and text.isdigit() else 0


def _control_group(root: Path) -> list[int]:
    """Return the CPUs that the quotas of the process's control group, and those above it, make."""
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            base = root / "sys/fs/cgroup/cpu"
        else:
            continue
        group = base / path.lstrip("/")
        while group.is_relative_to(base):
            quota = _read(group / "cpu.max").split() if controllers == "" else _quota_of_v1(group)
            if len(quota) == 2 and all(text.isdigit() for text in quota) and int(quota[1]) > 0:
                limits.append(max(math.ceil(int(quota[0]) / int(quota[1])), 1))
            if group == base:
                break
            group = group.parent
    return limits


def _quota_of_v1(group: Path) -> list[str]:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # -1: no quota
    return [_read(group / name).strip() for name in names]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

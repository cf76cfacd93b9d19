"""How much memory the window may take where nobody has said so."""

from __future__ import annotations

from pathlib import Path

GIBIBYTE = 1 << 30


def default_limit(root: Path = Path("/")) -> int:
    """Return the default of ``memory_limit`` in bytes.

    The smallest of 1 GiB (conservative until a board has been measured), a quarter of the available
    memory, and the limit of the control group that the process is in; at least 8 MiB.
    """
    limits = [GIBIBYTE]
    if (free := available(root)) is not None:
        limits.append(free // 4)
    limits.extend(_control_group_limits(root))
    return max(min(limits), 8 << 20)


def available(root: Path = Path("/")) -> int | None:
    """Return the memory that programs could still have, None where nobody says."""
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group_limits(root: Path) -> list[int]:
    """Return the memory limits of the process's control group and of those above it."""
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base, name = (
            (root / "sys/fs/cgroup", "memory.max")
            if controllers == ""
            else (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes")
        )
        group = base / path.lstrip("/")
        while group.is_relative_to(base):
            text = _read(group / name).strip()
            if text.isdigit():
                limits.append(int(text))
            if group == base:
                break
            group = group.parent
    return limits


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

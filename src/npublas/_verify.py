"""Before trust: may this runtime be opened in this process at all?

Every engine answers known products before it is used (in the core, at every opening: it takes
milliseconds). A runtime or a driver that nobody knows could do worse than answer wrongly, so it is
opened in a child process first, which may crash or hang in peace. What came of it is remembered by
the library's hash and the driver's version.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from npublas import _core, _library
from npublas._environment import seconds
from npublas.errors import NpuUnavailableError

_PATIENCE = 60.0  # seconds; the driver alone waits three times 6 s for a job


def survive(runtime: str, lock_file: str, lock_patience_ms: int) -> None:
    """Make sure that opening `runtime` does no harm, in a child process if it is not known.

    Remembered are a pass, a crash and a hang. A runtime that only refuses says why when the engine
    is opened, and may not refuse the next time.

    Raises
    ------
    NpuUnavailableError
        If the child crashed or hung, now or when it was last tried.
    """
    probe = _core.probe_runtime(runtime)
    driver = _library.driver_version()
    if not (probe["untested"] or _library.driver_is_unknown(driver)):
        return
    key = f"{probe['fingerprint']}:{driver or os.uname().release}"
    cache = cache_folder() / "verdicts.json"
    verdicts = _load(cache)
    problem = verdicts.get(key)
    if problem is None:
        problem = _try_in_child(runtime, lock_file, lock_patience_ms)
        if problem is None:
            return
        _store(cache, {**verdicts, key: problem})
    if problem:
        raise NpuUnavailableError(
            f"{probe['path']} (version {probe['version']}) is not known to npublas, and a trial "
            f"in a process of its own failed: {problem}. Use librknnrt 2.3.2 with driver 0.9.8; to "
            f"try this one again, remove {cache}."
        )


def cache_folder() -> Path:
    """Return the folder for what npublas remembers, by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(base) / "npublas"  # with no home, "~/.cache" is a name like any other


def _try_in_child(runtime: str, lock_file: str, lock_patience_ms: int) -> str | None:
    """Open the engine in a child; return "" if it could, how it died, or None if it was refused."""
    patience = seconds("NPUBLAS_TRIAL_TIMEOUT", _PATIENCE)
    command = [sys.executable, "-m", "npublas._verify", runtime, lock_file, str(lock_patience_ms)]
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not finish within {patience:g} s"
    if child.returncode < 0:
        return f"it was killed by signal {-child.returncode}"
    return None if child.returncode else ""


def _load(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    verdicts: Any = content.get("verdicts") if isinstance(content, dict) else None
    if not isinstance(verdicts, dict):
        return {}
    return {str(key): str(value) for key, value in verdicts.items()}


def _store(path: Path, verdicts: dict[str, str]) -> None:
    """Write the file in one step; a cache that can't be written is only slow."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"version": 1, "verdicts": verdicts}, file, indent=1)
        Path(file.name).replace(path)
    except OSError:
        return


def _main(runtime: str, lock_file: str, lock_patience_ms: int) -> None:
    """Open the engine and run its self-tests, in a process that may die of it."""
    opened = _core.open_engine(
        runtime=runtime,
        memory_limit=64 << 20,
        cores=3,
        lock_file=lock_file,
        lock_patience_ms=lock_patience_ms,
        run_patience_ms=20_000,
    )
    _core.close_engine()
    if not opened:
        sys.exit("another process holds the NPU")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""Opening the one engine of the process, and putting it to the test before it is trusted."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from npublas import _config, _core, _library, _memory, _threadpool, _threads, _tuning, _verify
from npublas._config import Config
from npublas._environment import seconds
from npublas.errors import NpuError

_opening = threading.Lock()


def _restart_after_fork() -> None:
    global _opening
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_restart_after_fork)


def open_engine() -> bool:
    """Open the engine, or leave it unavailable with the one cause and its cure.

    Returns whether it was opened, or was open: not while another process holds the NPU, either.
    Never raises for want of an NPU: whoever needs one reads `_core.engine_state`.
    """
    with _opening:
        state = _core.engine_state()
        if state in ("open", "unavailable"):
            return state == "open"
        process = _config.get_config()
        tried = False
        lock, lock_patience = lock_file(), _milliseconds("NPUBLAS_LOCK_TIMEOUT", 2.0)
        try:
            _verify.survive(process.runtime, lock, lock_patience)
            tried = True
            opened = _core.open_engine(
                runtime=process.runtime,
                memory_limit=memory_limit(process),
                cores=process.cores,
                threads=_threads.most(),
                lock_file=lock,
                lock_patience_ms=lock_patience,
                run_patience_ms=run_patience(),
            )
            if opened:
                _threadpool.register_if_loaded()
                _tuning.apply(_core.engine_status())
            return opened
        except NpuError as error:
            because = _library.cause(process.runtime, str(error))
            _core.make_unavailable(because, for_good=not tried)
            return False


def close_engine() -> None:
    """Free the NPU's memory and close the device.

    The next product that wants the NPU opens it again, and looks anew for one that was missing. A
    device that did not come back from a run stays closed for the rest of the process.

    Raises
    ------
    NpuError
        While the engine is being opened, or a product is under way.
    """
    if not _opening.acquire(blocking=False):
        raise NpuError("the NPU is being opened; its settings can be changed when that is done")
    try:
        _core.close_engine()
    finally:
        _opening.release()


def run_patience() -> int:
    """Return after how many milliseconds a run is given up."""
    return _milliseconds("NPUBLAS_RUN_TIMEOUT", 20.0)


def lock_file() -> str:
    """Return the file whose lock keeps two processes from using the NPU at once.

    ``NPUBLAS_LOCK_FILE`` names another one; empty means none.
    """
    chosen = os.environ.get("NPUBLAS_LOCK_FILE")
    if chosen is not None:
        return chosen
    shared = Path("/run/lock")
    folder = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return str(folder / "npublas.lock")


def status() -> dict[str, Any]:
    """Return the engine's state as plain values, for reports."""
    return dict(_core.engine_status())


def memory_limit(config: Config) -> int:
    """Return the size of the window in bytes that a configuration asks for."""
    limit = config.memory_limit
    return limit if isinstance(limit, int) else _memory.default_limit()


def _milliseconds(variable: str, default: float) -> int:
    return math.ceil(1000 * seconds(variable, default))  # a short time is not none


def _process_change(old: Config, new: Config) -> None:
    close_engine()


def _close_at_exit() -> None:
    # A product that another thread still runs ends with the process.
    with contextlib.suppress(NpuError):
        _core.close_engine()


_tuning.expect()
_threadpool.register_if_loaded()
atexit.register(_close_at_exit)
_config.on_process_change(_process_change)

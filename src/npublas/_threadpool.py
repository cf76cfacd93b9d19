"""The controller by which threadpoolctl, and with it scikit-learn, limits npublas's host threads.

Importing npublas doesn't import threadpoolctl. Where that is loaded already it is told at once, and
otherwise when the engine opens, which is before there are any threads of ours;
`register_threadpoolctl` does it at any time. In the processes that joblib starts,
`OMP_NUM_THREADS` is what limits them.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

from npublas import _config, _threads
from npublas._types import MAX_THREADS
from npublas._version import __version__

_lock = threading.Lock()
_controller: Any = None


def register_threadpoolctl() -> None:
    """Tell threadpoolctl of the threads that pack and unpack for products on the NPU.

    ``threadpool_limits`` then limits them with those of BLAS, and ``threadpool_info`` lists them.
    Imports threadpoolctl. Where a program has imported it, this has happened when npublas was
    imported or its engine was opened, whichever came after; so it is for programs that import
    npublas first and limit threads before their first product.

    Raises
    ------
    ImportError
        If there is no threadpoolctl, or one before 3.3.

    Examples
    --------
    >>> import npublas, threadpoolctl
    >>> npublas.register_threadpoolctl()
    >>> with threadpoolctl.threadpool_limits(1, user_api="blas"):
    ...     npublas.get_config().threads
    1
    """
    threadpoolctl = importlib.import_module("threadpoolctl")
    global _controller
    if not hasattr(threadpoolctl, "register"):
        raise ImportError(
            f"threadpoolctl {threadpoolctl.__version__} takes no controllers: use 3.3"
        )
    with _lock:
        if _controller is None:
            _controller = _make(threadpoolctl)
            threadpoolctl.register(_controller)


def register_if_loaded() -> None:
    """Do so where the program has threadpoolctl already."""
    loaded = sys.modules.get("threadpoolctl")
    if _controller is None and hasattr(loaded, "register"):
        register_threadpoolctl()


def _make(threadpoolctl: Any) -> Any:
    class NpublasController(threadpoolctl.LibController):  # type: ignore[misc]
        """The host threads of npublas, as the setting ``threads`` has them for the process."""

        user_api = "blas"
        internal_api = "npublas"
        # libnpublas.so, and not libnpublas_simulator.so.
        filename_prefixes = ("libnpublas.",)

        def get_num_threads(self) -> int:
            return _threads.effective(_config.process().threads)

        def set_num_threads(self, num_threads: int) -> None:
            _set(num_threads)

        def get_version(self) -> str:
            return __version__

    return NpublasController


# What was replaced by a number, and the number of threads that it came to: threadpoolctl puts that
# number back, and means the setting.
_replaced: tuple[int | str, int] | None = None


def _set(threads: int) -> None:
    global _replaced
    with _lock:
        if _replaced is not None and _replaced[1] == threads:
            setting, _replaced = _replaced[0], None
            _config.set_config(threads=setting)
            return
        if _replaced is None:
            setting = _config.process().threads
            now = _threads.effective(setting)
            if threads == now:
                return  # as it is, so that there is nothing to put back
            _replaced = setting, now
        _config.set_config(threads=min(max(int(threads), 1), MAX_THREADS))

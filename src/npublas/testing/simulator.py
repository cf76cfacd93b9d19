"""Control over the simulator.

The simulator is a shared library with the interface of the vendor's runtime. This module reaches
the instance of it that this process has loaded, or will load, whoever loads it: npublas itself with
``runtime="simulator"``, a ctypes program, or a test.

Examples
--------
>>> from npublas.testing import simulator
>>> with simulator.settings(strict=1, context_limit=8):
...     simulator.setting("context_limit")
8
>>> with simulator.fault("submit_failure", nth=2):
...     simulator.counters()["faults"]
0

``docs/simulator.md`` lists every setting, fault and counter.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "LIBRARY_NAME",
    "TYPES",
    "RunTime",
    "arm",
    "counters",
    "disarm",
    "fault",
    "fired",
    "last_violation",
    "library",
    "names",
    "path",
    "release",
    "reset",
    "reset_counters",
    "run_time",
    "run_times",
    "set",
    "setting",
    "settings",
    "timeline",
]

LIBRARY_NAME = "libnpublas_simulator.so"

#: The vendor's numbers of the types whose products can be timed.
TYPES = {
    "float16": 1,
    "int8": 2,
    "int8_to_int8": 3,
    "float16_to_float16": 4,
    "int8_to_float32": 9,
    "int4": 10,
}

_KINDS = ("setting", "fault", "counter")


def path() -> Path:
    """Where the simulator's library is: beside the package's extension modules.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileNotFoundError
        If the package was installed without it.

    Examples
    --------
    >>> path().name
    'libnpublas_simulator.so'
    """
    # In an editable install the libraries lie elsewhere than the Python files.
    package = importlib.util.find_spec("npublas")
    folders = [Path(p) for p in (package and package.submodule_search_locations) or []]
    core = importlib.util.find_spec("npublas._core")
    if core is not None and core.origin is not None:
        folders.append(Path(core.origin).parent)
    for folder in folders:
        if (folder / LIBRARY_NAME).is_file():
            return folder / LIBRARY_NAME
    searched = ", ".join(str(folder) for folder in folders) or "no folder at all"
    raise FileNotFoundError(f"there is no {LIBRARY_NAME} in {searched}: install npublas again")


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library, with the control functions' signatures declared.

    Returns
    -------
    ctypes.CDLL
    """
    lib = ctypes.CDLL(str(path()))
    text, integer, pointer = ctypes.c_char_p, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
    signatures = {
        "set": (ctypes.c_int, [text, integer]),
        "set_text": (ctypes.c_int, [text, text]),
        "get": (ctypes.c_int, [text, pointer]),
        "arm": (ctypes.c_int, [text, integer, integer]),
        "disarm": (ctypes.c_int, [text]),
        "fired": (ctypes.c_int, [text, pointer]),
        "release": (None, []),
        "counter": (ctypes.c_int, [text, pointer]),
        "reset": (None, []),
        "reset_counters": (None, []),
        "setting_name": (text, [ctypes.c_int]),
        "fault_name": (text, [ctypes.c_int]),
        "counter_name": (text, [ctypes.c_int]),
        "last_violation": (None, [text, ctypes.c_size_t]),
        "model": (ctypes.c_int, [ctypes.c_void_p, integer]),
        "timeline": (
            ctypes.c_int,
            [integer, *[ctypes.c_void_p] * 5, *[ctypes.c_double] * 3, *[ctypes.c_void_p] * 2],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, f"npublas_simulator_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


def names(kind: str) -> list[str]:
    """All names of a kind.

    Parameters
    ----------
    kind : {"setting", "fault", "counter"}

    Raises
    ------
    ValueError
        If it is none of these.

    Examples
    --------
    >>> names("setting")[:2]
    ['strict', 'bind_syncs']
    """
    if kind not in _KINDS:
        raise ValueError(f"there are no names of kind {kind!r}; the kinds are {', '.join(_KINDS)}")
    lister = getattr(library(), f"npublas_simulator_{kind}_name")
    found: list[str] = []
    while (name := lister(len(found))) is not None:
        found.append(name.decode())
    return found


def _ask(function: str, kind: str, name: str) -> int:
    value = ctypes.c_int64()
    status = getattr(library(), f"npublas_simulator_{function}")(
        _encoded(kind, name), ctypes.byref(value)
    )
    if status:
        raise _unknown(kind, name)
    return value.value


def _encoded(kind: str, name: str) -> bytes:
    """The name for C, which would read it up to its first NUL only."""
    if "\0" in name:
        raise _unknown(kind, name)
    return name.encode(errors="replace")  # no name has what UTF-8 can't encode


def _unknown(kind: str, name: str) -> ValueError:
    return ValueError(f"the simulator has no {kind} {name!r}; it has {', '.join(names(kind))}")


def setting(name: str) -> int:
    """The current value of a setting.

    Examples
    --------
    >>> setting("fd_limit")
    1024
    """
    return _ask("get", "setting", name)


def set(name: str, value: int | str) -> None:
    """Change a setting until `reset`; `settings` is the same for a ``with`` block.

    Parameters
    ----------
    name : str
    value : int or str
        A number, or one of the setting's words (``isa="baseline"``).

    Raises
    ------
    TypeError
        If the value is neither an integer nor a str: 1.7 would silently be 1.
    ValueError
        If there is no such setting, or if it does not take the value.
    """
    setting(name)  # or it raises
    if isinstance(value, str):
        # C would read the word up to its first NUL only.
        refused = "\0" in value or library().npublas_simulator_set_text(
            name.encode(), value.encode(errors="replace")
        )
    else:
        number = operator.index(value)
        # ctypes would cut the number to 64 bits.
        refused = number.bit_length() > 63 or library().npublas_simulator_set(name.encode(), number)
    if refused:
        raise ValueError(f"the simulator's setting {name!r} does not take {value!r}")


@contextmanager
def settings(**values: int | str) -> Iterator[None]:
    """Settings for a ``with`` block; afterwards they are what they were.

    Examples
    --------
    >>> with settings(isa="baseline"):
    ...     setting("isa")
    1
    """
    before = {name: setting(name) for name in values}
    try:
        for name, value in values.items():
            set(name, value)
        yield
    finally:
        for name, old in before.items():
            set(name, old)


def arm(kind: str, nth: int = 1, count: int = 1) -> None:
    """Make a fault fire at the `nth` chance from now, `count` times in a row.

    Parameters
    ----------
    kind : str
        A name out of ``names("fault")``.
    nth : int
        1 is the next chance.
    count : int
        0 means from then on.
    """
    if library().npublas_simulator_arm(_encoded("fault", kind), nth, count):
        if kind not in names("fault"):
            raise _unknown("fault", kind)
        raise ValueError(f"nth={nth} must be at least 1 and count={count} at least 0")


def disarm(kind: str) -> None:
    """Switch a fault off."""
    if library().npublas_simulator_disarm(_encoded("fault", kind)):
        raise _unknown("fault", kind)


@contextmanager
def fault(kind: str, nth: int = 1, count: int = 1) -> Iterator[None]:
    """A fault that is armed for a ``with`` block (see `arm`) and off after it.

    Leaving the block releases runs that hang by ``"hang"``.

    Examples
    --------
    >>> with fault("zeros", count=0):
    ...     fired("zeros")
    0
    """
    arm(kind, nth, count)
    try:
        yield
    finally:
        disarm(kind)
        if kind == "hang":
            release()


def fired(kind: str) -> int:
    """How often a fault has fired since it was armed."""
    return _ask("fired", "fault", kind)


def release() -> None:
    """Let every run that hangs by the fault ``"hang"`` go on; it succeeds, late."""
    library().npublas_simulator_release()


def counters() -> dict[str, int]:
    """All counters: what is alive, the peaks, what was done, and the calls of each function.

    Examples
    --------
    >>> counters()["violations"]
    0
    """
    return {name: _ask("counter", "counter", name) for name in names("counter")}


def reset_counters() -> None:
    """Set the counters to zero, except for what is alive; the peaks start again from there.

    Examples
    --------
    >>> reset_counters()
    >>> counters()["rknn_matmul_run"]
    0
    """
    library().npublas_simulator_reset_counters()


def last_violation() -> str:
    """What the latest violation was, in words; empty if there was none."""
    text = ctypes.create_string_buffer(512)
    library().npublas_simulator_last_violation(text, len(text))
    return text.value.decode(errors="replace")


def reset() -> None:
    """Settings as the process started with them, faults off, counters at zero.

    Contexts and memories that somebody holds stay alive and counted.
    """
    library().npublas_simulator_reset()


class RunTime(NamedTuple):
    """What the clock's model says of one run.

    The fields are those that `run_times` has as columns.
    """

    nanoseconds: float
    """From the call to the end, on a core that is idle."""
    core_nanoseconds: float
    """Of these, the core is busy; behind another run, this and the gap between tasks is all."""
    bytes: float
    """Streamed: A, B as often as the tasks read it, and C."""
    tasks: int
    """Into which the runtime cuts the product."""
    reusing: int
    """Of these, how many find their part of B in the core's buffer."""
    tile_rows: int
    """Rows of the largest task."""
    piece_columns: int
    """Columns of the first piece of B."""
    passes: float
    """How often B is streamed."""


_MODEL = np.dtype(
    [(name, np.int32) for name in ("type", "m", "k", "n", "native", "cores")]
    + [
        (
            name,
            float if name in ("nanoseconds", "core_nanoseconds", "bytes", "passes") else np.int64,
        )
        for name in RunTime._fields
    ]
)


def run_times(
    type: str,
    m: npt.ArrayLike,
    k: npt.ArrayLike,
    n: npt.ArrayLike,
    *,
    native: npt.ArrayLike = True,
    cores: npt.ArrayLike = 1,
) -> npt.NDArray[Any]:
    """What the clock's model says of runs of many products, without running any.

    It goes by the settings as they are; while the clock is off, by the profile ``target``. It takes
    some 30 ns for a product.

    Parameters
    ----------
    type : str
        Out of `TYPES`.
    m, k, n : array_like of int
        The shapes, which broadcast. K must be a multiple of 32, N of 16 (float16), 32 (int8) or 64
        (int4).
    native : array_like of bool
        The layout of A and C; B is always native.
    cores : array_like of int
        How many cores run such a product at the same time and share the memory.

    Returns
    -------
    numpy.ndarray
        A structured array with the fields of `RunTime`, and the arguments besides.

    Raises
    ------
    ValueError
        If there is no such type, or a product that no context could have.

    Examples
    --------
    >>> times = run_times("int8", 128, 1024, [1024, 2048, 4096])
    >>> times["tasks"]
    array([1, 1, 1])
    """
    if type not in TYPES:
        raise ValueError(f"there is no type {type!r}; the types are {', '.join(TYPES)}")
    arguments = np.broadcast_arrays(TYPES[type], m, k, n, native, cores)
    runs = np.zeros(arguments[0].shape, _MODEL)
    for name, value in zip(_MODEL.names or (), arguments, strict=False):
        runs[name] = value
    if library().npublas_simulator_model(runs.ctypes.data, runs.size):
        raise ValueError(
            f"no context has such a product: type {type}, with M from {np.min(m)}, K from "
            f"{np.min(k)} and N from {np.min(n)}, on {np.min(cores)} to {np.max(cores)} cores"
        )
    return runs


def run_time(
    type: str,
    m: int,
    k: int,
    n: int,
    *,
    native: bool = True,
    cores: int = 1,
) -> RunTime:
    """What the clock's model says of a run of one product; `run_times` is the same for many.

    Examples
    --------
    >>> time = run_time("float16", 128, 1024, 8192)
    >>> time.tasks, time.passes
    (4, 2.0)
    >>> run_time("float16", 128, 1024, 4096, native=False).passes
    1.0
    """
    run = run_times(type, m, k, n, native=native, cores=cores)
    return RunTime(*(run[name].item() for name in RunTime._fields))


def timeline(
    cores: npt.ArrayLike,
    arrivals: npt.ArrayLike,
    *,
    alone: npt.ArrayLike,
    bytes: npt.ArrayLike,
    fixed: npt.ArrayLike = 0,
    memory: float = 24.0,
    submit: float = 60_000.0,
    task: float = 3_000.0,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """When runs start and end that arrive at given times: the clock's model of cores and memory.

    Parameters
    ----------
    cores : array_like of int
        0 to 2, or -1 for the one that is free first.
    arrivals : array_like of float
        Nanoseconds, as all times; in any order.
    alone, bytes, fixed : array_like of float
        How long each run streams by itself, the bytes that it needs of the memory in that time, and
        how long its core is busy besides.
    memory : float
        GB/s of all cores.
    submit, task : float
        What comes before a run on an idle core, and behind another run.

    Returns
    -------
    tuple of numpy.ndarray
        Starts and ends.

    Raises
    ------
    ValueError
        If there is no such core, or a time or a number of bytes is negative.

    Examples
    --------
    >>> starts, ends = timeline([0, 0], [0, 0], alone=1e6, bytes=1e6)
    >>> starts
    array([  60000., 1063000.])
    """
    numbers = np.broadcast_arrays(*np.atleast_1d(cores, arrivals, fixed, alone, bytes))
    core, *rest = [
        np.ascontiguousarray(x, np.int32 if not i else float) for i, x in enumerate(numbers)
    ]
    starts, ends = np.empty(core.shape), np.empty(core.shape)
    if library().npublas_simulator_timeline(
        core.size,
        core.ctypes.data,
        *(values.ctypes.data for values in rest),
        memory,
        submit,
        task,
        starts.ctypes.data,
        ends.ctypes.data,
    ):
        raise ValueError("a core is not one of -1 to 2, or a time or a number of bytes is negative")
    return starts, ends

"""Settings, and how far each of them reaches.

Three layers, the later one wins:

- the process: environment variables at import, then `set_config`, for all threads at once;
- a context: `config_context`, for a ``with`` block and what it calls (a context variable, so
  threads and tasks don't disturb each other; `wrap` carries it into a thread pool);
- one call: ``npublas.matmul(..., precision=..., device=...)``.

The loops of ``npublas.matmul`` read the first two as packed integers; `_SHIFTS` is the Python side
of the packing that ``csrc/numpy/call.hpp`` describes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable, Mapping
from contextvars import Token
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from npublas import _environment, _ufuncs
from npublas._types import (
    MAX_CORES,
    Device,
    Float64,
    MemoryLimit,
    OnFallback,
    Precision,
    Runtime,
    Threads,
    read_cores,
    read_memory_limit,
    read_runtime,
    read_threads,
)
from npublas.errors import ConfigurationError

__all__ = ["Config", "config_context", "get_config", "on_process_change", "set_config", "wrap"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# The settings that a loop reads, with their values in the order of the C++ enumerations.
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "device": ("auto", "npu", "cpu"),
    "precision": ("float32", "float16", "int8"),
    "float64": ("cpu", "float32"),
    "on_fallback": ("allow", "warn", "error"),
}
_PROCESS_CHOICES = {**_CHOICES, "precision": ("float32", "float16")}
_SHIFTS: Mapping[str, int] = {"device": 0, "precision": 2, "float64": 4, "on_fallback": 5}
_MASKS: Mapping[str, int] = {"device": 3, "precision": 3, "float64": 1, "on_fallback": 3}
_OVERRIDE_SHIFT = 8
_PRECISION_ASKED = 1 << 7  # in an override: by a call, not by a context
# A number, 0 for "auto".
_THREADS_SHIFT, _THREADS_MASK = 16, 127

# What a context may change, and the process.
_OF_A_CONTEXT = (*_CHOICES, "threads")

# The settings of the one engine that a process has.
_PROCESS_ONLY = ("runtime", "memory_limit", "cores")


@dataclass(frozen=True)
class Config:
    """The settings that hold, as `get_config` returns them.

    It is only returned: nothing takes one, and making one checks no value. `set_config` and
    `config_context` check what they are given.
    """

    device: Device = "auto"
    precision: Precision = "float32"
    float64: Float64 = "cpu"
    on_fallback: OnFallback = "allow"
    runtime: str = "auto"
    memory_limit: int | str = "auto"  # bytes
    cores: int = MAX_CORES
    threads: int | str = "auto"

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)


def set_config(
    *,
    device: Device | None = None,
    precision: Precision | None = None,
    float64: Float64 | None = None,
    on_fallback: OnFallback | None = None,
    runtime: Runtime | None = None,
    memory_limit: MemoryLimit | None = None,
    cores: int | None = None,
    threads: Threads | None = None,
    **unknown: NoReturn,
) -> None:
    """Change settings for the whole process, all threads at once.

    What is left out (or None) stays as it is. If one of them is wrong, none is changed.

    Parameters
    ----------
    device : {'auto', 'npu', 'cpu'}
        Where products are computed. ``'auto'`` (the start) chooses what is predicted to be faster;
        ``'npu'`` means that whatever the NPU can do runs there, however small, and that a missing
        NPU is an error.
    precision : {'float32', 'float16'}
        How products of float32 operands are computed. ``'int8'`` is for `config_context` and single
        calls only.
    float64 : {'cpu', 'float32'}
        What to do with float64 operands: leave them to NumPy (the start), or round them to float32,
        and compute as `precision` says.
    on_fallback : {'allow', 'warn', 'error'}
        What to do when a product was meant for the NPU and could not run there: compute it on the
        CPU silently (the start), with a `FallbackWarning`, or raise `FallbackError`.
    runtime : {'auto', 'simulator'} or path
        The vendor's library: found where it usually is (the start), the simulator that comes with
        npublas, or the library at a path.
    memory_limit : int or str
        The largest amount of memory that the NPU may take, in bytes or as ``'512MiB'``, or
        ``'auto'`` (the start): the smallest of 1 GiB, a quarter of the available memory and the
        cgroup's limit, but at least 8 MiB. From 256 KiB to 1 TiB.
    cores : int
        How many of the NPU's cores are used, 1 to 3 (the start).
    threads : int or 'auto'
        How many threads of the host pack and unpack for a product that runs on the NPU, 1 to 127.
        ``'auto'`` (the start) is 4. Never more than the CPUs that the caller may run on, than
        ``OMP_NUM_THREADS`` says, or than the CPUs' time that the control group has.

    Raises
    ------
    ConfigurationError
        If a name is unknown or a value is none of the above.
    NpuError
        If `runtime`, `memory_limit` or `cores` is to change while the NPU is busy.

    See Also
    --------
    config_context, get_config

    Examples
    --------
    >>> import npublas
    >>> npublas.set_config(on_fallback="warn")
    >>> npublas.get_config().on_fallback
    'warn'
    >>> npublas.set_config(on_fallback="allow")
    """
    global _process, _process_settings
    changes = _checked(
        "set_config",
        {
            "device": device,
            "precision": precision,
            "float64": float64,
            "on_fallback": on_fallback,
            "runtime": runtime,
            "memory_limit": memory_limit,
            "cores": cores,
            "threads": threads,
        },
        unknown,
        _PROCESS_CHOICES,
    )
    with _process_lock:
        new = replace(_process, **changes)
        if _process_change and any(getattr(new, n) != getattr(_process, n) for n in _PROCESS_ONLY):
            _process_change(_process, new)
        _process = new
        _process_settings = _packed(new.to_dict())[1]
        _ufuncs.set_default_settings(_process_settings)


def get_config() -> Config:
    """The settings that hold here: the process's, changed by the `config_context` that we are in.

    Examples
    --------
    >>> import npublas
    >>> with npublas.config_context(device="cpu"):
    ...     npublas.get_config().device
    'cpu'
    """
    return replace(_process, **_changes(_ufuncs.override.get(0)))


def process() -> Config:
    """The settings of the process, without the `config_context` that we are in."""
    return _process


def config_context(
    *,
    device: Device | None = None,
    precision: Precision | None = None,
    float64: Float64 | None = None,
    on_fallback: OnFallback | None = None,
    threads: Threads | None = None,
    **unknown: NoReturn,
) -> _ConfigContext:
    """Change settings for a ``with`` block and what it calls; also a decorator.

    The change is seen by this thread or task only; `wrap` carries it into other threads. Contexts
    nest, and what is left out (or None) stays as it is around them. As a decorator it takes
    functions that run when they are called; in a coroutine or a generator, use the block.

    Parameters
    ----------
    device, precision, float64, on_fallback, threads
        As for `set_config`; `precision` may also be ``'int8'`` here.

    Raises
    ------
    ConfigurationError
        If a name is unknown or belongs to the process, or a value is not one of those allowed.

    Examples
    --------
    >>> import numpy as np
    >>> import npublas
    >>> a = np.ones((2, 2), np.float32)
    >>> with npublas.config_context(device="cpu", precision="float16"):
    ...     npublas.matmul(a, a)
    array([[2., 2.],
           [2., 2.]], dtype=float32)
    """
    changes = {
        "device": device,
        "precision": precision,
        "float64": float64,
        "on_fallback": on_fallback,
        "threads": threads,
    }
    for name in _PROCESS_ONLY:
        if name in unknown:
            raise ConfigurationError(
                f"{name} belongs to the process: use set_config({name}=...) or the environment "
                f"variable NPUBLAS_{name.upper()}; config_context() has {', '.join(_OF_A_CONTEXT)}"
            )
    return _ConfigContext(_checked("config_context", changes, unknown))


def wrap(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function that runs `function` with the settings that hold here and now.

    A `config_context` does not reach into threads that were started elsewhere, such as those of a
    thread pool. A wrapped function takes it there.

    Parameters
    ----------
    function : callable
        Not a coroutine function or a generator function: what they return runs later.

    Returns
    -------
    callable
        With the same arguments and result.

    Raises
    ------
    TypeError
        If `function` can't be called, or its body does not run when it is called.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import npublas
    >>> def device():
    ...     return npublas.get_config().device
    >>> with npublas.config_context(device="cpu"), ThreadPoolExecutor(1) as pool:
    ...     pool.submit(device).result(), pool.submit(npublas.wrap(device)).result()
    ('auto', 'cpu')
    """
    check_runs_when_called("wrap()", function)
    override = _ufuncs.override.get(0)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        token = _ufuncs.override.set(override)
        try:
            return function(*args, **kwargs)
        finally:
            _ufuncs.override.reset(token)

    return run


def on_process_change(callback: Callable[[Config, Config], None]) -> None:
    """Register who owns the engine: called with the old and the new settings before `runtime`,
    `memory_limit` or `cores` changes. It closes the idle engine, or raises to refuse the change.
    """
    global _process_change
    _process_change = callback


class _ConfigContext(contextlib.ContextDecorator):
    """What `config_context` returns."""

    def __init__(self, changes: dict[str, Any]) -> None:
        self._changes = changes
        self._tokens: list[Token[int]] = []

    def __enter__(self) -> None:
        mask, values = _packed(self._changes)
        outer = _ufuncs.override.get(0)
        if "precision" in self._changes:
            outer &= ~_PRECISION_ASKED
        merged = (outer & ~mask) | values | (mask << _OVERRIDE_SHIFT)
        _ufuncs.watch_overrides()
        self._tokens.append(_ufuncs.override.set(merged))

    def __exit__(self, *exception: object) -> None:
        _ufuncs.override.reset(self._tokens.pop())

    def __call__(self, func: F) -> F:
        check_runs_when_called("config_context() as a decorator", func)
        return super().__call__(func)

    def _recreate_cm(self) -> _ConfigContext:
        return _ConfigContext(self._changes)  # a decorated function may run in many threads

    def __repr__(self) -> str:
        changes = ", ".join(f"{name}={value!r}" for name, value in self._changes.items())
        return f"config_context({changes})"


def check_runs_when_called(
    caller: str,
    function: object,
    what: str = "change the settings of",
    instead: str = "with npublas.config_context(...)",
) -> None:
    """Refuse what would run after the call of it has ended."""
    if not callable(function):
        raise TypeError(f"{caller} needs a function, not {type(function).__name__}")
    for test, kind in (
        (inspect.iscoroutinefunction, "coroutine"),
        (inspect.isgeneratorfunction, "generator"),
        (inspect.isasyncgenfunction, "asynchronous generator"),
    ):
        if test(function) or test(function.__call__):
            raise TypeError(
                f"{caller} can't {what} a {kind} function, which runs after the "
                f"call has returned: use `{instead}` inside it"
            )


def packed(*, precision: Precision | None = None, device: Device | None = None) -> int:
    """The settings that a call here would have, packed for the core."""
    override = _ufuncs.override.get(0)
    mask = override >> _OVERRIDE_SHIFT
    settings = (_process_settings & ~mask) | (override & mask)
    if precision is None and device is None:
        return settings
    try:
        mask, values = _of_a_call(precision, device)
    except TypeError:  # what can't be hashed is no setting, and the error says so
        mask, values = _of_a_call.__wrapped__(precision, device)
    return (settings & ~mask) | values


def precision_asked() -> Precision | None:
    """What the call of `matmul` that we are in says of the precision, not the settings around it.

    NumPy hands operands like packed weights to their own code, which sees no ``precision=``.
    """
    override = _ufuncs.override.get(0)
    if not override & _PRECISION_ASKED:
        return None
    return cast("Precision", unpacked(override)["precision"])


@functools.lru_cache(maxsize=64)
def _of_a_call(precision: Precision | None, device: Device | None) -> tuple[int, int]:
    return _packed(_checked("matmul", {"precision": precision, "device": device}, {}))


def demands_npu(settings: int) -> bool:
    """Whether packed settings say that the NPU takes whatever it can."""
    return settings >> _SHIFTS["device"] & _MASKS["device"] == _CHOICES["device"].index("npu")


def unpacked(settings: int) -> dict[str, Any]:
    """Packed settings by name."""
    names: dict[str, Any] = {
        name: choices[settings >> _SHIFTS[name] & _MASKS[name]]
        for name, choices in _CHOICES.items()
    }
    return {**names, "threads": settings >> _THREADS_SHIFT & _THREADS_MASK or "auto"}


def _packed(settings: Mapping[str, Any]) -> tuple[int, int]:
    """The mask of the packed settings that `settings` has, and their values."""
    mask = values = 0
    for name in _CHOICES.keys() & settings.keys():
        mask |= _MASKS[name] << _SHIFTS[name]
        values |= _CHOICES[name].index(settings[name]) << _SHIFTS[name]
    if "threads" in settings:
        threads = settings["threads"]
        mask |= _THREADS_MASK << _THREADS_SHIFT
        values |= (threads if isinstance(threads, int) else 0) << _THREADS_SHIFT
    return mask, values


def _changes(override: int) -> dict[str, Any]:
    """The settings that an override says something about, by name."""
    mask = override >> _OVERRIDE_SHIFT
    settings = unpacked(override)
    said = {name for name in _CHOICES if mask >> _SHIFTS[name] & _MASKS[name]}
    if mask >> _THREADS_SHIFT & _THREADS_MASK:
        said.add("threads")
    return {name: settings[name] for name in settings if name in said}


def _checked(
    caller: str,
    settings: Mapping[str, object],
    unknown: Mapping[str, object],
    choices: Mapping[str, tuple[str, ...]] = _CHOICES,
) -> dict[str, Any]:
    """The settings that are not None, checked and in their final form."""
    for name in unknown:
        raise ConfigurationError(
            f"{caller}() has no setting {name!r}; the settings are {', '.join(settings)}"
        )
    return {
        name: _checked_value(name, value, choices)
        for name, value in settings.items()
        if value is not None
    }


_READERS: Mapping[str, Callable[[object], Any]] = {
    "runtime": read_runtime,
    "memory_limit": read_memory_limit,
    "cores": read_cores,
    "threads": read_threads,
}


def _checked_value(
    name: str, value: object, choices: Mapping[str, tuple[str, ...]] = _CHOICES
) -> object:
    if name not in choices:
        return _READERS[name](value)
    if isinstance(value, str) and value in choices[name]:
        return value
    *first, last = map(repr, choices[name])
    error = f"{name} must be {', '.join(first)} or {last}, not {value!r}"
    if isinstance(value, str) and value in _CHOICES[name]:
        error += f"; that is for a config_context({name}={value!r}) or a single call"
    raise ConfigurationError(error)


def _from_environment(environment: Mapping[str, str]) -> tuple[Config, bool]:
    """The settings that a process starts with, and whether it is verbose. Empty counts as not set.

    Raises
    ------
    ConfigurationError
        That names the variable, its value, and the values that it may have.
    """
    settings = {f"NPUBLAS_{name.upper()}": name for name in (*_OF_A_CONTEXT, *_PROCESS_ONLY)}
    _environment.check(environment, settings)
    changes: dict[str, Any] = {}
    for variable, name in settings.items():
        text = environment.get(variable, "")
        if not text:
            continue
        digit = (
            name in ("cores", "threads") and len(text) <= 3 and text.isascii() and text.isdigit()
        )
        try:
            changes[name] = _checked_value(name, int(text) if digit else text, _PROCESS_CHOICES)
        except ConfigurationError as error:
            raise ConfigurationError(f"environment variable {variable}={text}: {error}") from None
    if changes.get("runtime") not in (None, "simulator"):
        # A path in the environment says where "auto" looks first, and "auto" takes no simulator.
        del changes["runtime"]
    return Config(**changes), _environment.switch("NPUBLAS_VERBOSE", environment)


def _restart_after_fork() -> None:
    global _process_lock
    _process_lock = threading.RLock()  # a thread that is not there any more may hold the old one


os.register_at_fork(after_in_child=_restart_after_fork)
_process_lock = threading.RLock()
_process_change: Callable[[Config, Config], None] | None = None
_process, starts_verbose = _from_environment(os.environ)
_process_settings = _packed(_process.to_dict())[1]
_ufuncs.set_default_settings(_process_settings)

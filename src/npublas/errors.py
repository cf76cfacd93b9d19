"""What can go wrong, as classes.

``NpuError`` is what the NPU does; ``ConfigurationError`` is what was asked of npublas and can't be.
Everything that can be computed on the CPU is, so most of these are seen only by those who ask for
them: with ``device="npu"`` (no NPU is an error) or ``on_fallback="error"``.
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "FallbackError",
    "FallbackWarning",
    "NpuDeviceError",
    "NpuError",
    "NpuMemoryError",
    "NpuResultError",
    "NpuTimeoutError",
    "NpuUnavailableError",
    "TuningFileError",
    "WeightsFileError",
]


class NpuError(Exception):
    """Anything that goes wrong with the NPU."""


class NpuUnavailableError(NpuError):
    """There is no NPU that can be used; the message names the cause and its cure."""


class NpuMemoryError(NpuError, MemoryError):
    """The NPU's memory window, or the device's own memory, is exhausted."""


class NpuTimeoutError(NpuError, TimeoutError):
    """A product did not come back from the NPU in time."""


class NpuResultError(NpuError):
    """The NPU answered, and the answer is wrong."""


class NpuDeviceError(NpuError):
    """A call to the NPU's runtime failed."""


class FallbackError(NpuError):
    """A product for the NPU could not run there, and ``on_fallback="error"`` forbids the CPU."""


class FallbackWarning(RuntimeWarning):
    """A product for the NPU was computed on the CPU; given under ``on_fallback="warn"``."""


class WeightsFileError(NpuError, ValueError):
    """A file of packed weights is truncated, altered, of a newer version, or none at all."""


class TuningFileError(NpuError, ValueError):
    """A file is no tuning of npublas, or none that this version can use."""


class ConfigurationError(ValueError):
    """A setting has an unknown name or a value that it can't have."""


for _class in list(vars().values()):
    if isinstance(_class, type) and issubclass(_class, BaseException):
        _class.__module__ = "npublas"  # where users find them
del _class

"""NumPy's matrix product on the Rockchip RK3588 NPU.

`npublas.matmul` is a drop-in for `numpy.matmul`: same rules, right numbers, on the NPU where that
is faster, on the CPU where it isn't. Importing this package opens nothing, prints nothing, and
patches nothing.

>>> import numpy as np, npublas
>>> npublas.matmul(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
array([[1., 2.],
       [3., 4.]])
"""

from npublas import _cache, _engine, _log, _stats, _ufuncs
from npublas._async import matmul_async, pipeline
from npublas._cache import freeze
from npublas._calibrate import Calibration, calibrate
from npublas._config import Config, config_context, get_config, set_config, starts_verbose, wrap
from npublas._decide import Explanation, Plan, RunnerUp, explain
from npublas._error_report import ErrorReport, error_report
from npublas._info import info, is_available, show_versions
from npublas._linear import gemm, linear
from npublas._matmul import ufunc as matmul
from npublas._packed import PackedMatrix, load, pack
from npublas._profile import Profile, profile
from npublas._quantize import dequantize, quantize
from npublas._quantized import QuantizedMatrix
from npublas._stats import Counters, MemoryInfo, counters, memory_info, reset_counters
from npublas._threadpool import register_threadpoolctl
from npublas._tune import Tuning, tune
from npublas._version import __version__
from npublas.errors import (
    ConfigurationError,
    FallbackError,
    FallbackWarning,
    NpuDeviceError,
    NpuError,
    NpuMemoryError,
    NpuResultError,
    NpuTimeoutError,
    NpuUnavailableError,
    TuningFileError,
    WeightsFileError,
)

__all__ = [
    "Calibration",
    "Config",
    "ConfigurationError",
    "Counters",
    "ErrorReport",
    "Explanation",
    "FallbackError",
    "FallbackWarning",
    "MemoryInfo",
    "NpuDeviceError",
    "NpuError",
    "NpuMemoryError",
    "NpuResultError",
    "NpuTimeoutError",
    "NpuUnavailableError",
    "PackedMatrix",
    "Plan",
    "Profile",
    "QuantizedMatrix",
    "RunnerUp",
    "Tuning",
    "TuningFileError",
    "WeightsFileError",
    "__version__",
    "calibrate",
    "config_context",
    "counters",
    "dequantize",
    "error_report",
    "explain",
    "freeze",
    "gemm",
    "get_config",
    "info",
    "is_available",
    "linear",
    "load",
    "matmul",
    "matmul_async",
    "memory_info",
    "pack",
    "pipeline",
    "profile",
    "quantize",
    "register_threadpoolctl",
    "reset_counters",
    "set_config",
    "show_versions",
    "tune",
    "wrap",
]

_ufuncs.set_hooks(
    open_engine=_engine.open_engine,
    fallback=_log.fallback,
    product=_log.product,
    cached=_cache.multiply,
    news=_log.news,
)
_stats.on_cache(_cache.cache_info, _cache.reset)
_log.set_verbose(starts_verbose)

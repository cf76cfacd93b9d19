"""
The core of npublas: engine, plans and layouts. Private; use the npublas package.
"""
from __future__ import annotations
import numpy
import numpy.typing
import typing
__all__: list[str] = ['OLDEST_DRIVER', 'OLDEST_RUNTIME', 'RECOMMENDED_DRIVER', 'RECOMMENDED_RUNTIME', 'chip_name', 'close_engine', 'counts', 'decide', 'engine_state', 'engine_status', 'layout_index', 'make_unavailable', 'open_engine', 'pack', 'parse_version', 'plan', 'probe_runtime', 'product_is_zero', 'read_runtime', 'reset_counts', 'runtime_candidates', 'simulator_path', 'soc_name', 'unpack_into']
def chip_name(compatible: bytes) -> str:
    """
    Return the supported chip of a device tree, '' if it has none.
    """
def close_engine() -> None:
    ...
def counts() -> list[typing.Any]:
    ...
def decide(settings: typing.SupportsInt | typing.SupportsIndex, in_dtype: str, out_dtype: str, batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex) -> dict[str, typing.Any]:
    ...
def engine_state() -> str:
    ...
def engine_status() -> dict[str, typing.Any]:
    ...
def layout_index(arg0: str, arg1: str, arg2: typing.SupportsInt | typing.SupportsIndex, arg3: typing.SupportsInt | typing.SupportsIndex, arg4: typing.SupportsInt | typing.SupportsIndex) -> int:
    ...
def make_unavailable(because: str, *, for_good: bool) -> None:
    ...
def open_engine(*, runtime: str, memory_limit: typing.SupportsInt | typing.SupportsIndex, cores: typing.SupportsInt | typing.SupportsIndex, lock_file: str, lock_patience_ms: typing.SupportsInt | typing.SupportsIndex, run_patience_ms: typing.SupportsInt | typing.SupportsIndex) -> bool:
    ...
def pack(matrix: numpy.ndarray, element: str, *, is_a: bool, surface_lanes: typing.SupportsInt | typing.SupportsIndex, surface_depth: typing.SupportsInt | typing.SupportsIndex) -> tuple[typing.Any, ...]:
    ...
def parse_version(text: str) -> tuple[int, int, int]:
    """
    Return the first version in a text, (0, 0, 0) if there is none.
    """
def plan(batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, element: str, *, window_bytes: typing.SupportsInt | typing.SupportsIndex = 1073741824, cores: typing.SupportsInt | typing.SupportsIndex = 3, max_depth: typing.SupportsInt | typing.SupportsIndex = 8192, max_rows: typing.SupportsInt | typing.SupportsIndex = 2044, max_columns: typing.SupportsInt | typing.SupportsIndex = 8192) -> typing.Any:
    ...
def probe_runtime(runtime: str) -> dict[str, typing.Any]:
    """
    Load a runtime, without talking to a device, and return what it is. Throws NpuError.
    """
def product_is_zero(a: numpy.ndarray, b: numpy.ndarray, element: str, *, rows: typing.SupportsInt | typing.SupportsIndex, depth: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex, flushes_subnormals: bool = False) -> bool:
    ...
def read_runtime(path: str) -> dict[str, typing.Any]:
    """
    Return what a library file says of itself and what that means, without loading it.
    """
def reset_counts() -> None:
    ...
def runtime_candidates() -> list[str]:
    """
    Return the places where runtime='auto' looks for librknnrt.so, in order.
    """
def simulator_path() -> str:
    """
    Return the path of the simulator that runtime='simulator' loads.
    """
def soc_name(compatible: bytes) -> str:
    """
    Return the Rockchip SoC of a device tree, '' if it has none.
    """
def unpack_into(surface: numpy.ndarray, element: str, *, surface_rows: typing.SupportsInt | typing.SupportsIndex, row_exponents: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], column_exponents: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], accumulate: bool, target: numpy.ndarray) -> dict[str, typing.Any]:
    ...
OLDEST_DRIVER: tuple[typing.Any, ...] = (0, 9, 6)
OLDEST_RUNTIME: tuple[typing.Any, ...] = (1, 6, 0)
RECOMMENDED_DRIVER: tuple[typing.Any, ...] = (0, 9, 8)
RECOMMENDED_RUNTIME: tuple[typing.Any, ...] = (2, 3, 2)

"""
The core of npublas: engine, plans and layouts. Private; use the npublas package.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
import typing_extensions
__all__: list[str] = ['File', 'OLDEST_DRIVER', 'OLDEST_RUNTIME', 'RECOMMENDED_DRIVER', 'RECOMMENDED_RUNTIME', 'Weights', 'activate', 'chip_name', 'close_engine', 'count', 'counts', 'decide', 'engine_state', 'engine_status', 'finish', 'forget', 'has_low_parts', 'instruction_set', 'instruction_sets', 'join_b', 'layout_index', 'make_unavailable', 'method_of', 'multiply', 'open_engine', 'pack', 'pack_tiles', 'parse_version', 'plan', 'plan_for', 'probe_runtime', 'product_is_zero', 'read_runtime', 'reset_counts', 'runtime_candidates', 'simulator_path', 'soc_name', 'tile_depth', 'unpack_floats', 'unpack_integers', 'unpack_quantized', 'use_instruction_set']
class File:
    """
    An open file, closed when nobody has it any more.
    """
    def __init__(self, descriptor: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def read(self, offset: typing.SupportsInt | typing.SupportsIndex, size: typing.SupportsInt | typing.SupportsIndex) -> bytes:
        ...
    @property
    def is_regular(self) -> bool:
        ...
    @property
    def size(self) -> int:
        ...
class Weights:
    """
    A stack of packed matrices. Never changes.
    """
    @staticmethod
    def from_buffer(buffer: typing_extensions.Buffer, *, grid: dict[str, typing.Any], entries: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, bool, bool, bool]]) -> Weights:
        """
        Lay weights over read-only bytes, which are kept.
        """
    @staticmethod
    def from_file(file: File, *, offset: typing.SupportsInt | typing.SupportsIndex, size: typing.SupportsInt | typing.SupportsIndex, grid: dict[str, typing.Any], entries: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, bool, bool, bool]]) -> Weights:
        """
        Lay weights over a part of an open file, each tile checked before it is used.
        """
    @staticmethod
    def pack(array: numpy.ndarray, *, dtype: str, method: str, group: typing.SupportsInt | typing.SupportsIndex = 0, scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None) -> tuple[Weights, bool]:
        """
        Pack an array of three dimensions; return whether unpacking restores it, too.
        """
    def check(self) -> None:
        """
        Check every tile that has yet to be.
        """
    def unpack_into(self, target: numpy.ndarray) -> None:
        """
        Unpack to float32, or to the integers that were packed.
        """
    @property
    def data(self) -> memoryview:
        ...
    @property
    def entries(self) -> list[tuple[int, int, int, bool, bool, bool]]:
        ...
    @property
    def grid(self) -> dict[str, typing.Any]:
        ...
    @property
    def id(self) -> int:
        ...
    @property
    def nbytes(self) -> int:
        ...
def activate(arg0: str, arg1: typing.SupportsFloat | typing.SupportsIndex) -> float:
    ...
def chip_name(compatible: bytes) -> str:
    """
    Return the supported chip of a device tree, '' if it has none.
    """
def close_engine() -> None:
    ...
def count(a_dtype: str, batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, code: str, fallback: bool, seconds: typing.SupportsFloat | typing.SupportsIndex) -> None:
    """
    Count a product.
    """
def counts() -> list[typing.Any]:
    ...
def decide(settings: typing.SupportsInt | typing.SupportsIndex, a_dtype: str, b_dtype: str, out_dtype: str, batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, weights: Weights | None = None, b_is_packed: bool = False) -> dict[str, typing.Any]:
    """
    Decide where a product would run, and why; `b_is_packed`: as if it were.
    """
def engine_state() -> str:
    ...
def engine_status() -> dict[str, typing.Any]:
    ...
def finish(sums: numpy.ndarray, target: numpy.ndarray, *, alpha: typing.SupportsFloat | typing.SupportsIndex = 1.0, beta: typing.SupportsFloat | typing.SupportsIndex = 0.0, bias: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None = None, activation: str = 'none', dtype: str | None = None) -> dict[str, typing.Any]:
    ...
def forget(weights: Weights) -> None:
    """
    Free what the NPU's window holds of the weights.
    """
def has_low_parts(operand: numpy.ndarray, *, is_a: bool, tile_depth: typing.SupportsInt | typing.SupportsIndex) -> bool:
    """
    Tell whether an operand in float32 needs more than one float16 for each element.
    """
def instruction_set() -> str:
    ...
def instruction_sets() -> list[typing.Any]:
    ...
def join_b(upper: typing.Annotated[numpy.typing.ArrayLike, numpy.uint16], lower: typing.Annotated[numpy.typing.ArrayLike, numpy.uint16], *, depth: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.uint16]:
    ...
def layout_index(arg0: str, arg1: str, arg2: typing.SupportsInt | typing.SupportsIndex, arg3: typing.SupportsInt | typing.SupportsIndex, arg4: typing.SupportsInt | typing.SupportsIndex) -> int:
    ...
def make_unavailable(because: str, *, for_good: bool) -> None:
    ...
def method_of(a: str, b: str, precision: str) -> str | None:
    ...
def multiply(a: numpy.ndarray, b: numpy.ndarray | None, out: numpy.ndarray, weights: Weights | None, settings: typing.SupportsInt | typing.SupportsIndex, *, bias: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None = None, activation: str = 'none', alpha: typing.SupportsFloat | typing.SupportsIndex = 1.0, beta: typing.SupportsFloat | typing.SupportsIndex = 0.0, a_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None, a_limit: typing.SupportsInt | typing.SupportsIndex = 127, pin: bool = False) -> dict[str, typing.Any]:
    """
    Multiply on the NPU, which is open. Unless 'on_npu', nothing of `out` is a result.
    """
def open_engine(*, runtime: str, memory_limit: typing.SupportsInt | typing.SupportsIndex, cores: typing.SupportsInt | typing.SupportsIndex, lock_file: str, lock_patience_ms: typing.SupportsInt | typing.SupportsIndex, run_patience_ms: typing.SupportsInt | typing.SupportsIndex) -> bool:
    ...
def pack(matrix: numpy.ndarray, coding: str, *, is_a: bool, surface_lanes: typing.SupportsInt | typing.SupportsIndex, surface_depth: typing.SupportsInt | typing.SupportsIndex, limit: typing.SupportsInt | typing.SupportsIndex = 127, scale: typing.SupportsFloat | typing.SupportsIndex = 0.0, dtype: str | None = None, layout: str = 'native') -> tuple[typing.Any, ...]:
    ...
def pack_tiles(matrix: numpy.ndarray, coding: str, *, is_a: bool, tile_lanes: typing.SupportsInt | typing.SupportsIndex, tile_depth: typing.SupportsInt | typing.SupportsIndex, surfaces: numpy.ndarray, low: numpy.ndarray | None = None, dtype: str | None = None, layout: str = 'native') -> None:
    ...
def parse_version(text: str) -> tuple[int, int, int]:
    """
    Return the first version in a text, (0, 0, 0) if there is none.
    """
def plan(batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, method: str, *, window_bytes: typing.SupportsInt | typing.SupportsIndex = 1073741824, cores: typing.SupportsInt | typing.SupportsIndex = 3, max_depth: typing.SupportsInt | typing.SupportsIndex = 8192, max_rows: typing.SupportsInt | typing.SupportsIndex = 2044, max_columns: typing.SupportsInt | typing.SupportsIndex = 8192, packed: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None = None) -> typing.Any:
    ...
def plan_for(settings: typing.SupportsInt | typing.SupportsIndex, a_dtype: str, b_dtype: str, out_dtype: str, batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, weights: Weights | None = None, *, a_limit: typing.SupportsInt | typing.SupportsIndex = 127) -> typing.Any:
    """
    Return how a product would be cut, and how long it would take; or None.
    """
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
def tile_depth(method: str, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, *, group: typing.SupportsInt | typing.SupportsIndex) -> int:
    ...
def unpack_floats(surface: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], cross: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None, *, surface_rows: typing.SupportsInt | typing.SupportsIndex, row_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], column_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], accumulate: bool, target: numpy.ndarray) -> dict[str, typing.Any]:
    ...
def unpack_integers(surface: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], *, surface_rows: typing.SupportsInt | typing.SupportsIndex, row_offsets: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None, column_offsets: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None, accumulate: bool, target: numpy.ndarray) -> dict[str, typing.Any]:
    ...
def unpack_quantized(surface: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], *, surface_rows: typing.SupportsInt | typing.SupportsIndex, row_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], column_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], accumulate: bool, target: numpy.ndarray) -> dict[str, typing.Any]:
    ...
def use_instruction_set(arg0: str) -> None:
    ...
OLDEST_DRIVER: tuple[typing.Any, ...] = (0, 9, 6)
OLDEST_RUNTIME: tuple[typing.Any, ...] = (1, 6, 0)
RECOMMENDED_DRIVER: tuple[typing.Any, ...] = (0, 9, 8)
RECOMMENDED_RUNTIME: tuple[typing.Any, ...] = (2, 3, 2)

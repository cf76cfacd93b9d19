"""
The core of npublas: engine, plans and layouts. Private; use the npublas package.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
import typing_extensions
__all__: list[str] = ['ACTS', 'ELEMENTS', 'File', 'OLDEST_DRIVER', 'OLDEST_RUNTIME', 'RECOMMENDED_DRIVER', 'RECOMMENDED_RUNTIME', 'Recording', 'Weights', 'activate', 'busy', 'chip_name', 'close_engine', 'columns_of_weights', 'count', 'counts', 'current_rates', 'decide', 'engine_state', 'engine_status', 'finish', 'finish_floats', 'finish_quantized', 'forget', 'has_low_parts', 'host_threads', 'instruction_set', 'instruction_sets', 'layout_index', 'make_unavailable', 'measure_handoff', 'measure_host', 'measure_runs', 'measure_window', 'method_of', 'multiply', 'open_engine', 'pack', 'pack_tiles', 'parse_version', 'plan', 'plan_for', 'plans', 'probe_runtime', 'product_is_zero', 'rates', 'read_runtime', 'replay', 'reset_counts', 'run_of', 'runtime_candidates', 'set_correcting', 'set_rates', 'simulator_path', 'soc_name', 'take_news', 'tile_depth', 'unpack_floats', 'unpack_integers', 'unpack_quantized', 'unpack_tiles', 'use_instruction_set']
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
class Recording:
    """
    Records what all threads do, from its making to `stop`.
    """
    def __init__(self) -> None:
        ...
    def stop(self) -> dict[str, typing.Any]:
        """
        Return what was recorded; a second time, nothing.
        """
def activate(arg0: str, arg1: typing.SupportsFloat | typing.SupportsIndex) -> float:
    ...
def busy() -> dict[str, typing.Any]:
    """
    Return for how long each core was busy, and since when.
    """
def chip_name(compatible: bytes) -> str:
    """
    Return the supported chip of a device tree, '' if it has none.
    """
def close_engine() -> None:
    ...
def columns_of_weights(batch: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, method: str) -> int:
    ...
def count(a_dtype: str, batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, code: str, fallback: bool, seconds: typing.SupportsFloat | typing.SupportsIndex) -> None:
    """
    Count a product.
    """
def counts() -> list[typing.Any]:
    ...
def current_rates() -> dict[str, typing.Any]:
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
def finish_floats(main: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], a_low: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None, b_low: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None, target: numpy.ndarray, *, shape: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], layout: str = 'native', row_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], column_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], sums_type: str, alpha: typing.SupportsFloat | typing.SupportsIndex = 1.0, beta: typing.SupportsFloat | typing.SupportsIndex = 0.0, bias: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None = None, activation: str = 'none', dtype: str | None = None) -> tuple[typing.Any, ...]:
    ...
def finish_quantized(sums: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], target: numpy.ndarray, *, shape: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], layout: str = 'native', row_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], column_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], sums_type: str, alpha: typing.SupportsFloat | typing.SupportsIndex = 1.0, beta: typing.SupportsFloat | typing.SupportsIndex = 0.0, bias: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None = None, activation: str = 'none', dtype: str | None = None) -> tuple[typing.Any, ...]:
    ...
def forget(weights: Weights) -> None:
    """
    Free what the NPU's window holds of the weights.
    """
def has_low_parts(operand: numpy.ndarray, *, is_a: bool, tile_depth: typing.SupportsInt | typing.SupportsIndex) -> bool:
    """
    Tell whether an operand in float32 needs more than one float16 for each element.
    """
def host_threads(wanted: typing.SupportsInt | typing.SupportsIndex, most: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Return how many threads a product of this thread has of the host; 0: nothing is said.
    """
def instruction_set() -> str:
    ...
def instruction_sets() -> list[typing.Any]:
    ...
def layout_index(arg0: str, arg1: str, arg2: typing.SupportsInt | typing.SupportsIndex, arg3: typing.SupportsInt | typing.SupportsIndex, arg4: typing.SupportsInt | typing.SupportsIndex) -> int:
    ...
def make_unavailable(because: str, *, for_good: bool) -> None:
    ...
def measure_handoff(seconds: typing.SupportsFloat | typing.SupportsIndex) -> float:
    """
    Wake a thread again and again for so long; return the seconds that it takes to go on.
    """
def measure_host(work: str, threads: typing.SupportsInt | typing.SupportsIndex, seconds: typing.SupportsFloat | typing.SupportsIndex) -> float:
    """
    Pack or unpack for so long; return the bytes read and written per second.
    """
def measure_runs(runtime: str, lock_file: str, patience_ms: typing.SupportsInt | typing.SupportsIndex, *, element: str, shape: typing.Annotated[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(3)"], native: bool = True, cores: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], in_flight: typing.SupportsInt | typing.SupportsIndex = 1, times: typing.SupportsInt | typing.SupportsIndex, pause: typing.SupportsFloat | typing.SupportsIndex = 0.0) -> tuple[list[float], float]:
    """
    Run a shape on the NPU; return the seconds of each run, and of all together.
    """
def measure_window(runtime: str, lock_file: str, patience_ms: typing.SupportsInt | typing.SupportsIndex, most: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Return how many bytes of NPU memory could be had at once, up to `most`.
    """
def method_of(a: str, b: str, precision: str) -> str | None:
    ...
def multiply(a: numpy.ndarray, b: numpy.ndarray | None, out: numpy.ndarray, weights: Weights | None, settings: typing.SupportsInt | typing.SupportsIndex, *, bias: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None = None, activation: str = 'none', alpha: typing.SupportsFloat | typing.SupportsIndex = 1.0, beta: typing.SupportsFloat | typing.SupportsIndex = 0.0, a_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None, a_limit: typing.SupportsInt | typing.SupportsIndex = 127, pin: bool = False) -> dict[str, typing.Any]:
    """
    Multiply on the NPU, which is open. Unless 'on_npu', nothing of `out` is a result.
    """
def open_engine(*, runtime: str, memory_limit: typing.SupportsInt | typing.SupportsIndex, cores: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex = 0, lock_file: str, lock_patience_ms: typing.SupportsInt | typing.SupportsIndex, run_patience_ms: typing.SupportsInt | typing.SupportsIndex) -> bool:
    ...
def pack(matrix: numpy.ndarray, coding: str, *, is_a: bool, surface_lanes: typing.SupportsInt | typing.SupportsIndex, surface_depth: typing.SupportsInt | typing.SupportsIndex, limit: typing.SupportsInt | typing.SupportsIndex = 127, scale: typing.SupportsFloat | typing.SupportsIndex = 0.0, dtype: str | None = None, layout: str = 'native') -> tuple[typing.Any, ...]:
    ...
def pack_tiles(matrix: numpy.ndarray, coding: str, *, is_a: bool, tile_lanes: typing.SupportsInt | typing.SupportsIndex, tile_depth: typing.SupportsInt | typing.SupportsIndex, surfaces: numpy.ndarray, low: numpy.ndarray | None = None, dtype: str | None = None, layout: str = 'native') -> None:
    ...
def parse_version(text: str) -> tuple[int, int, int]:
    """
    Return the first version in a text, (0, 0, 0) if there is none.
    """
def plan(batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, method: str, *, window_bytes: typing.SupportsInt | typing.SupportsIndex = 1073741824, cores: typing.SupportsInt | typing.SupportsIndex = 3, files: typing.SupportsInt | typing.SupportsIndex = 448, max_depth: typing.SupportsInt | typing.SupportsIndex = 8192, max_rows: typing.SupportsInt | typing.SupportsIndex = 2044, max_columns: typing.SupportsInt | typing.SupportsIndex = 8192, packed: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None = None, source_bytes: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] = (4, 4, 4), rates: dict[str, typing.Any] | None = None, tiles: tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None = None, a_has_low: bool = True, b_has_low: bool = True) -> typing.Any:
    """
    Return how a product is cut, or None; `tiles` instead of the best ones, if given.
    """
def plan_for(settings: typing.SupportsInt | typing.SupportsIndex, a_dtype: str, b_dtype: str, out_dtype: str, batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, weights: Weights | None = None, *, a_limit: typing.SupportsInt | typing.SupportsIndex = 127) -> typing.Any:
    """
    Return how a product would be cut, and how long it would take; or None.
    """
def plans(batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, method: str, *, window_bytes: typing.SupportsInt | typing.SupportsIndex = 1073741824, cores: typing.SupportsInt | typing.SupportsIndex = 3, files: typing.SupportsInt | typing.SupportsIndex = 448, max_depth: typing.SupportsInt | typing.SupportsIndex = 8192, max_rows: typing.SupportsInt | typing.SupportsIndex = 2044, max_columns: typing.SupportsInt | typing.SupportsIndex = 8192, packed: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None = None, source_bytes: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] = (4, 4, 4), rates: dict[str, typing.Any] | None = None, tiles: tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None = None, a_has_low: bool = True, b_has_low: bool = True, count: typing.SupportsInt | typing.SupportsIndex = 10) -> list[typing.Any]:
    """
    Return the candidates, the fastest first.
    """
def probe_runtime(runtime: str) -> dict[str, typing.Any]:
    """
    Load a runtime, without talking to a device, and return what it is. Throws NpuError.
    """
def product_is_zero(a: numpy.ndarray, b: numpy.ndarray, element: str, *, rows: typing.SupportsInt | typing.SupportsIndex, depth: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex, layout: str = 'native', flushes_subnormals: bool = False) -> bool:
    ...
def rates(profile: str) -> dict[str, typing.Any]:
    """
    Return the rates of a profile: 'pessimistic', 'first', 'target' or 'stretch'.
    """
def read_runtime(path: str) -> dict[str, typing.Any]:
    """
    Return what a library file says of itself and what that means, without loading it.
    """
def replay(batch: typing.SupportsInt | typing.SupportsIndex, m: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, method: str, *, window_bytes: typing.SupportsInt | typing.SupportsIndex = 1073741824, cores: typing.SupportsInt | typing.SupportsIndex = 3, files: typing.SupportsInt | typing.SupportsIndex = 448, max_depth: typing.SupportsInt | typing.SupportsIndex = 8192, max_rows: typing.SupportsInt | typing.SupportsIndex = 2044, max_columns: typing.SupportsInt | typing.SupportsIndex = 8192, packed: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None = None, source_bytes: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] = (4, 4, 4), rates: dict[str, typing.Any] | None = None, tiles: tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None = None, a_has_low: bool = True, b_has_low: bool = True, b_is_resident: bool = True) -> typing.Any:
    """
    Return what a product takes in simulated time, or None.
    """
def reset_counts() -> None:
    ...
def run_of(element: str, layout: str, rows: typing.SupportsInt | typing.SupportsIndex, depth: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex, cores: typing.SupportsInt | typing.SupportsIndex = 1, rates: dict[str, typing.Any] | None = None) -> dict[str, typing.Any]:
    """
    Return how the runtime cuts a run, what it streams, and how long a core is busy with it.
    """
def runtime_candidates() -> list[str]:
    """
    Return the places where runtime='auto' looks for librknnrt.so, in order.
    """
def set_correcting(on: bool) -> None:
    """
    Let decisions follow what products take, or not.
    """
def set_rates(profile: str, changes: dict[str, typing.Any] = {}) -> None:
    """
    Decide and plan by the rates of a profile, with these changes, from now on.
    """
def simulator_path() -> str:
    """
    Return the path of the simulator that runtime='simulator' loads.
    """
def soc_name(compatible: bytes) -> str:
    """
    Return the Rockchip SoC of a device tree, '' if it has none.
    """
def take_news() -> str:
    """
    Return the next line about a correction, '' if none.
    """
def tile_depth(method: str, k: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, *, group: typing.SupportsInt | typing.SupportsIndex) -> int:
    ...
def unpack_floats(main: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], a_low: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None, b_low: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None, *, shape: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], layout: str = 'native', row_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], column_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], accumulate: bool, target: numpy.ndarray, streamed: bool = False) -> dict[str, typing.Any]:
    ...
def unpack_integers(sums: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], *, shape: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], layout: str = 'native', row_offsets: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None, column_offsets: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None, accumulate: bool, target: numpy.ndarray, streamed: bool = False) -> dict[str, typing.Any]:
    ...
def unpack_quantized(sums: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], *, shape: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], layout: str = 'native', row_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], column_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], accumulate: bool, target: numpy.ndarray, streamed: bool = False) -> dict[str, typing.Any]:
    ...
def unpack_tiles(main: numpy.ndarray, low: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None, matrix: numpy.ndarray, *, tile: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], layout: str, accumulate: bool = False, bias: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None = None, dtype: str | None = None) -> None:
    ...
def use_instruction_set(arg0: str) -> None:
    ...
ACTS: tuple[typing.Any, ...] = ('decide', 'plan', 'pack_a', 'pack_b', 'wait', 'run', 'unpack', 'sync', 'finish', 'repair', 'cpu')
ELEMENTS: tuple[typing.Any, ...] = ('int8', 'float16', 'int4')
OLDEST_DRIVER: tuple[typing.Any, ...] = (0, 9, 6)
OLDEST_RUNTIME: tuple[typing.Any, ...] = (1, 6, 0)
RECOMMENDED_DRIVER: tuple[typing.Any, ...] = (0, 9, 8)
RECOMMENDED_RUNTIME: tuple[typing.Any, ...] = (2, 3, 2)

"""What `npublas bench` multiplies, and one measurement of it.

each case is computed once with its answer checked against float64
then repeated until it has taken long enough, and once more under a profile
on the simulator the repetitions run on its clock, without computing, by the plan of the checked one
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

import npublas
from npublas import _memory
from npublas._table import si
from npublas._types import Precision
from npublas.cli._failure import Failure
from npublas.testing import simulator

Array = NDArray[Any]

QUICK = "256, 1024, 1x4096x4096, 1500x384x1536"
SHAPES = (
    "64, 128, 256, 512, 1024, 2048, 1x4096x4096, 16x4096x4096, 1x4096x11008, 128x4096x4096, "
    "512x4096x4096, 1500x384x384, 1500x384x1536, 1500x1536x384, 12x1500x64x1500"
)
DTYPES = ("float32", "float16", "int8")
PRECISIONS = ("float32", "float16", "int8")
PROFILE = "target"  # of the simulator's clock

_NUMPY_CALLS = 50  # out of which the best is one that waited for no thread
_DISTURBED = 3  # times the best is a median that says little
_CHECKED_ROWS, _CHECKED_COLUMNS = 16, 4096
# What the answer may be off by, relative to |A||B|: twice what each way rounds to, or more.
_LIMITS = {"float32": 2.0**-22, "float16": 2.0**-9, "int8": 2.0**-5}


class Case(NamedTuple):
    """One product, and how it is asked for."""

    shape: tuple[int, int, int, int]
    dtype: str
    precision: str
    packed: bool

    @property
    def kind(self) -> str:
        """The type, and the precision if that is another."""
        if self.dtype == "float32" != self.precision:
            return f"float32 as {self.precision}"
        return self.dtype

    @property
    def options(self) -> dict[str, Any]:
        """What a product of it is called with."""
        return {"dtype": np.int32} if self.dtype == "int8" else {}

    @property
    def size(self) -> str:
        """The shape in words."""
        batch, m, k, n = self.shape
        return f"{f'{batch} × ' if batch > 1 else ''}{m}×{k}×{n}"


@dataclass(frozen=True)
class Result:
    """What came of a case; times in seconds."""

    shape: tuple[int, int, int, int]
    size: str
    dtype: str
    precision: str
    packed: bool
    kind: str
    seconds: float  # the median
    best: float
    calls: int
    gflops: float
    numpy_float32_seconds: float  # the median
    numpy_float32_best: float
    roof_seconds: float
    roof_share: float
    error: float  # largest |C - AB| / |A||B|
    right: bool
    would_run_on: str
    because: str
    plan: dict[str, Any]
    work: dict[str, float]  # of one call: npublas.profile's
    source: str  # "simulated" or "board-measured"

    @property
    def speedup(self) -> float:
        """How many times as fast as NumPy's float32 product on the CPU at its best.

        NumPy's threads wait for each other, so that beside other programs its median may be a
        hundred times its best: which says nothing of the product.
        """
        return self.numpy_float32_best / self.seconds

    @property
    def disturbed(self) -> bool:
        """True if something else ran meanwhile: a median far from the best."""
        times = ((self.seconds, self.best), (self.numpy_float32_seconds, self.numpy_float32_best))
        return any(middle > _DISTURBED * best for middle, best in times)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "speedup": self.speedup, "disturbed": self.disturbed}


def read_shapes(text: str) -> list[tuple[int, int, int, int]]:
    """Shapes out of "64, 1x4096x4096, 12x64x64x64": a side, M×K×N, or a stack of them.

    >>> read_shapes("64, 1x2x3")
    [(1, 64, 64, 64), (1, 1, 2, 3)]
    """
    shapes = []
    for part in text.replace("×", "x").split(","):
        try:
            numbers = [int(number) for number in part.strip().split("x")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) == 3:
            numbers.insert(0, 1)
        if len(numbers) != 4 or min(numbers) < 1:
            raise Failure(
                f"{part.strip()!r} is no shape: give a side (256), MxKxN (1x4096x4096), or a stack "
                "(12x1500x64x1500), with commas in between"
            )
        shapes.append((numbers[0], numbers[1], numbers[2], numbers[3]))
    return shapes


def check_memory(shapes: list[tuple[int, int, int, int]]) -> None:
    """Refuse what would not fit: the operands in float32, and float64 of what is checked."""
    available = _memory.available()
    for shape in shapes:
        batch, m, k, n = shape
        rows, columns = min(m, _CHECKED_ROWS), min(n, _CHECKED_COLUMNS)
        # What was packed of each operand is as large again, and so is the copy that is multiplied.
        need = 12 * batch * (m * k + k * n + m * n) + 16 * batch * k * (rows + columns)
        if available and need > available:
            raise Failure(
                f"{Case(shape, '', '', False).size} takes {si(need, 'B')} of memory, and "
                f"{si(available, 'B')} are free"
            )


def read_names(text: str, allowed: tuple[str, ...], what: str) -> list[str]:
    """Names out of a list with commas."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in allowed:
            raise Failure(f"{name!r} is no {what} of the benchmark: it has {', '.join(allowed)}")
    return names


def cases(
    shapes: list[tuple[int, int, int, int]], dtypes: list[str], precisions: list[str]
) -> Iterator[Case]:
    """All of them, shape by shape. A precision below float32 is one of float32 operands."""
    for shape in shapes:
        for dtype in dtypes:
            for precision in precisions if dtype == "float32" else ["float32"]:
                for packed in (False, True):
                    yield Case(shape, dtype, precision, packed)


def operands(case: Case) -> tuple[Array, Array]:
    """Random matrices, the same ones each time."""
    batch, m, k, n = case.shape
    stack = (batch,) if batch > 1 else ()
    random = np.random.default_rng(7)
    if case.dtype == "int8":
        return (
            random.integers(-128, 128, (*stack, m, k), np.int8),
            random.integers(-128, 128, (*stack, k, n), np.int8),
        )
    a, b = (random.standard_normal((*stack, *side), np.float32) for side in ((m, k), (k, n)))
    return a.astype(case.dtype), b.astype(case.dtype)


class Times(NamedTuple):
    """Seconds of a call, of many calls."""

    median: float
    best: float


def measure(case: Case, numpy: Times, seconds: float) -> Result:
    """Check a case, then time it for about so long."""
    a, b = operands(case)
    options = case.options
    precision = cast(Precision, case.precision)
    explained = npublas.explain(a, b, precision=precision, **options)
    with npublas.config_context(device="npu", precision=precision, on_fallback="error"):
        right_operand: Any = npublas.pack(b, precision=precision) if case.packed else b
        plan = npublas.explain(a, right_operand, **options).plan
        assert plan

        def multiply() -> Array:
            product: Array = npublas.matmul(a, right_operand, **options)
            return product

        error = error_of(a, b, multiply())
        right = is_right(case, error)
        with without_computing():
            if npublas.explain(a, right_operand, **options).plan != plan:
                raise Failure(f"{case.size} is planned otherwise when it is timed")
            multiply()  # what the timed ones find there
            times = _times(multiply, seconds)
            with npublas.profile() as profile:
                multiply()
    work = profile.total
    median = statistics.median(times)
    roof = work.roof_seconds
    return Result(
        case.shape, case.size, *case[1:], case.kind,
        seconds=median,
        best=min(times),
        calls=len(times),
        gflops=work.flops / median * 1e-9,
        numpy_float32_seconds=numpy.median,
        numpy_float32_best=numpy.best,
        roof_seconds=roof,
        roof_share=roof / median,
        error=error,
        right=right,
        would_run_on="NPU" if explained.on_npu else "CPU",
        because=explained.reason,
        plan=asdict(plan),
        work=work.to_dict(),
        source="simulated" if profile.simulated else "board-measured",
    )  # fmt: skip


def numpy_float32(shape: tuple[int, int, int, int], seconds: float) -> Times:
    """What NumPy takes for the product in float32, on this machine's CPU."""
    a, b = operands(Case(shape, "float32", "float32", False))
    np.matmul(a, b)
    times = _times(lambda: np.matmul(a, b), seconds, fewest=_NUMPY_CALLS)
    return Times(statistics.median(times), min(times))


@contextlib.contextmanager
def without_computing() -> Iterator[None]:
    """On the simulator: products take the time that a chip would need, and compute nothing."""
    if not npublas.info().simulated:
        yield
        return
    with simulator.settings(clock=PROFILE, compute=0):
        yield


def error_of(a: Array, b: Array, c: Array) -> float:
    """The largest |C - AB| / |A||B|, of some rows and columns."""
    rows = np.unique(np.linspace(0, c.shape[-2] - 1, _CHECKED_ROWS).astype(int))
    columns = np.unique(np.linspace(0, c.shape[-1] - 1, _CHECKED_COLUMNS).astype(int))
    a, b = a[..., rows, :].astype(np.float64), b[..., :, columns].astype(np.float64)
    exact, scale = a @ b, np.abs(a) @ np.abs(b)
    error = np.abs(c[..., rows, :][..., :, columns] - exact)
    return float(np.max(error / np.where(scale == 0, 1, scale)))


def is_right(case: Case, error: float) -> bool:
    """Whether an answer of such an error is one that the types and the precision allow."""
    if case.dtype == "int8":
        return error == 0
    return error <= _LIMITS[case.precision] + (2.0**-10 if case.dtype == "float16" else 0)


def _times(call: Callable[[], object], seconds: float, fewest: int = 3) -> list[float]:
    """Times of single calls: at most 200, at least three, and `fewest` if it takes a second."""
    times: list[float] = []
    while (
        len(times) < 3
        or (math.fsum(times) < seconds and len(times) < 200)
        or (math.fsum(times) < 1.0 and len(times) < fewest)
    ):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times

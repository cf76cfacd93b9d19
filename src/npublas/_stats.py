"""Counting: what ran where, how much, and why not on the NPU."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from npublas import _core
from npublas._table import html_table, mebibytes, si, text_table

_HEAD = ("products", "flops", "fallbacks", "where", "type", "why")


@dataclass(frozen=True)
class Place:
    """What ran in one place."""

    products: int
    flops: float
    seconds: float
    """Wall clock, 0 for the CPU, whose products are not timed."""


@dataclass(frozen=True)
class ReasonCount:
    """How often one reason decided, for one type of operands."""

    on_npu: bool
    simulated: bool
    text: str
    dtype: str
    products: int
    fallbacks: int
    flops: float


def _place(row: ReasonCount) -> str:
    if not row.on_npu:
        return "CPU"
    return "NPU (simulated)" if row.simulated else "NPU"


@dataclass(frozen=True)
class Counters:
    """What `counters` returns.

    Attributes
    ----------
    npu, cpu : Place
        Products and floating-point operations (2·m·k·n each) in each place.
    fallbacks : int
        Products decided for, or demanded of, the NPU that could not run there.
    reasons : tuple of ReasonCount
        The same by reason and type of operands, most work first.
    simulated : bool
        True if some of the NPU's part ran on the simulator; `reasons` tell which.
    work : dict
        The NPU's part in detail: runs of the runtime, bytes packed and unpacked, and the seconds
        that the workers spent packing, running and unpacking, since the engine was opened.
    busy : tuple of float
        For each NPU core, the share of the time since its first product (or since `reset_counters`
        and the first product after it) in which it was running something, by our own clock.
    cache : CacheInfo
        Of weights that nobody packed: hits, misses, and what is kept.
    """

    npu: Place
    cpu: Place
    fallbacks: int
    reasons: tuple[ReasonCount, ...]
    simulated: bool
    work: dict[str, float]
    busy: tuple[float, ...]
    cache: CacheInfo

    def to_dict(self) -> dict[str, Any]:
        """Return the counters as plain dicts, lists and numbers."""
        plain = asdict(self)
        return {**plain, "reasons": list(plain["reasons"]), "busy": list(self.busy)}

    @property
    def _npu(self) -> str:
        return "NPU (simulated)" if self.simulated else "NPU"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                f"{row.products:,}",
                si(row.flops, "flop"),
                f"{row.fallbacks:,}" if row.fallbacks else "",
                _place(row),
                row.dtype,
                row.text,
            )
            for row in self.reasons
        ]

    def _summary(self) -> str:
        products = self.npu.products + self.cpu.products
        if not products:
            return "npublas: no products yet"
        share = self.npu.flops / max(self.npu.flops + self.cpu.flops, 1.0)
        return (
            f"npublas: {self.npu.products:,} of {products:,} products, {share:.1%} of the flops, "
            f"ran on the {self._npu}; {self.fallbacks:,} fallbacks"
        )

    def __repr__(self) -> str:
        if not self.reasons:
            return self._summary()
        table = text_table(_HEAD, self._rows(), wrap=60)
        return f"{self._summary()}\n{table}{self._busy()}{self._cached()}"

    def _busy(self) -> str:
        if not any(self.busy):
            return ""
        shares = ", ".join(f"{share:.0%}" for share in self.busy)
        return f"\ncores of the {self._npu} busy since the first product: {shares}"

    def _cached(self) -> str:
        cache = self.cache
        if not cache.hits + cache.misses:
            return ""
        return (
            f"\nweights that nobody packed: {cache.hits:,} of {cache.hits + cache.misses:,} times "
            f"found packed; {cache.matrices:,} kept, {mebibytes(cache.nbytes)}"
        )

    def _repr_html_(self) -> str:
        return html_table(self._summary(), _HEAD, self._rows())


@dataclass(frozen=True)
class CacheInfo:
    """What the cache of weights did since the start, or since `reset_counters`.

    Attributes
    ----------
    hits, misses : int
        Products whose right operand can be known again (see `freeze`): found packed, or not (yet).
    matrices, nbytes : int
        What is packed now, and its bytes in host memory.
    """

    hits: int = 0
    misses: int = 0
    matrices: int = 0
    nbytes: int = 0


_cache_info: Callable[[], CacheInfo] = CacheInfo
_reset_cache: Callable[[], None] | None = None


def on_cache(info: Callable[[], CacheInfo], reset: Callable[[], None]) -> None:
    """Register the cache of weights."""
    global _cache_info, _reset_cache
    _cache_info, _reset_cache = info, reset


def counters() -> Counters:
    """Return what ran where since the start, or since `reset_counters`.

    Returns
    -------
    Counters
        With a table as its ``repr`` and a ``to_dict`` method.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> npublas.reset_counters()
    >>> _ = npublas.matmul(np.ones((2, 3)), np.ones((3, 4)))
    >>> npublas.counters().cpu.products
    1
    """
    rows = sorted(_rows(), key=lambda row: (-float(row["flops"]), str(row["dtype"])))

    def place(on_npu: bool) -> Place:
        mine = [row for row in rows if row["on_npu"] == on_npu]
        return Place(
            products=sum(row["products"] for row in mine),
            flops=sum((row["flops"] for row in mine), 0.0),
            seconds=sum((row["seconds"] for row in mine), 0.0) if on_npu else 0.0,
        )

    status = _core.engine_status()
    return Counters(
        npu=place(True),
        cpu=place(False),
        fallbacks=sum(row["fallbacks"] for row in rows),
        reasons=tuple(
            ReasonCount(
                on_npu=row["on_npu"],
                simulated=row["simulated"],
                text=row["reason"],
                dtype=row["dtype"],
                products=row["products"],
                fallbacks=row["fallbacks"],
                flops=row["flops"],
            )
            for row in rows
        ),
        simulated=any(row["simulated"] for row in rows),
        work=dict(status["work"]),
        busy=_busy(int(status["cores"])),
        cache=_cache_info(),
    )


_SUMS = ("products", "fallbacks", "flops", "seconds")
_NAMES = ("on_npu", "simulated", "reason", "dtype")
_left_out: Counter[Any] = Counter()  # by what it is a sum of


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Leave out of `counters` what is multiplied in a ``with`` block, by whichever thread."""
    before = _raw()
    try:
        yield
    finally:
        _left_out.update({name: max(value - before[name], 0) for name, value in _raw().items()})


def _raw() -> Counter[Any]:
    """Return all sums of the core."""
    sums: Counter[Any] = Counter()
    for row in _core.counts():
        kind = tuple(row[name] for name in _NAMES)
        for name in _SUMS:
            sums[kind, name] += row[name]
    busy = _core.busy()
    sums["since"] = busy["since"]
    for core, seconds in enumerate(busy["seconds"]):
        sums[core] = seconds
    return sums


def _rows() -> list[dict[str, Any]]:
    """Return the core's counts, but for what is left out."""
    rows = []
    for row in _core.counts():
        kind = tuple(row[name] for name in _NAMES)
        left = {name: row[name] - _left_out[kind, name] for name in _SUMS}
        if left["products"] > 0:
            rows.append({**row, **left})
    return rows


def _busy(cores: int) -> tuple[float, ...]:
    busy = _core.busy()
    since = max(busy["since"] - _left_out["since"], 1e-9)
    return tuple(
        min(max(seconds - _left_out[core], 0.0) / since, 1.0)
        for core, seconds in enumerate(busy["seconds"][:cores])
    )


def reset_counters() -> None:
    """Set all of `counters` (but ``work``) to zero.

    Examples
    --------
    >>> import npublas
    >>> npublas.reset_counters()
    >>> npublas.counters()
    npublas: no products yet
    """
    _core.reset_counts()
    _left_out.clear()
    if _reset_cache:
        _reset_cache()


@dataclass(frozen=True)
class MemoryInfo:
    """What `memory_info` returns; sizes in bytes.

    Attributes
    ----------
    limit : int
        The window: what npublas allows itself of the NPU's memory. 0 while the engine is closed.
    used, peak : int
        What it holds now, in use or idle, and the most it ever held.
    weights, pinned : int
        Of that, packed weights, and those of them that nothing pushes out.
    buffers, contexts, file_descriptors : int
        What that is made of.
    evictions : int
        Buffers and contexts that were freed to make room.
    simulated : bool
    """

    limit: int
    used: int
    peak: int
    weights: int
    pinned: int
    buffers: int
    contexts: int
    file_descriptors: int
    evictions: int
    simulated: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as a dict."""
        return asdict(self)

    def __repr__(self) -> str:
        if not self.limit:
            return "npublas: the engine is closed and holds no NPU memory"
        simulated = " (simulated)" if self.simulated else ""
        return (
            f"npublas: {mebibytes(self.used)} of {mebibytes(self.limit)} of the NPU window"
            f"{simulated} in {self.buffers} buffers and {self.contexts} contexts "
            f"({self.file_descriptors} file descriptors), {mebibytes(self.weights)} of it packed "
            f"weights; peak {mebibytes(self.peak)}, "
            f"{self.evictions} evictions"
        )


def memory_info() -> MemoryInfo:
    """Return what npublas holds of the NPU's memory.

    Examples
    --------
    >>> import npublas
    >>> npublas.memory_info().used >= 0
    True
    """
    status = _core.engine_status()
    window = status["window"]
    return MemoryInfo(
        limit=window["limit"] if status["state"] == "open" else 0,
        used=window["bytes"],
        peak=window["peak_bytes"],
        weights=window["weight_bytes"],
        pinned=window["pinned_bytes"],
        buffers=window["memories"],
        contexts=window["contexts"],
        file_descriptors=window["files"],
        evictions=window["evictions"],
        simulated=bool(status["simulated"]),
    )

"""From measurements to rates: what a machine does per second, and what a run and a call cost.

Pure: records in, rates out. The model that the rates are for is that of the planner:

    a run       submit, or `queued` behind another one, and then the larger of
                MACs / (peak · efficiency)  and  bytes / bandwidth of the core
    cores       have the memory's bandwidth together

Each rate comes from runs in which nothing else counts: four rows of A for the bandwidth, 128 rows
for the MACs, next to no operands for the submission. Runs that wait behind each other leave the
submission out. Medians, everywhere, over times and over cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import harmonic_mean, median
from typing import Any

ELEMENTS = ("int8", "float16", "int4")
_BITS = {"int8": 8, "float16": 16, "int4": 4}
_BITS_OF_SUMS = {"int8": 32, "float16": 32, "int4": 16}


@dataclass(frozen=True)
class Run:
    """Runs of one shape on the NPU."""

    what: str  # "submit", "wake", "queue", "stream", "macs" or "layout"
    element: str
    shape: tuple[int, int, int]
    cores: tuple[int, ...]
    in_flight: int
    native: bool
    seconds: float  # of one run, the median
    period: float  # of a core, from run to run

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        m, k, n = self.shape
        return m * k * n

    @property
    def nbytes(self) -> float:
        """Bytes of the operands and the result, each once."""
        m, k, n = self.shape
        bits = _BITS[self.element] * (m * k + k * n) + _BITS_OF_SUMS[self.element] * m * n
        return bits / 8


@dataclass(frozen=True)
class Host:
    """Packing or unpacking."""

    work: str  # "pack_a", "pack_b", "unpack_c"
    threads: int
    bytes_per_second: float


@dataclass(frozen=True)
class Cpu:
    """NumPy's product of float32."""

    shape: tuple[int, int, int]
    threads: int  # 0: as many as BLAS takes
    seconds: float

    @property
    def flops(self) -> float:
        """Floating-point operations per second."""
        m, k, n = self.shape
        return 2.0 * m * k * n / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """Bytes of operands and result per second."""
        m, k, n = self.shape
        return 4.0 * (m * k + k * n + m * n) / self.seconds


@dataclass(frozen=True)
class Handoff:
    """From waking a thread to its going on."""

    seconds: float


@dataclass(frozen=True)
class Call:
    """A small product with packed weights, from Python to Python, and its run alone."""

    seconds: float
    run_seconds: float


@dataclass(frozen=True)
class Product:
    """A whole product, and what the other rates predict of it."""

    text: str
    seconds: float
    predicted: float


Record = Run | Host | Handoff | Cpu | Call | Product


def fit(records: Iterable[Record], start: dict[str, Any]) -> dict[str, Any]:
    """Return the rates that the records tell; others are left out.

    `start` is where there is something to go by: its efficiency, and the ratio of its peaks for
    types that were not measured.
    """
    records = list(records)
    runs = [record for record in records if isinstance(record, Run)]
    return {
        **_device(runs, start),
        **_host([record for record in records if isinstance(record, Host)]),
        **_handoff([record for record in records if isinstance(record, Handoff)]),
        **_cpu([record for record in records if isinstance(record, Cpu)]),
        **_calls([record for record in records if isinstance(record, Call)]),
        **_slack([record for record in records if isinstance(record, Product)]),
    }


def wake_seconds(records: Iterable[Record]) -> float:
    """Return how much longer a run takes after a pause, 0 if that was not measured."""
    runs = [record for record in records if isinstance(record, Run)]
    waking, awake = _of(runs, "wake"), _of(runs, "submit")
    if not waking or not awake:
        return 0.0
    return max(median(r.seconds for r in waking) - median(r.seconds for r in awake), 0.0)


def _of(runs: Iterable[Run], what: str) -> list[Run]:
    return [run for run in runs if run.what == what]


def _device(runs: Sequence[Run], start: dict[str, Any]) -> dict[str, Any]:
    if not runs:
        return {}
    rates: dict[str, Any] = {}
    submit = _median([run.seconds for run in _of(runs, "submit")], start["submit_seconds"])
    rates["submit_seconds"] = submit
    # What is behind another run starts right after it: the period is the run and the gap.
    alone = [run.seconds - submit for run in _of(runs, "queue") if run.in_flight == 1]
    queued = [run.period for run in _of(runs, "queue") if run.in_flight > 1]
    gap: float = start["queued_seconds"]
    if alone and queued:
        gap = max(median(queued) - median(alone), 0.0)
    rates["queued_seconds"] = gap

    def busy(run: Run) -> float:
        """The time that the run itself takes of the period."""
        return max(run.period - gap, run.period / 10)

    streams = _of(runs, "stream")
    one = [run.nbytes / busy(run) for run in streams if len(run.cores) == 1]
    several = [len(run.cores) * run.nbytes / busy(run) for run in streams if len(run.cores) > 1]
    if one:
        rates["core_bytes_per_second"] = median(one)
        rates["memory_bytes_per_second"] = max([*several, median(one)])
        # Of NPU and host together there is a little more than the NPU alone gets.
        share = start["dram_bytes_per_second"] / start["memory_bytes_per_second"]
        rates["dram_bytes_per_second"] = share * rates["memory_bytes_per_second"]
    peaks = {}
    for element in ELEMENTS:
        reached = [
            run.macs / busy(run)
            for run in _of(runs, "macs")
            if run.element == element and len(run.cores) == 1
        ]
        if reached:
            peaks[element] = median(reached) / start["efficiency"]
    if peaks:
        ratio = median(peak / start["macs_per_second"][name] for name, peak in peaks.items())
        rates["macs_per_second"] = {
            name: peaks.get(name, ratio * start["macs_per_second"][name]) for name in ELEMENTS
        }
    native = [busy(run) for run in _of(runs, "layout") if run.native]
    normal = [busy(run) for run in _of(runs, "layout") if not run.native]
    if native and normal:
        rates["normal_factor"] = min(max(median(normal) / median(native), 1.0), 4.0)
    return rates


def _host(records: Sequence[Host]) -> dict[str, Any]:
    """As much is packed as unpacked, more or less: the mean is that of the times."""
    by_threads = {
        threads: harmonic_mean([r.bytes_per_second for r in records if r.threads == threads])
        for threads in {r.threads for r in records}
    }
    if not by_threads:
        return {}
    best = max(by_threads, key=lambda threads: by_threads[threads])
    return {
        "pack_bytes_per_second": by_threads.get(1, by_threads[best] / best),
        "pack_bytes_per_second_all": by_threads[best],
        "threads": max(by_threads),
    }


def _handoff(records: Sequence[Handoff]) -> dict[str, Any]:
    return {"handoff_seconds": median(r.seconds for r in records)} if records else {}


def _cpu(records: Sequence[Cpu]) -> dict[str, Any]:
    """The best of all: the CPU is never taken to be slower than it was, whatever the size."""
    squares = [record.flops for record in records if record.shape[0] > 1]
    rows = [record.bytes_per_second for record in records if record.shape[0] == 1]
    return {
        **({"cpu_flops": max(squares)} if squares else {}),
        **({"cpu_bytes_per_second": max(rows)} if rows else {}),
    }


def _calls(records: Sequence[Call]) -> dict[str, Any]:
    rests = [record.seconds - record.run_seconds for record in records]
    return {"call_seconds": max(median(rests), 1e-6)} if rests else {}


def _slack(records: Sequence[Product]) -> dict[str, Any]:
    """Three quarters of the products take no longer than is predicted with it."""
    ratios = sorted(r.seconds / r.predicted for r in records if r.predicted > 0)
    if not ratios:
        return {}
    return {"slack": min(max(ratios[(3 * len(ratios)) // 4 - (len(ratios) > 3)], 1.0), 100.0)}


def _median(values: Sequence[float], otherwise: float) -> float:
    return median(values) if values else otherwise

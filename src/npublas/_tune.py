"""Measuring this machine, so that products are decided and planned by what it does.

The NPU is measured run by run while the engine is closed, the host's packing and NumPy on their
own, and at last whole products, to see how far they are from the sum of it all.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from os import PathLike
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from npublas import (
    _config,
    _core,
    _engine,
    _memory,
    _rates,
    _simulator,
    _stats,
    _threads,
    _tuning,
    _tuning_plot,
)
from npublas._machine import clocks
from npublas._matmul import ufunc as matmul
from npublas._packed import pack
from npublas._rates import Call, Cpu, Handoff, Host, Product, Record, Run
from npublas._table import html_table, mebibytes, si, text_table
from npublas._tuning import Entry, Key
from npublas._version import __version__

Progress = Callable[[int, int, str], object]
Step: TypeAlias = tuple[str, Callable[[], None]]

_HEAD = ("", "this machine", "unmeasured", "what it is")
_MOST_WINDOW = 4 << 30  # the NPU's addresses have 32 bits

# Of each element: rows that the chip holds at once, so that B is streamed once; a lot of MACs for
# each byte of it.
_MACS = {"int8": (128, 1024, 4096), "float16": (128, 512, 4096), "int4": (128, 512, 4096)}
_STREAM = (4, 4096, 4096)
_TINY = (4, 32, 32)
_QUEUE = (4, 2048, 2048)
_LAYOUT = (128, 1024, 1024)

_PRODUCTS = (
    ("int8", "float32", 128, True),
    ("float32", "float16", 512, True),
    ("float32", "float32", 512, True),
    ("int8", "float32", 1024, False),
    ("float32", "float16", 1024, False),
    ("float32", "float32", 1024, False),
)


@dataclass(frozen=True)
class Tuning:
    """What `tune` returns: what was measured of this machine.

    Attributes
    ----------
    rates : dict
        What products are decided and planned by: per second, and in seconds. Where nothing was
        measured, what is believed of any board.
    machine : str
        Chip, versions and clocks; of the CPU alone, if there is no NPU.
    measured : tuple of str
        The names of the rates that were measured.
    simulated : bool
        True if the NPU is the simulator.
    file : str
        Where it is kept; empty if it isn't.
    window_bytes : int
        NPU memory that could be had at once, up to a quarter of the available memory and 4 GiB.
    wake_seconds : float
        How much longer a run takes after a pause of a tenth of a second.
    clocks : tuple
        Of NPU and DDR memory when it ended, where they can be read.
    notes : tuple of str
        What was not measured, and why.
    records : list of dict
        All measurements.
    seconds : float
        How long it took.
    """

    rates: dict[str, Any]
    machine: str
    measured: tuple[str, ...]
    simulated: bool
    file: str
    window_bytes: int
    wake_seconds: float
    clocks: tuple[Any, ...]
    notes: tuple[str, ...]
    records: list[dict[str, Any]] = field(repr=False)
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dicts, lists, strings and numbers."""
        return asdict(self)

    def plot(self, path: str | PathLike[str]) -> None:
        """Write charts of it to a file whose ending says what: .png, .svg, .pdf.

        Needs matplotlib, which the extra ``report`` has.
        """
        _tuning_plot.draw(self._title(), self.records, path)

    def _title(self) -> str:
        return f"npublas tuning of {self.machine}" + " (simulated)" * self.simulated

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return rows_of(self.rates, self.measured)

    def _summary(self) -> list[str]:
        lines = [self._title()]
        if self.window_bytes:
            lines.append(f"NPU memory that could be had: {mebibytes(self.window_bytes)} at least")
        if self.wake_seconds:
            lines.append(f"the first run after a pause takes {si(self.wake_seconds, 's')} longer")
        lines += [
            f"{clock.name} clock at the end: {clock.current / 1e6:,.0f} MHz"
            for clock in self.clocks
        ]
        lines += self.notes
        lines.append(f"kept in {self.file}" if self.file else "not kept")
        return lines

    def __repr__(self) -> str:
        first, *rest = self._summary()
        return "\n".join([first, text_table(_HEAD, self._rows()), *rest])

    def _repr_html_(self) -> str:
        return html_table(self._summary()[0], _HEAD, self._rows())


def rows_of(
    rates: dict[str, Any], measured: tuple[str, ...] | None = None
) -> list[tuple[str, str, str, str]]:
    """Rates as a table, beside those that are believed of a board that nobody has measured."""
    unknown = _core.rates("pessimistic")

    def row(name: str, unit: str, what: str, element: str = "") -> tuple[str, str, str, str]:
        shown = []
        for side in (rates, unknown):
            value = side[name][element] if element else side[name]
            shown.append(si(value, unit) if unit else f"{value:.3g}")
        if measured is not None and name not in measured:
            shown[0] = "?"
        short = name.replace("_per_second", "").replace("_seconds", "").replace("_", " ")
        return short, shown[0], shown[1], what

    return [
        *(
            row("macs_per_second", "MAC/s", f"{element}, one core at its peak", element)
            for element in _rates.ELEMENTS
        ),
        row("core_bytes_per_second", "B/s", "of memory, one core"),
        row("memory_bytes_per_second", "B/s", "of memory, all cores"),
        row("submit_seconds", "s", "a run, but for its work"),
        row("queued_seconds", "s", "a run that waited behind another"),
        row("normal_factor", "", "row-major operands against native ones"),
        row("slack", "", "products against the sum of their parts"),
        row("call_seconds", "s", "a call, but for its runs"),
        row("pack_bytes_per_second", "B/s", "packed and unpacked, one thread"),
        row("pack_bytes_per_second_all", "B/s", f"the same, {rates['threads']} threads"),
        row("handoff_seconds", "s", "from waking a thread to its going on"),
        row("cpu_flops", "flop/s", "NumPy, float32"),
        row("cpu_bytes_per_second", "B/s", "NumPy, one row of float32"),
    ]


def tune(*, quick: bool = False, save: bool = True, progress: Progress | None = None) -> Tuning:
    """Measure this machine, and decide and plan products by it from now on.

    It takes less than two minutes; let the machine be idle meanwhile. The NPU is closed for most of
    it: products of other processes run on the CPU, and this one is to have none. `counters` leaves
    out what is multiplied meanwhile, but for ``work``.

    Parameters
    ----------
    quick : bool
        Measure a few things for a short time: in a quarter of the time, and less reliably.
    save : bool
        Keep it in the cache directory, for this machine: this chip with these versions of runtime
        and driver and these clocks. Measurements of the simulator are kept only while its clock is
        on (``NPUBLAS_SIMULATOR_CLOCK``), and never used for a board; those without an NPU never.
    progress : callable, optional
        Called with the steps that are done, the steps that there are, and the name of the next one.

    Returns
    -------
    Tuning
        With a table as its ``repr``, `Tuning.plot` and `Tuning.to_dict`.

    Raises
    ------
    TypeError
        If `quick` or `save` is no bool.
    NpuError
        While a product is under way, or if the NPU fails.

    Examples
    --------
    >>> import npublas
    >>> tuning = npublas.tune(quick=True, save=False)
    >>> tuning.rates["cpu_flops"] > 0
    True
    """
    for name, value in (("quick", quick), ("save", save)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, not {value!r}")
    return _Tuner(quick, progress or (lambda *_: None)).run(save)


class _Tuner:
    """One measurement of everything."""

    def __init__(self, quick: bool, progress: Progress) -> None:
        self.quick = quick
        self.progress = progress
        self.records: list[Record] = []
        self.notes: list[str] = []
        self.rates = _core.rates("target")
        self.budget = 0.1 if quick else 0.4  # seconds for one quantity
        self.window = 0
        self.device: tuple[str, str, int] | None = None
        self.cores: tuple[int, ...] = ()
        self.elements: list[str] = []
        self.simulated = False
        self.clocked = False

    def run(self, save: bool) -> Tuning:
        _core.set_correcting(False)  # rates are about to change as they are measured
        runtime = _config.get_config().runtime
        simulated = runtime in ("simulator", _simulator.path())
        # What opens is put to the test, which has to be computed.
        computing = _simulator.settings(compute=1) if simulated else contextlib.nullcontext()
        try:
            with computing, _stats.uncounted():
                return self._measure(save)
        except BaseException:
            status = _core.engine_status()
            if status["state"] == "open":
                _tuning.apply(status)  # as it was
            else:
                _tuning.use(None, simulated=True)
            raise

    def _measure(self, save: bool) -> Tuning:
        start = time.perf_counter()
        self.progress(0, 1, "the NPU")
        key, status = self._find_npu()
        steps = [*self._host_steps()]
        if self.device:
            steps = [*self._device_steps(), *steps]
        products = [*self._product_steps()] if self.device else []
        total = len(steps) + len(products)
        for done, (label, step) in enumerate(steps):
            self.progress(done, total, label)
            step()
        if self.device:
            _engine.open_engine()
        for done, (label, step) in enumerate(products, len(steps)):
            self.progress(done, total, label)
            step()
        self.progress(total, total, "")
        fitted = _rates.fit(self.records, self.rates)
        rates = {**self.rates, **fitted}
        return self._conclude(key, status, rates, tuple(fitted), save, start)

    # What there is

    def _find_npu(self) -> tuple[Key | None, dict[str, Any]]:
        if not _engine.open_engine():
            because = _core.engine_status()["unavailable_because"]
            self.notes.append(
                "only the CPU was measured: " + (because or "another process holds the NPU")
            )
            return None, {}
        status = _core.engine_status()
        self.simulated = bool(status["simulated"])
        self.clocked = self.simulated and _simulator.setting("clock") != 0
        self.elements = [e for e in _rates.ELEMENTS if not status["type_problems"].get(e)]
        for name, why in status["type_problems"].items():
            if why:
                self.notes.append(f"{name} was not measured: it is off ({why})")
        if not self.elements:
            self.notes.append("only the CPU was measured")
            return None, status
        _engine.close_engine()  # refused while another thread has a product
        config = _config.get_config()
        self.device = (config.runtime, _engine.lock_file(), _engine.run_patience())
        self.cores = tuple(range(status["cores"]))
        return _tuning.key_of(status), status

    def _timed(self) -> contextlib.AbstractContextManager[None]:
        """Around what is timed: on the simulator's clock, runs take its time, and no more.

        Computing them takes the host longer than that, and would be what is measured.
        """
        return _simulator.settings(compute=0) if self.clocked else contextlib.nullcontext()

    # Runs

    def _runs(
        self,
        what: str,
        element: str,
        shape: tuple[int, int, int],
        cores: tuple[int, ...] = (0,),
        in_flight: int = 1,
        native: bool = True,
        pause: float = 0.0,
    ) -> None:
        assert self.device

        def measure(times: int) -> tuple[list[float], float]:
            return _core.measure_runs(
                *self.device,  # type: ignore[misc]
                element=element, shape=shape, native=native, cores=cores, in_flight=in_flight,
                times=times, pause=pause,
            )  # fmt: skip

        with self._timed():
            seconds, elapsed = measure(2)
            times = min(max(int(2 * self.budget / max(elapsed, 1e-6)), 2), 500)
            if times > 2:
                seconds, _ = measure(times)
        # Of two in flight, each waits for the other one before its own turn.
        self.records.append(
            Run(
                what=what,
                element=element,
                shape=shape,
                cores=cores,
                in_flight=in_flight,
                native=native,
                seconds=median(seconds),
                period=median(seconds) / in_flight,
            )
        )

    def _device_steps(self) -> Iterator[Step]:
        element = self.elements[0]
        one = [(core,) for core in (self.cores[:1] if self.quick else self.cores)]
        together = [self.cores] if len(self.cores) > 1 else []
        yield "runs of the NPU", partial(self._runs, "submit", element, _TINY)
        yield "runs after a pause", partial(self._runs, "wake", element, _TINY, pause=0.1)
        for in_flight in (1, 2):
            yield (
                "runs in a queue",
                partial(self._runs, "queue", element, _QUEUE, in_flight=in_flight),
            )
        for cores in [*one, *together]:
            yield (
                "memory of the NPU",
                partial(self._runs, "stream", element, _STREAM, cores, in_flight=2),
            )
        for name in self.elements:
            for cores in [*one, *([] if self.quick else together)]:
                yield (
                    f"products of {name}",
                    partial(self._runs, "macs", name, _MACS[name], cores, in_flight=2),
                )
        if element != "int4":
            for native in (True, False):
                yield (
                    "layouts",
                    partial(self._runs, "layout", element, _LAYOUT, in_flight=2, native=native),
                )
        if not self.quick:
            yield "memory that can be had", self._measure_window

    def _measure_window(self) -> None:
        assert self.device
        available = _memory.available()
        most = min(_MOST_WINDOW, available // 4 if available else _memory.GIBIBYTE)
        # That there is no more is what is asked for: no line of it.
        quiet = _simulator.settings(log=0) if self.simulated else contextlib.nullcontext()
        with quiet:
            self.window = _core.measure_window(*self.device, most=most)

    # The host

    def _host_steps(self) -> Iterator[Step]:
        for threads in sorted({1, _threads.effective()}):
            for work in ("pack_a", "pack_b", "unpack_c"):
                yield "packing", partial(self._host, work, threads)
        yield "threads", self._handoff
        sizes = (512, 1024) if self.quick else (128, 256, 512, 1024, 2048)
        for threads, limited in _blas_threads(self.quick):
            for shape in [*((n, n, n) for n in sizes), (1, 4096, 4096)]:
                yield "NumPy", partial(self._numpy, shape, threads, limited)

    def _host(self, work: str, threads: int) -> None:
        rate = _core.measure_host(work, threads, self.budget / 2)
        self.records.append(Host(work, threads, rate))

    def _handoff(self) -> None:
        self.records.append(Handoff(_core.measure_handoff(self.budget / 2)))

    def _numpy(self, shape: tuple[int, int, int], threads: int, limited: Callable[[], Any]) -> None:
        m, k, n = shape
        a, b = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
        out = np.empty((m, n), np.float32)
        with limited():
            seconds = self._median_of(lambda: np.matmul(a, b, out=out))
        self.records.append(Cpu(shape, threads, seconds))

    def _median_of(self, function: Callable[[], object]) -> float:
        function()  # on the NPU, the first of a kind is checked
        seconds: list[float] = []
        with self._timed():
            begin = time.perf_counter()
            while len(seconds) < 3 or (
                time.perf_counter() - begin < self.budget and len(seconds) < 1000
            ):
                start = time.perf_counter()
                function()
                seconds.append(time.perf_counter() - start)
        return median(seconds)

    # Products

    def _product_steps(self) -> Iterator[Step]:
        yield "calls", self._calls
        products = [p for p in _PRODUCTS if self._can(p)]
        for product in products[:2] if self.quick else products:
            yield "whole products", partial(self._product, *product)

    def _can(self, product: tuple[str, str, int, bool]) -> bool:
        return ("int8" if product[0] == "int8" else "float16") in self.elements

    def _calls(self) -> None:
        """A small product with packed weights, less the run that it takes."""
        element = self.elements[0]
        dtype: Any = np.float32 if element == "float16" else np.int8
        a, b = np.ones((4, 512), dtype), pack(np.ones((512, 512), dtype), precision="float16")
        with b, _config.config_context(device="npu", on_fallback="error", precision="float16"):
            seconds = self._median_of(lambda: matmul(a, b))
            streamed = b.nbytes / self._so_far()["core_bytes_per_second"]
        rates = self._so_far()
        # Its thread is woken for the run, and the caller when that is over.
        waking = 2 * rates["handoff_seconds"]
        self.records.append(Call(seconds, rates["submit_seconds"] + waking + streamed))

    def _so_far(self) -> dict[str, Any]:
        return {**self.rates, **_rates.fit(self.records, self.rates), "slack": 1.0}

    def _product(self, dtype: str, precision: Any, size: int, packed: bool) -> None:
        rates = self._so_far()
        rates.pop("measured", None)
        _core.set_rates("target", {**rates, "measured": True})
        m, k, n = (size, 1024, 1024)
        rng = np.random.default_rng(0)
        if dtype == "int8":
            a, b = (rng.integers(-9, 9, s, np.int8) for s in ((m, k), (k, n)))
            out: np.dtype[Any] = np.dtype(np.int32)
        else:
            a, b = (rng.standard_normal(s, np.float32) for s in ((m, k), (k, n)))
            out = np.dtype(np.float32)
        settings = _config.packed(device="npu", precision=precision)
        right: Any = pack(b, precision=precision) if packed else b
        weights = right._weights if packed else None
        with _config.config_context(device="npu", precision=precision, on_fallback="error"):
            seconds = self._median_of(lambda: matmul(a, right, dtype=out))
        plan = _core.plan_for(settings, dtype, dtype, out.name, 1, m, k, n, weights)
        text = f"{m} × {k} × {n}, {dtype} as {precision}" + ", packed weights" * packed
        if packed:
            right.close()
        if plan:
            self.records.append(Product(text, seconds, float(plan["npu_seconds"])))

    # The end

    def _conclude(
        self,
        key: Key | None,
        status: dict[str, Any],
        rates: dict[str, Any],
        measured: tuple[str, ...],
        save: bool,
        start: float,
    ) -> Tuning:
        rates.pop("measured", None)
        simulated = bool(status.get("simulated"))
        records = [{"kind": type(r).__name__.lower(), **asdict(r)} for r in self.records]
        wake = _rates.wake_seconds(self.records)
        file = ""
        if simulated and key is None:
            self.notes.append(
                "the simulator's clock was turned on in this process, not by "
                "NPUBLAS_SIMULATOR_CLOCK: nothing of this is used"
                if self.clocked
                else "the simulator has no speed of its own while its clock is off "
                "(NPUBLAS_SIMULATOR_CLOCK): nothing of this is used"
            )
            _tuning.use(None, simulated=True)
        if key:
            entry = Entry(
                key=key,
                measured=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                npublas=__version__,
                rates=_tuning.check_rates(rates),
                window_bytes=self.window,
                wake_seconds=wake,
                records=records,
            )
            _tuning.use(entry, simulated)
            if save:
                try:
                    file = str(_tuning.store(entry))
                except OSError as error:
                    self.notes.append(f"it could not be kept: {error}")
        return Tuning(
            rates=rates,
            machine=str(key) if key else "the simulator" if simulated else "this CPU",
            measured=measured,
            simulated=simulated,
            file=file,
            window_bytes=self.window,
            wake_seconds=wake,
            clocks=clocks(),
            notes=tuple(self.notes),
            records=records,
            seconds=time.perf_counter() - start,
        )


def _blas_threads(quick: bool) -> list[tuple[int, Callable[[], Any]]]:
    """How many threads BLAS is measured with: 0 is its own choice, others need threadpoolctl."""
    choices: list[tuple[int, Callable[[], Any]]] = [(0, contextlib.nullcontext)]
    try:
        threadpool_limits = importlib.import_module("threadpoolctl").threadpool_limits
    except ImportError:
        return choices
    if quick:
        return choices
    cpus = _core.host_threads(127, 0)
    counts = {min(2**i, cpus) for i in range(math.ceil(math.log2(cpus)) + 1)}
    for threads in sorted(counts):
        choices.append((threads, partial(threadpool_limits, limits=threads, user_api="blas")))
    return choices

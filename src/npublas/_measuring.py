"""What is measured of a machine, step by step: runs of the NPU, the host, whole products.

Each step leaves a record; `_rates` makes rates of them.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from npublas import _config, _core, _engine, _memory, _rates, _simulator, _threads, _tuning
from npublas._matmul import ufunc as matmul
from npublas._packed import pack
from npublas._rates import Call, Cpu, Handoff, Host, Product, Record, Run
from npublas._tuning import Key

__all__ = ["Measuring", "Progress"]

Progress = Callable[[int, int, str], object]
Step: TypeAlias = tuple[str, Callable[[], None]]

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


class Measuring:
    """The measurements of one machine, and what they tell so far."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.records: list[Record] = []
        self.notes: list[str] = []
        self.rates = _core.rates("target")
        self.budget = 0.1 if quick else 0.4  # seconds for one quantity
        self.window = 0
        self.device: tuple[str, str, int] | None = None
        self.cores: tuple[int, ...] = ()
        self.elements: list[str] = []
        self.key: Key | None = None  # of the machine; None if nothing of it is to be used
        self.status: dict[str, Any] = {}  # of the engine
        self.simulated = False
        self.clocked = False

    def run(self, progress: Progress) -> None:
        """Measure everything. It leaves the engine open if there is an NPU."""
        progress(0, 1, "the NPU")
        self.key, self.status = self._find_npu()
        steps = [*self._host_steps()]
        if self.device:
            steps = [*self._device_steps(), *steps]
        products = [*self._product_steps()] if self.device else []
        total = len(steps) + len(products)
        for done, (label, step) in enumerate(steps):
            progress(done, total, label)
            step()
        if self.device:
            _engine.open_engine()
        for done, (label, step) in enumerate(products, len(steps)):
            progress(done, total, label)
            step()
        progress(total, total, "")

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

"""Profiling: what happened in a block of code, product by product, and where the time went."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from npublas import _charts, _config, _core, _report, _roof, _trace
from npublas._table import html_table, mebibytes, si, text_table

_HEAD = (
    "", "time", "plan", "pack", "wait", "run", "unpack", "sync", "finish", "CPU",
    "moved", "GFLOP/s", "CPU s", "roof", "product",
)  # fmt: skip
_MOST_ROWS = 25
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Work:
    """What one product or several took; times in seconds.

    Attributes
    ----------
    products : int
    seconds : float
        From the call to the result; of several products, summed.
    plan, pack, wait, run, unpack, sync, finish, cpu : float
        What that time was spent on, summed over the threads and cores that worked at once: deciding
        and planning; into the NPU's layouts; waiting for others; the NPU's runs; out of its
        layouts; caches; bias, activation, rounding, and elements that the CPU computes again;
        products on the CPU.
    bytes : int
        Read and written by packing, unpacking and the CPU, and streamed at least by the NPU.
    flops : float
        Asked for: 2·m·k·n each.
    npu_flops : float
        What the NPU did for them, with padding and split parts.
    cpu_seconds : float
        CPU time of the whole process while each product was under way.
    roof_seconds : float
        What the NPU's part takes at least, by the published peaks of an RK3588 at 1 GHz (6.1 TOPS
        of int8, 3.1 of float16) and 29 GB/s of memory; 0 of what ran on the CPU.
    """

    products: int = 0
    seconds: float = 0.0
    plan: float = 0.0
    pack: float = 0.0
    wait: float = 0.0
    run: float = 0.0
    unpack: float = 0.0
    sync: float = 0.0
    finish: float = 0.0
    cpu: float = 0.0
    bytes: int = 0
    flops: float = 0.0
    npu_flops: float = 0.0
    cpu_seconds: float = 0.0
    roof_seconds: float = 0.0

    @property
    def gflops(self) -> float:
        """Operations asked for per second, in 10⁹."""
        return self.flops / self.seconds * 1e-9 if self.seconds else 0.0

    @property
    def roof_share(self) -> float:
        """How close the whole came to the roof: 1 is `roof_seconds`."""
        return self.roof_seconds / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the figures as a dict, with the two that follow from the others."""
        return {**asdict(self), "gflops": self.gflops, "roof_share": self.roof_share}

    def _cells(self) -> tuple[str, ...]:
        times = (self.plan, self.pack, self.wait, self.run, self.unpack, self.sync, self.finish)
        return (
            f"{self.products:,}",
            si(self.seconds, "s"),
            *(si(time, "s") if time else "" for time in (*times, self.cpu)),
            mebibytes(self.bytes) if self.bytes else "",
            f"{self.gflops:.3g}",
            f"{self.cpu_seconds:.3g}",
            f"{self.roof_share:.1%}" if self.roof_seconds else "",
        )


ACTS = ("plan", "pack", "wait", "run", "unpack", "sync", "finish", "cpu")


def total(works: Iterable[Work]) -> Work:
    """Return the sums."""
    works = list(works)
    return Work(**{f.name: sum(getattr(work, f.name) for work in works) for f in fields(Work)})


@dataclass(frozen=True)
class ProfiledProduct:
    """One product, or one stack of them.

    Attributes
    ----------
    shape : tuple of int
        (batch, m, k, n).
    dtype : str
        Of the operands.
    method, element : str
        How the NPU computed it, and of what, as in `Plan`; empty if it did not come so far.
    on_npu, simulated, fallback : bool
        Where it ran, and whether it was meant for the NPU and could not run there.
    reason : str
        Why there.
    start : float
        Seconds since the profile began.
    work : Work
        What it took.
    """

    shape: tuple[int, int, int, int]
    dtype: str
    method: str
    element: str
    on_npu: bool
    simulated: bool
    fallback: bool
    reason: str
    start: float
    work: Work

    @property
    def label(self) -> str:
        """The product and its place in words."""
        place = "CPU"
        if self.on_npu:
            place = "NPU (simulated)" if self.simulated else "NPU"
        what = _trace.label({"dtype": self.dtype, "shape": self.shape})
        how = f" as {self.method}" if self.method not in ("", "integers", self.dtype) else ""
        return f"{what}{how} on the {place}{f': {self.reason}' if self.fallback else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain dicts and numbers."""
        return {**asdict(self), "work": self.work.to_dict()}


@dataclass
class Profile:
    """What `profile` returns: a ``with`` block's profile, to be read after it.

    Attributes
    ----------
    seconds, cpu_seconds : float
        The length of the block, and the CPU time of the whole process in it.
    products : tuple of ProfiledProduct
        In the order of their beginnings.
    busy : tuple of float
        The share of the block's time in which each NPU core was running something, by our own
        clock: from the submission of a run to its return.
    total : Work
        Of all products.
    dropped : int
        Events and products that had no room. 524,288 events and 65,536 products are kept.
    simulated : bool
        True if some of it ran on the simulator.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    _products: tuple[ProfiledProduct, ...] = field(default=(), repr=False)
    busy: tuple[float, ...] = ()
    dropped: int = 0
    _recording: _core.Recording | None = field(default=None, repr=False)
    _events: _trace.Trace | None = field(default=None, repr=False)

    def __enter__(self) -> Profile:
        """Begin; a second time, anew."""
        if self._recording:
            raise RuntimeError(
                "this profile is being recorded already; make another for a block in it"
            )
        self._events, self._products = None, ()
        self._recording = _core.Recording()
        return self

    def __exit__(self, *exception: object) -> None:
        """End, and read what was recorded."""
        recording, self._recording = self._recording, None
        if recording is None:
            raise RuntimeError("this profile is not being recorded: it ends with its with block")
        self._events = trace = _trace.stop(recording)
        cores = _core.engine_status()["cores"] or _roof.CORES
        self.seconds, self.cpu_seconds = trace.seconds, trace.cpu_nanoseconds * 1e-9
        self.dropped = trace.dropped
        self.busy = _busy(trace, cores)
        self._products = _products(trace, cores)

    def __call__(self, function: F) -> F:
        """Decorate a function: each call of it is a block, and begins the profile anew."""
        _config.check_runs_when_called(
            "profile() as a decorator", function, "record", "with npublas.profile() as profile"
        )

        @functools.wraps(function)
        def profiled(*arguments: Any, **keywords: Any) -> Any:
            with self:
                return function(*arguments, **keywords)

        return cast(F, profiled)

    @property
    def products(self) -> tuple[ProfiledProduct, ...]:
        """In the order of their beginnings."""
        if self._recording:
            raise RuntimeError(
                "this profile is still being recorded: read it after its with block has ended"
            )
        return self._products

    @property
    def total(self) -> Work:
        """The sums over all products."""
        return total(product.work for product in self.products)

    @property
    def simulated(self) -> bool:
        """True if some of it ran on the simulator."""
        return any(product.simulated for product in self.products)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single events as plain dicts, lists and numbers."""
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "busy": list(self.busy),
            "dropped": self.dropped,
            "simulated": self.simulated,
            "total": self.total.to_dict(),
            "products": [product.to_dict() for product in self.products],
        }

    def to_chrome_trace(self, path: str | PathLike[str]) -> None:
        """Write a trace for ui.perfetto.dev or chrome://tracing.

        It has a track for each NPU core and for each thread that did something: its products, and
        in them what it packed, unpacked, and waited for. A run that waited in its core's queue is
        drawn from when the run before it ended.

        Parameters
        ----------
        path : path
            Where the file goes, usually with the ending ``.json``.
        """
        _trace.write_chrome(self._recorded(), path)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write a page with the table and charts, that needs nothing but itself.

        Parameters
        ----------
        path : path
            Where the file goes, usually with the ending ``.html``.

        Raises
        ------
        ImportError
            If matplotlib isn't there, which draws the charts: ``pip install 'npublas[report]'``.
        """
        trace, groups = self._recorded(), self._groups()[:_MOST_ROWS]
        if not groups:
            page = _report.page("npublas: a profile", [_report.text(self._summary())])
            Path(path).write_text(page, encoding="utf-8")
            return
        shares = _charts.shares({label: asdict(work) for label, work in groups})
        series: dict[str, list[_charts.Point]] = {}
        for label, work in groups:
            product = next(p for p in self.products if p.label == label)
            if product.element:
                size = _roof.compulsory_bytes(product.element, product.shape)
                flops = product.work.npu_flops
                speed = work.npu_flops / work.seconds
                series.setdefault(product.element, []).append(_charts.Point(flops / size, speed))
        cores = len(self.busy) or _roof.CORES
        sections = [
            *([_report.text(_report.SIMULATED, "note")] if self.simulated else []),
            self._repr_html_(),
            _report.section("What each core and thread did", _charts.svg(_charts.timeline(trace))),
            _report.section("Where the time went", _charts.svg(shares)),
        ]
        if series:
            sections.append(
                _report.section(
                    "Under the roof",
                    _charts.svg(_charts.roofline(series, sorted(series), cores)),
                    _report.text(
                        "What the NPU did, padding and the parts of split floats included, over "
                        "the time of the whole product. The roofs are an RK3588's by published "
                        "figures, at 1 GHz and 29 GB/s."
                    ),
                )
            )
        page = _report.page("npublas: a profile", sections)
        Path(path).write_text(page, encoding="utf-8")

    def _recorded(self) -> _trace.Trace:
        if self._events is None:
            raise RuntimeError(
                "nothing is profiled yet: read the profile after its with block has ended"
            )
        return self._events

    def _groups(self) -> list[tuple[str, Work]]:
        groups: dict[str, list[Work]] = {}
        for product in self.products:
            groups.setdefault(product.label, []).append(product.work)
        sums = [(label, total(works)) for label, works in groups.items()]
        return sorted(sums, key=lambda group: -group[1].seconds)

    def _rows(self) -> list[tuple[str, ...]]:
        groups = self._groups()
        rows = [(*work._cells(), label) for label, work in groups[:_MOST_ROWS]]
        if rest := groups[_MOST_ROWS:]:
            work = total(work for _, work in rest)
            rows.append((*work._cells(), f"{len(rest)} other kinds of products"))
        if len(groups) > 1:
            rows.append((*self.total._cells(), "all"))
        return rows

    def _summary(self) -> str:
        if self._recording:
            return "npublas: a profile that is being recorded"
        busy = ", ".join(f"{share:.0%}" for share in self.busy)
        npu = "NPU (simulated)" if self.simulated else "NPU"
        dropped = f"; {self.dropped:,} events had no room" if self.dropped else ""
        return (
            f"npublas: {sum(p.work.products for p in self.products):,} products in "
            f"{si(self.seconds, 's')}, {si(self.cpu_seconds, 's')} of CPU time; "
            f"cores of the {npu} busy: {busy or 'none'}{dropped}"
        )

    def __repr__(self) -> str:
        if self._recording or not self.products:
            return self._summary()
        return f"{self._summary()}\n{text_table(_HEAD, self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(self._summary(), _HEAD, [] if self._recording else self._rows())


def profile() -> Profile:
    """Record what happens in a ``with`` block: per product and in total, where the time goes.

    All products of the process are seen while the block is open, of all threads. Blocks may nest,
    and overlap in several threads. While none is open, nothing is recorded and nothing is paid.

    Returns
    -------
    Profile
        To be read after the block: a table as its ``repr``, `Profile.to_dict`,
        `Profile.to_chrome_trace` and `Profile.to_html`. It is a decorator as well; then it has the
        latest call that has ended.

    Notes
    -----
    The roof is an RK3588's, by published figures: its cores' peaks at 1 GHz, and 29 GB/s of memory.
    Under ``runtime="simulator"`` the times are those of this machine, or of the simulator's clock,
    and say nothing of a board.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> a = np.ones((64, 64), np.float32)
    >>> with npublas.profile() as profile:
    ...     _ = npublas.matmul(a, a, device="cpu")
    >>> profile.total.products, profile.total.flops
    (1, 524288.0)
    >>> profile.products[0].label
    'float32 64×64×64 on the CPU'
    """
    return Profile()


def _busy(trace: _trace.Trace, cores: int) -> tuple[float, ...]:
    run, track = trace.events["end"] - trace.running(), trace.events["track"]
    used = trace.cores()
    if not used or not trace.seconds:
        return ()
    return tuple(
        float(run[track == -1 - core].sum()) * 1e-9 / trace.seconds
        for core in range(max(cores, used[-1] + 1))
    )


def _products(trace: _trace.Trace, cores: int) -> tuple[ProfiledProduct, ...]:
    """Each product with the sums of its events."""
    events, count = trace.events, len(trace.products)
    index_of = {product["product"]: index for index, product in enumerate(trace.products)}
    index_of.pop(0, None)
    ids, inverse = np.unique(events["product"], return_inverse=True)
    where = np.array([index_of.get(int(i), count) for i in ids], np.int64)
    owner = where[inverse] if len(ids) else np.empty(0, np.int64)
    seconds = (events["end"] - trace.running()) * 1e-9

    def sums(weights: Any, mask: Any = slice(None)) -> list[float]:
        found: list[float] = np.bincount(owner[mask], weights[mask], count + 1)[:count].tolist()
        return found

    times = {name: np.zeros(count) for name in ACTS}
    for act, name in enumerate(_core.ACTS):
        times[_charts.act_of(name)] += sums(seconds, events["act"] == act)
    runs = events["track"] < 0
    moved = sums(events["bytes"].astype(np.float64))
    npu_flops = sums(events["flops"].astype(np.float64), runs)
    element = np.zeros(count + 1, np.int64)
    element[owner[runs]] = events["element"][runs]

    def of(i: int, product: dict[str, Any]) -> ProfiledProduct:
        batch, m, k, n = shape = product["shape"]
        roof, multiplied = 0.0, ""
        if product["on_npu"] and npu_flops[i]:
            multiplied = _core.ELEMENTS[element[i]]
            roof = _roof.seconds(multiplied, shape, npu_flops[i], cores)
        work = Work(
            products=batch,
            seconds=(product["end"] - product["begin"]) * 1e-9,
            **{name: float(times[name][i]) for name in ACTS},
            bytes=int(moved[i]),
            flops=2.0 * batch * m * k * n,
            npu_flops=npu_flops[i],
            cpu_seconds=product["cpu_nanoseconds"] * 1e-9,
            roof_seconds=roof,
        )
        names = ("dtype", "method", "on_npu", "simulated", "fallback", "reason")
        same = {name: product[name] for name in names}
        return ProfiledProduct(
            shape=shape,
            element=multiplied,
            start=(product["begin"] - trace.begin) * 1e-9,
            work=work,
            **same,
        )

    return tuple(of(i, product) for i, product in enumerate(trace.products))

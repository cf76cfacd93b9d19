"""Measuring this machine, so that products are decided and planned by what it does.

The NPU is measured run by run while the engine is closed, the host's packing and NumPy on their
own, and at last whole products, to see how far they are from the sum of it all.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from os import PathLike
from typing import Any

from npublas import _config, _core, _rates, _simulator, _stats, _tuning, _tuning_plot
from npublas._machine import clocks
from npublas._measuring import Measuring, Progress
from npublas._table import html_table, mebibytes, si, text_table
from npublas._tuning import Entry
from npublas._version import __version__

_HEAD = ("", "this machine", "unmeasured", "what it is")


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
    start = time.perf_counter()
    _core.set_correcting(False)  # rates are about to change as they are measured
    runtime = _config.get_config().runtime
    simulated = runtime in ("simulator", _simulator.path())
    # What opens is put to the test, which has to be computed.
    computing = _simulator.settings(compute=1) if simulated else contextlib.nullcontext()
    try:
        with computing, _stats.uncounted():
            measuring = Measuring(quick)
            measuring.run(progress or (lambda *_: None))
            return _conclude(measuring, save, start)
    except BaseException:
        status = _core.engine_status()
        if status["state"] == "open":
            _tuning.apply(status)  # as it was
        else:
            _tuning.use(None, simulated=True)
        raise


def _conclude(measuring: Measuring, save: bool, start: float) -> Tuning:
    """Use what was measured from now on, keep it, and say what it is."""
    key = measuring.key
    fitted = _rates.fit(measuring.records, measuring.rates)
    rates = {**measuring.rates, **fitted}
    rates.pop("measured", None)
    records = [{"kind": type(r).__name__.lower(), **asdict(r)} for r in measuring.records]
    wake = _rates.wake_seconds(measuring.records)
    file = ""
    if measuring.simulated and key is None:
        measuring.notes.append(
            "the simulator's clock was turned on in this process, not by "
            "NPUBLAS_SIMULATOR_CLOCK: nothing of this is used"
            if measuring.clocked
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
            window_bytes=measuring.window,
            wake_seconds=wake,
            records=records,
        )
        _tuning.use(entry, measuring.simulated)
        if save:
            try:
                file = str(_tuning.store(entry))
            except OSError as error:
                measuring.notes.append(f"it could not be kept: {error}")
    return Tuning(
        rates=rates,
        machine=str(key) if key else "the simulator" if measuring.simulated else "this CPU",
        measured=tuple(fitted),
        simulated=measuring.simulated,
        file=file,
        window_bytes=measuring.window,
        wake_seconds=wake,
        clocks=clocks(),
        notes=tuple(measuring.notes),
        records=records,
        seconds=time.perf_counter() - start,
    )

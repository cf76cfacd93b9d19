"""Charts, drawn with matplotlib, which comes with the extra `report`.

A chart is a `Figure` that nobody shows: `svg` makes text of it for a page, `save` a file.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping, Sequence
from os import PathLike
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np

from npublas import _core, _roof
from npublas._table import si
from npublas._trace import Trace

# Of Paul Tol's bright and muted schemes, which differ for the colour-blind, too.
COLOURS = {
    "plan": "#332288", "pack": "#4477aa", "wait": "#e4e4e4", "run": "#228833", "unpack": "#66ccee",
    "sync": "#ccbb44", "finish": "#aa3377", "cpu": "#ee6677",
}  # fmt: skip
ACT_NAMES = {"cpu": "CPU", "plan": "decide, plan"}
PACKED = ", packed B"  # how a series is called that is another's with packed weights
CPU = "NumPy float32 on this CPU"
_SERIES = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#332288", "#999933")
_MARKERS = "osD^vPX*"
_DASHES = ("-", "--", ":")
_VECTORS = 3000  # events; more are drawn as a picture in the picture


class MissingCharts(ImportError):
    """matplotlib is not installed, or doesn't work."""


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        figure = importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise MissingCharts(
            f"charts need matplotlib ({error}): pip install 'npublas[report]'"
        ) from error
    drawn = figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots()


def check() -> None:
    """Raise `MissingCharts` if nothing can be drawn."""
    _figure(1, 1)


def entitle(figure: Any, title: str) -> None:
    """Give a chart a last line, such as that it is of a simulation: a picture travels alone."""
    figure.supxlabel(title, fontsize=8, x=0.01, ha="left")  # above are legends


def svg(figure: Any) -> str:
    """The chart as an element of an HTML page; its texts stay texts."""
    matplotlib = importlib.import_module("matplotlib")
    text = io.StringIO()
    # A fixed salt and no date: the same chart is the same text.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "npublas"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def save(figure: Any, path: str | PathLike[str]) -> None:
    """Write the chart to a file whose ending says what: .png, .svg, .pdf."""
    figure.savefig(path, dpi=150)


def timeline(trace: Trace) -> Any:
    """What each core and thread did when."""
    tracks = [-1 - core for core in trace.cores()] + trace.workers()
    events = trace.events
    begin = (trace.running() - trace.begin) * 1e-6
    length = (events["end"] - trace.begin) * 1e-6 - begin
    figure, axes = _figure(11, 0.9 + 0.42 * max(len(tracks), 1))
    names = [
        f"core {-1 - track}" if track < 0 else f"thread {track}, {trace.threads[track]}"
        for track in tracks
    ]
    drawn = {}
    # What encloses others first: waiting, and a product on the CPU.
    for act in sorted(
        range(len(_core.ACTS)), key=lambda act: _core.ACTS[act] not in ("wait", "cpu")
    ):
        name = act_of(_core.ACTS[act])
        for row, track in enumerate(tracks):
            mine = (events["act"] == act) & (events["track"] == track)
            if mine.any():
                drawn[name] = axes.broken_barh(
                    list(zip(begin[mine], length[mine], strict=True)), (row - 0.4, 0.8),
                    facecolors=COLOURS[name], edgecolors="white", linewidth=0.2,
                    rasterized=len(begin) > _VECTORS,
                )  # fmt: skip
    axes.set_yticks(range(len(tracks)), names)
    axes.set_ylim(len(tracks) - 0.5, -0.5)
    axes.set_xlim(0, trace.seconds * 1e3)
    axes.set_xlabel("ms")
    axes.spines[["top", "right"]].set_visible(False)
    if drawn:
        order = [name for name in COLOURS if name in drawn]
        figure.legend(
            [drawn[name] for name in order], [ACT_NAMES.get(name, name) for name in order],
            loc="outside upper center", ncols=len(order), frameon=False,
        )  # fmt: skip
    return figure


def act_of(name: str) -> str:
    """The act that an act of the core is shown as.

    >>> act_of("pack_b"), act_of("run")
    ('pack', 'run')
    """
    shared = {"decide": "plan", "pack_a": "pack", "pack_b": "pack", "repair": "finish"}
    return shared.get(name, name)


def shares(bars: Mapping[str, Mapping[str, float]]) -> Any:
    """For each name, how its seconds of work are divided among the acts; waiting is left out."""
    figure, axes = _figure(11, 1.0 + 0.36 * max(len(bars), 1))
    acts = [act for act in COLOURS if act != "wait"]
    left = np.zeros(len(bars))
    whole = np.array([sum(times.get(act, 0.0) for act in acts) for times in bars.values()])
    whole[whole == 0] = 1
    rows = np.arange(len(bars))
    for act in acts:
        width = np.array([times.get(act, 0.0) for times in bars.values()]) / whole
        if not width.any():
            continue
        axes.barh(rows, width, left=left, color=COLOURS[act], label=ACT_NAMES.get(act, act))
        for row in rows[width > 0.06]:
            axes.text(
                left[row] + width[row] / 2, row, f"{width[row]:.0%}", color="white",
                ha="center", va="center", fontsize=8,
            )  # fmt: skip
        left += width
    axes.set_yticks(rows, [shorten(name, 64, placeholder=" ...") for name in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlabel("share of the time spent by cores and threads, but for waiting")
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


class Point(NamedTuple):
    """A product in a roofline: operations per compulsory byte, and operations per second."""

    intensity: float
    flops_per_second: float


def roofline(series: Mapping[str, Sequence[Point]], elements: Sequence[str], cores: int) -> Any:
    """Speeds under the roofs of what the NPU multiplies: cores' peaks and memory's speed."""
    figure, axes = _figure(8, 5)
    points = [point for line in series.values() for point in line]
    low = min([1.0, *(p.intensity for p in points)]) / 1.5
    high = max([3e3, *(p.intensity for p in points)]) * 1.5
    along = np.geomspace(low, high, 400)
    for element, dashes in zip(elements, _DASHES, strict=False):
        peak = _roof.FLOPS_PER_CORE[element] * cores
        axes.loglog(
            along, np.minimum(peak, along * _roof.MEMORY_BYTES_PER_SECOND) * 1e-9, dashes,
            color="#888888", label=f"roof of {element}, {_cores(cores)}: {si(peak, 'op/s')}",
        )  # fmt: skip
    styles = _styles(list(series))
    for name, line in series.items():
        x, y = [p.intensity for p in line], [p.flops_per_second * 1e-9 for p in line]
        axes.loglog(x, y, label=name, **{**styles[name], "linestyle": "none"})
    axes.set_xlabel("operations per byte of A, B and C")
    axes.set_ylabel("GFLOP/s")
    return _finished(figure, axes)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    labels: tuple[str, str],
    dashed: Sequence[str] = (),
) -> Any:
    """Points joined by lines on logarithmic axes; those named in `dashed` are no measurements."""
    figure, axes = _figure(8, 5)
    styles = _styles([name for name in series if name not in dashed])
    for name, line in series.items():
        x, y = [p[0] for p in line], [p[1] for p in line]
        if name in dashed:
            dashes = _DASHES[dashed.index(name) % len(_DASHES)]
            axes.loglog(x, y, dashes, color="#888888", label=name)
        else:
            axes.loglog(x, y, label=name, **styles[name])
    ticks = sorted({x for line in series.values() for x, _ in line})
    if ticks and len(ticks) <= 12 and all(x == int(x) for x in ticks):
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    return _finished(figure, axes)


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each kind of product: filled and joined if B is packed."""
    kinds = list(dict.fromkeys(name.removesuffix(PACKED) for name in names if name != CPU))
    styles: dict[str, dict[str, Any]] = {}
    for name in names:
        number = kinds.index(name.removesuffix(PACKED)) if name != CPU else 0
        colour = _SERIES[number % len(_SERIES)] if name != CPU else "#000000"
        fresh = name + PACKED in names
        styles[name] = {
            "color": colour,
            "marker": _MARKERS[number % len(_MARKERS)] if name != CPU else "x",
            "linestyle": ":" if fresh else "-",
            "markerfacecolor": "white" if fresh else colour,
            "markersize": 6,
        }
    return styles


def _finished(figure: Any, axes: Any) -> Any:
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _cores(cores: int) -> str:
    return "one core" if cores == 1 else f"{cores} cores"

"""Charts of a tuning: NumPy over size, the NPU's rates, and packing. For the extra `report`."""

from __future__ import annotations

import importlib
from os import PathLike
from typing import Any

from npublas import _charts


def draw(title: str, records: list[dict[str, Any]], path: str | PathLike[str]) -> None:
    """Write the charts to a file."""
    _charts.check()
    panels = [_numpy, _npu, _packing] if _npu_bars(records) else [_numpy, _packing]
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(11 * len(panels) / 3, 3.6), layout="constrained"
    )
    for panel, axes in zip(panels, figure.subplots(1, len(panels)), strict=True):
        panel(axes, records)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=9)
    _charts.save(figure, path)


def _numpy(axes: Any, records: list[dict[str, Any]]) -> None:
    mine = [r for r in records if r["kind"] == "cpu" and r["shape"][0] > 1]
    for threads in sorted({r["threads"] for r in mine}):
        series = sorted((r["shape"][0], r["seconds"]) for r in mine if r["threads"] == threads)
        label = f"{threads} thread{'s' * (threads > 1)}" if threads else "as it comes"
        axes.plot(
            [n for n, _ in series], [2e-9 * n**3 / s for n, s in series], marker="o", label=label
        )
    axes.set_xscale("log", base=2)
    axes.set(xlabel="n of n × n × n", ylabel="GFLOP/s", title="NumPy, float32")
    axes.set_ylim(bottom=0)
    if mine:
        axes.legend(frameon=False, fontsize=8)


def _npu(axes: Any, records: list[dict[str, Any]]) -> None:
    bars = _npu_bars(records)
    names = list(reversed(bars))
    axes.barh(names, [bars[name] for name in names], color="#228833")
    axes.set(xlabel="TOP/s reached", title="NPU")


def _npu_bars(records: list[dict[str, Any]]) -> dict[str, float]:
    """What was reached, by type: one core after the other, and all at once."""
    bars: dict[str, float] = {}
    for r in records:
        if r["kind"] == "run" and r["what"] == "macs":
            m, k, n = r["shape"]
            cores = r["cores"]
            name = f"core {cores[0]}" if len(cores) == 1 else f"{len(cores)} cores"
            bars[f"{r['element']}, {name}"] = 2e-12 * m * k * n * len(cores) / r["period"]
    return bars


def _packing(axes: Any, records: list[dict[str, Any]]) -> None:
    bars = {
        _work_and_threads(r): r["bytes_per_second"] * 1e-9 for r in records if r["kind"] == "host"
    }
    names = list(reversed(bars))
    axes.barh(names, [bars[name] for name in names], color="#4477aa")
    axes.set(xlabel="GB/s, read and written", title="packing")


def _work_and_threads(record: dict[str, Any]) -> str:
    """In words.

    >>> _work_and_threads({"work": "pack_a", "threads": 1})
    'pack A, 1 thread'
    """
    work, operand = record["work"].split("_")
    threads = record["threads"]
    return f"{work} {operand.upper()}, {threads} thread{'s' * (threads > 1)}"

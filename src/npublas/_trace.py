"""What threads and cores did while something recorded: as columns, and as a Chrome trace.

An event is an act (`_core.ACTS`) of a product on a track: a thread has a number from 0, NPU core c
is -1 - c. Times are nanoseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npublas import _core
from npublas._version import __version__

NPU, HOST = 1, 2  # the processes of a Chrome trace


@dataclass(frozen=True)
class Trace:
    """One recording. Events and products are in the order of their beginnings."""

    begin: int
    end: int
    cpu_nanoseconds: int
    dropped: int
    threads: dict[int, str]
    products: list[dict[str, Any]]
    events: dict[str, NDArray[Any]]

    @property
    def seconds(self) -> float:
        """The time from the recording's beginning to its end."""
        return (self.end - self.begin) * 1e-9

    @property
    def simulated(self) -> bool:
        """True if some product ran on the simulator."""
        return any(product["simulated"] for product in self.products)

    def cores(self) -> list[int]:
        """The NPU cores that ran something."""
        tracks: NDArray[Any] = self.events["track"]
        return sorted(-1 - int(track) for track in np.unique(tracks[tracks < 0]))

    def workers(self) -> list[int]:
        """The threads that did something themselves, beside waiting for the NPU's runs."""
        tracks = {int(track) for track in np.unique(self.events["track"]) if track >= 0}
        return sorted(tracks | {int(product["thread"]) for product in self.products})

    def running(self) -> NDArray[np.int64]:
        """From when each event had its track to itself.

        A run that was submitted while another was under way on its core has waited in the driver's
        queue until that one ended. (Acts of a thread enclose one another, and keep their times.)
        """
        begin: NDArray[np.int64] = self.events["begin"].copy()
        end, track = self.events["end"], self.events["track"]
        for core in self.cores():
            mine = np.flatnonzero(track == -1 - core)
            before = np.maximum.accumulate(end[mine])[:-1]
            begin[mine[1:]] = np.minimum(np.maximum(begin[mine[1:]], before), end[mine[1:]])
        return begin


def stop(recording: _core.Recording) -> Trace:
    """End a recording."""
    return Trace(**recording.stop())


def label(product: dict[str, Any]) -> str:
    """Type and shape in words.

    >>> label({"dtype": "int8", "shape": (2, 3, 4, 5)})
    'int8 2 × 3×4×5'
    """
    batch, m, k, n = product["shape"]
    stack = f"{batch} × " if batch != 1 else ""
    return f"{product['dtype']} {stack}{m}×{k}×{n}"


def write_chrome(trace: Trace, path: str | PathLike[str]) -> None:
    """Write the trace as JSON for ui.perfetto.dev and chrome://tracing."""
    document = {
        "traceEvents": list(_chrome_events(trace)),
        "displayTimeUnit": "ms",
        "otherData": {
            "npublas": __version__,
            "simulated": trace.simulated,
            "dropped": trace.dropped,
        },
    }
    Path(path).write_text(json.dumps(document), encoding="utf-8")


def _chrome_events(trace: Trace) -> Iterator[dict[str, Any]]:
    npu = "NPU (simulated)" if trace.simulated else "NPU"
    for process, name in ((NPU, npu), (HOST, "host")):
        yield _named("process_name", process, 0, name=name)
        yield _named("process_sort_index", process, 0, sort_index=process)
    for core in trace.cores():
        yield _named("thread_name", NPU, core, name=f"core {core}")
    for number in trace.workers():
        name = f"thread {number} ({trace.threads[number]})"
        yield _named("thread_name", HOST, number, name=name)

    def slice_(name: str, process: int, track: int, begin: int, end: int, **args: Any) -> Any:
        # Microseconds, with the nanoseconds behind the point.
        ts, dur = (begin - trace.begin) / 1e3, (end - begin) / 1e3
        return {
            "name": name, "cat": "npublas", "ph": "X",
            "pid": process, "tid": track, "ts": ts, "dur": dur, "args": args,
        }  # fmt: skip

    for product in trace.products:
        where = "NPU" if product["on_npu"] else "CPU"
        yield slice_(
            f"{label(product)} on the {where}", HOST, product["thread"],
            product["begin"], product["end"], product=product["product"], reason=product["reason"],
        )  # fmt: skip
    events = trace.events
    columns = [events[name].tolist() for name in ("act", "track", "product", "begin", "end")]
    more = [events[name].tolist() for name in ("bytes", "flops", "element")]
    for act, track, product, begin, end, moved, flops, element, start in zip(
        *columns, *more, trace.running().tolist(), strict=True
    ):
        args: dict[str, Any] = {"product": product}
        if moved:
            args["bytes"] = moved
        if flops:
            args["flops"] = flops
        if track < 0:
            args |= {"element": _core.ELEMENTS[element], "queued_us": (start - begin) / 1e3}
        process, number = (NPU, -1 - track) if track < 0 else (HOST, track)
        yield slice_(_core.ACTS[act], process, number, start, end, **args)


def _named(what: str, process: int, track: int, **args: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": track, "args": args}

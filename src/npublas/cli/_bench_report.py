"""What a board's owner sends in: one archive with what there is, what was measured, and a page.

What belongs to somebody is taken out: the names of the user and of the machine, and of paths that
are not the system's own, all but the last part.
"""

from __future__ import annotations

import getpass
import json
import re
import socket
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import npublas
from npublas import _charts, _core, _report, _tuning
from npublas._table import html_table
from npublas.cli import _bench
from npublas.cli._bench_cases import Result
from npublas.cli._terminal import wrap


def write(results: Sequence[Result], path: Path) -> list[str]:
    """Writes the archive; returns what to say of it."""
    clean = cleaner()
    info = clean(npublas.info().to_dict())
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "info": info,
        "rates": _core.current_rates(),  # what predictions are made with, measured or not
        "tuning": clean(_tunings()),
        "bench": clean(_bench.document(results)),
    }
    facts = [
        (str(clean(name)), str(clean(what)))
        for name, what in npublas.info()._rows()
        if name not in ("settings",)
    ]
    page, note = _page(results, facts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("report.json", json.dumps(document, indent=1))
        archive.writestr("report.html", page)
    return [
        f"Written: {path}",
        *wrap(
            "It holds report.json and report.html, and nothing of your data: look at them, then "
            "attach the file to an issue of the project.",
            indent="",
        ),
        *note,
    ]


def _tunings() -> list[dict[str, Any]]:
    """What `npublas tune` has kept, of this machine or others."""
    try:
        kept = _tuning.read(_tuning.path(npublas.info().simulated))
    except (OSError, npublas.TuningFileError):
        return []
    return [entry.to_dict() for entry in kept]


def _page(results: Sequence[Result], facts: list[tuple[str, str]]) -> tuple[str, list[str]]:
    """The page, and what to say if it has no charts."""
    head, *rows = _rows(results)
    sections = [
        *([_report.text(_report.SIMULATED, "note")] if npublas.info().simulated else []),
        _report.section("The machine", _report.facts(facts)),
        _report.section("Where the figures come from", _report.facts([*_bench.sources().items()])),
        _report.section("Products", html_table("", head, rows)),
        *(
            [_report.text(_bench.disturbance(results), "note")]
            if any(r.disturbed for r in results)
            else []
        ),
    ]
    titles = {
        "speed": "Speed over size", "error": "Error over size", "roofline": "Under the roof",
        "shares": "Where the time went",
    }  # fmt: skip
    try:
        for name, chart in _bench.charts(results).items():
            sections.append(_report.section(titles[name], _charts.svg(chart)))
    except _charts.MissingCharts as error:
        return _report.page("npublas bench", sections), wrap(f"The page has no charts: {error}")
    return _report.page("npublas bench", sections), []


def _rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("time", "GFLOP/s", "NumPy float32", "faster", "roof", "error", "plain call", "product")
    ]
    for r in results:
        rows.append(
            (
                f"{r.seconds * 1e3:.3f} ms",
                f"{r.gflops:.4g}",
                f"{r.numpy_float32_best * 1e3:.3f} ms",
                f"{r.speedup:.2f}",
                f"{r.roof_share:.1%}",
                f"{r.error:.1e}" if r.right else f"WRONG {r.error:.1e}",
                r.would_run_on,
                f"{r.kind} {r.size}{', packed B' if r.packed else ''} ({r.source})",
            )
        )
    return rows


_PATH = re.compile(r"(?<![\w.~/])/(?:[^\s/()'\",:;]+/)*[^\s/()'\",:;]+")
_SYSTEM = ("usr", "lib", "lib64", "dev", "sys", "proc", "etc", "vendor", "boot")


def _short(path: re.Match[str]) -> str:
    parts = path[0].split("/")
    return path[0] if parts[1] in _SYSTEM else f".../{parts[-1]}"


def cleaner() -> Callable[[Any], Any]:
    """A function that takes private names out of all strings of what JSON can hold."""
    private = [(_or_nothing(getpass.getuser), "user"), (socket.gethostname(), "host")]
    patterns = [
        (re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"), instead)
        for name, instead in private
        if len(name) > 1 and name not in ("root", "localhost")  # nobody's
    ]

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {clean(key): clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        if not isinstance(value, str):
            return value
        value = _PATH.sub(_short, value)
        for pattern, instead in patterns:
            value = pattern.sub(instead, value)
        return value

    return clean


def _or_nothing(function: Callable[[], str]) -> str:
    try:
        return function()
    except (OSError, KeyError):  # a user without an entry
        return ""

"""`npublas tune` and `npublas tuning`: measuring the machine, and what is kept of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import npublas
from npublas import _tune, _tuning
from npublas._table import mebibytes, text_table
from npublas.cli._failure import Failure
from npublas.cli._terminal import WIDTH, say
from npublas.errors import TuningFileError

_BAR = 30  # characters


def run(quick: bool, save: bool, plot: Path | None) -> int:
    """Measures and shows; the exit code."""
    if plot is not None:
        if plot.suffix not in (".png", ".svg", ".pdf"):
            raise Failure(f"{plot}: a plot is a .png, .svg or .pdf")
        if not plot.absolute().parent.is_dir():
            raise Failure(f"there is no folder {plot.parent} for the plot")
        from npublas import _charts

        try:
            _charts.check()  # before the two minutes, not after
        except ImportError as error:
            raise Failure(str(error)) from None
    progress = _progress()
    try:
        tuning = npublas.tune(quick=quick, save=save, progress=progress)
    finally:
        progress(0, 0, "")
    say(*repr(tuning).splitlines(), f"it took {tuning.seconds:.0f} s")
    if plot is not None:
        tuning.plot(plot)
        say(f"drawn in {plot}")
    return 0


def manage(action: str, file: Path | None) -> int:
    """Does what `npublas tuning ACTION` says; the exit code."""
    if action == "clear":
        removed = _tuning.clear()
        say(*(f"removed {path}" for path in removed) if removed else ("nothing is kept",))
        return 0
    if action == "import":
        assert file is not None
        return _import(file)
    entries = _kept()
    if not entries:
        say("nothing is kept; `npublas tune` measures this machine")
        return 1
    if action == "export":
        assert file is not None
        if not file.absolute().parent.is_dir():
            raise Failure(f"there is no folder {file.parent} for {file.name}")
        _tuning.write(file.absolute(), entries)
        say(f"{_counted(entries)} in {file}")
        return 0
    for entry in entries:
        simulated = " (simulated)" if entry.key.simulated else ""
        say(
            f"{entry.key}{simulated}",
            f"measured {entry.measured} by npublas {entry.npublas}"
            + (f"; {mebibytes(entry.window_bytes)} of NPU memory" if entry.window_bytes else ""),
            text_table(("", "measured", "unmeasured", "what it is"), _tune.rows_of(entry.rates)),
            "",
        )
    return 0


def _import(file: Path) -> int:
    try:
        entries = _tuning.read(file)
    except TuningFileError as error:
        raise Failure(f"{file} is not imported: {error}") from None
    if not entries:
        raise Failure(f"{file} is not imported: it has no entries")
    for entry in entries:
        say(f"kept in {_tuning.store(entry)}: {entry.key}")
    say("used where chip, runtime, driver and clocks are these")
    return 0


def _kept() -> list[_tuning.Entry]:
    entries: list[_tuning.Entry] = []
    for simulated in (False, True):
        path = _tuning.path(simulated)
        try:
            entries += _tuning.read(path)
        except FileNotFoundError:
            continue
        except TuningFileError as error:
            raise Failure(
                f"{path} can't be used: {error}; `npublas tuning clear` removes it"
            ) from None
    return entries


def _counted(entries: list[_tuning.Entry]) -> str:
    return "1 entry" if len(entries) == 1 else f"{len(entries)} entries"


def _progress() -> Callable[[int, int, str], None]:
    """A bar on stderr if that is a terminal; without steps it is taken away."""
    if not sys.stderr.isatty():
        return lambda done, total, label: None

    def draw(done: int, total: int, label: str) -> None:
        line = ""
        if total:
            full = _BAR * done // total
            line = f"[{'#' * full}{'.' * (_BAR - full)}] {100 * done // total:3d} % {label}"
        sys.stderr.write(f"\r{line:<{WIDTH - 1}.{WIDTH - 1}}" + ("\r" if not total else ""))
        sys.stderr.flush()

    return draw

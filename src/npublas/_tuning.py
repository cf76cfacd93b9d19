"""What `npublas tune` has measured, kept under the XDG cache directory.

A measurement is of one machine: of its chip, its runtime, its driver and the clocks that these may
run at. It is used where all of them are the same, and only there; and of the simulator only while
its clock is on, which alone gives it a speed. Those have a file of their own, which no board reads.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from npublas import _config, _core, _machine
from npublas._verify import cache_folder
from npublas.errors import TuningFileError

FORMAT = 2
_MARK = "npublas tuning"  # the key of the format's number
_LARGEST = 4 << 20  # bytes of a file
_CLOCK = "NPUBLAS_SIMULATOR_CLOCK"
_logger = logging.getLogger("npublas")

# What each rate may be: far beyond what any machine does, and never NaN or infinite.
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "efficiency": (0.01, 1.0),
    "slack": (0.1, 1000.0),
    "normal_factor": (1.0, 100.0),
    "threads": (1, 1024),
    "cpu_flops": (1e6, 1e16),
}
_SECONDS, _BYTES, _PEAKS = (0.0, 10.0), (1e5, 1e13), (1e5, 1e16)
_ELEMENTS = ("int8", "float16", "int4")


@dataclass(frozen=True)
class Key:
    """The machine that a measurement is of."""

    chip: str
    runtime: str
    driver: str
    clocks: str  # the highest that are allowed
    simulated: bool

    def __str__(self) -> str:
        """In words."""
        parts = [self.chip, f"runtime {self.runtime}", f"driver {self.driver or 'unknown'}"]
        return ", ".join([*parts, self.clocks or "clocks unknown"])


@dataclass(frozen=True)
class Entry:
    """One measurement: of which machine, when, by which npublas, and what came of it."""

    key: Key
    measured: str
    npublas: str
    rates: dict[str, Any]
    window_bytes: int
    wake_seconds: float
    records: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)


def key_of(
    status: Mapping[str, Any],
    root: Path = Path("/"),
    environment: Mapping[str, str] = os.environ,
) -> Key | None:
    """Return the key of an open engine's machine; None for a simulator that has no clock."""
    if status["simulated"]:
        clocks = environment.get(_CLOCK, "")
        if clocks in ("", "off"):
            return None
        # Whatever else is set of the simulator may change its speed.
        clocks = " ".join(
            f"{name.removeprefix('NPUBLAS_SIMULATOR_').lower()}={value}"
            for name, value in sorted(environment.items())
            if name.startswith("NPUBLAS_SIMULATOR_") and value
        )
    else:
        clocks = ", ".join(
            f"{clock.name} at up to {clock.maximum / 1e6:.0f} MHz"
            for clock in _machine.clocks(root)
        )
    return Key(
        chip=str(status["chip"]),
        runtime=str(status["runtime_version"]),
        driver=str(status["driver_version"]),
        clocks=clocks,
        simulated=bool(status["simulated"]),
    )


def path(simulated: bool = False) -> Path:
    """Return the file of the cache."""
    return cache_folder() / ("tuning-simulated.json" if simulated else "tuning.json")


def expect() -> None:
    """Let products that might pay open the engine, if there is a measurement it may be about.

    Before the engine is open nobody knows which machine this is; so rates are those of the best
    schedule there could be, and all is decided anew once it is open.
    """
    if path(_config.get_config().runtime == "simulator").is_file():
        _core.set_rates("stretch")


def apply(status: Mapping[str, Any]) -> None:
    """Take the rates of this machine, if they were measured; called when the engine has opened."""
    key = key_of(status)
    entry = _find(key) if key else None
    use(entry, simulated=bool(status["simulated"]))


def use(entry: Entry | None, simulated: bool) -> None:
    """Decide and plan by what was measured, or else by what is believed of any board."""
    if entry is None:
        _core.set_rates("pessimistic")
    else:
        _core.set_rates("target", {**entry.rates, "measured": True})
    # A simulator that nobody has tuned is not what predictions are about.
    _core.set_correcting(entry is not None or not simulated)


def _find(key: Key) -> Entry | None:
    """Return the entry of a machine, or None; one message says why, unless nobody ever tuned."""
    file = path(key.simulated)
    try:
        entries = read(file)
    except FileNotFoundError:
        return None
    except (OSError, TuningFileError) as error:
        _logger.warning(
            "the tuning in %s is ignored: %s; `npublas tune` makes a new one", file, error
        )
        return None
    for entry in entries:
        if entry.key == key:
            return entry
    if entries:
        _logger.info(
            "the tuning in %s is ignored: it is of %s, and this is %s; `npublas tune` measures it",
            file,
            " and of ".join(str(entry.key) for entry in entries),
            key,
        )
    return None


def read(file: Path) -> list[Entry]:
    """Return what a file has.

    Raises
    ------
    OSError
        If it can't be read.
    TuningFileError
        If it is no tuning, of another format, or has numbers that can't be.
    """
    with file.open("rb") as stream:
        raw = stream.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise TuningFileError(f"it has more than {_LARGEST >> 20} MiB")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        raise TuningFileError("it is not JSON") from None
    if not isinstance(content, dict) or _MARK not in content:
        raise TuningFileError("it is no tuning of npublas")
    if content[_MARK] != FORMAT:
        raise TuningFileError(f"it has format {content[_MARK]!r}, and this npublas reads {FORMAT}")
    entries = content.get("entries")
    if not isinstance(entries, list):
        raise TuningFileError("it has no list of entries")
    return [_entry(entry) for entry in entries]


def store(entry: Entry) -> Path:
    """Add an entry to the cache, in the place of the one of the same machine, in one step."""
    file = path(entry.key.simulated)
    others: list[Entry] = []
    with contextlib.suppress(OSError, TuningFileError):  # what can't be read is written anew
        others = [other for other in read(file) if other.key != entry.key]
    write(file, [*others, entry])
    return file


def write(file: Path, entries: list[Entry]) -> None:
    """Write a file in one step: who reads it meanwhile has the old or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {_MARK: FORMAT, "entries": [entry.to_dict() for entry in entries]}
    with tempfile.NamedTemporaryFile(
        "w", dir=file.parent, prefix=file.name, suffix=".new", delete=False, encoding="utf-8"
    ) as stream:
        try:
            stream.write(json.dumps(content, indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(stream.name, 0o644)  # noqa: PTH101
            os.replace(stream.name, file)  # noqa: PTH105
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise


def clear() -> list[Path]:
    """Remove what is kept; return the files that there were."""
    removed = []
    for file in (path(), path(simulated=True)):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
            removed.append(file)
    return removed


def _entry(raw: object) -> Entry:
    """An entry, checked."""
    if not isinstance(raw, dict):
        raise TuningFileError("an entry is no object")
    key = raw.get("key")
    texts = ("chip", "runtime", "driver", "clocks")
    if (
        not isinstance(key, dict)
        or any(not isinstance(key.get(name), str) for name in texts)
        or not isinstance(key.get("simulated"), bool)
    ):
        raise TuningFileError(f"an entry's key must have {', '.join(texts)} and simulated")
    for name in ("measured", "npublas"):
        if not isinstance(raw.get(name), str):
            raise TuningFileError(f"an entry has no {name}")
    records = raw.get("records")
    if not isinstance(records, list) or any(not isinstance(record, dict) for record in records):
        raise TuningFileError("an entry has no records")
    return Entry(
        key=Key(**{name: key[name] for name in (*texts, "simulated")}),
        measured=raw["measured"],
        npublas=raw["npublas"],
        rates=check_rates(raw.get("rates")),
        window_bytes=int(_number("window_bytes", raw.get("window_bytes"), (0, 1 << 50))),
        wake_seconds=_number("wake_seconds", raw.get("wake_seconds"), (0.0, 100.0)),
        records=records,
    )


def check_rates(rates: object) -> dict[str, Any]:
    """Return rates that can be, all of them, or raise TuningFileError."""
    if not isinstance(rates, dict):
        raise TuningFileError("an entry has no rates")
    wanted = _core.rates("target").keys() - {"measured"}
    if rates.keys() != wanted:
        odd = sorted(rates.keys() ^ wanted)
        raise TuningFileError(f"the rates are not those that npublas has: {', '.join(odd)}")
    peaks = rates["macs_per_second"]
    if not isinstance(peaks, dict) or peaks.keys() != set(_ELEMENTS):
        raise TuningFileError(f"macs_per_second must have {', '.join(_ELEMENTS)}")
    checked: dict[str, Any] = {
        name: _number(name, rates[name], _bounds(name)) for name in wanted - {"macs_per_second"}
    }
    checked["threads"] = int(checked["threads"])
    checked["macs_per_second"] = {
        name: _number(f"macs_per_second of {name}", peaks[name], _PEAKS) for name in _ELEMENTS
    }
    return checked


def _bounds(name: str) -> tuple[float, float]:
    return _BOUNDS.get(name) or (_SECONDS if name.endswith("_seconds") else _BYTES)


def _number(name: str, value: object, bounds: tuple[float, float]) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not bounds[0] <= value <= bounds[1]
    ):
        raise TuningFileError(f"{name} is {value!r}, which no machine has")
    return float(value)

"""Is there an NPU, what is this machine, and which versions are these?

All three are returned, not printed, and none opens the NPU: what they say of a closed engine is
what can be seen from outside, and of an open one what it was found to be.
"""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

import numpy as np

from npublas import _config, _core, _engine, _library, _machine
from npublas._machine import Clock, Machine
from npublas._version import __version__

_FEW_FILES = 4096  # the runtime takes a file descriptor per buffer
_SELF_TEST_CURE = (
    "Runtime librknnrt 2.3.2 with driver 0.9.8 is known to answer rightly; show_versions() names "
    "yours."
)


@dataclass(frozen=True)
class Availability:
    """What `is_available` returns: true or false, and why.

    Attributes
    ----------
    available : bool
    simulated : bool
        True if it is the simulator that is available.
    cause, cure : str
        Why there is no NPU, and what can be done about it; empty if there is one.
    tested : bool
        True if the engine has been opened and has answered its self-tests, or has failed. False if
        the answer is from the outside only.
    types_off : dict of str to str
        The types whose products stay on the CPU because their self-test failed, and how it did. If
        that is all of them there is no NPU to speak of, and `available` is false.
    """

    available: bool
    simulated: bool
    cause: str
    cure: str
    tested: bool
    types_off: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Tell whether there is an NPU that can be used."""
        return self.available

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)

    def __repr__(self) -> str:
        if not self.available:
            return f"npublas: no NPU: {' '.join(filter(None, (_sentence(self.cause), self.cure)))}"
        what = "a simulated NPU" if self.simulated else "an NPU"
        how = "it has passed its self-tests" if self.tested else "not opened yet"
        if self.types_off:
            how = "; ".join(f"{name} is off: {why}" for name, why in self.types_off.items())
        return f"npublas: there is {what} ({how})"


@dataclass(frozen=True)
class Versions:
    """What `show_versions` returns: versions of everything that has a say, by name."""

    versions: dict[str, str]

    def to_dict(self) -> dict[str, str]:
        """Return the versions by name."""
        return dict(self.versions)

    def __repr__(self) -> str:
        return _lines(list(self.versions.items()))

    def _repr_html_(self) -> str:
        return _html("npublas: versions", list(self.versions.items()))


@dataclass(frozen=True)
class Info:
    """What `info` returns.

    Attributes
    ----------
    available : Availability
        Whether there is an NPU, or the one cause why not, with its cure.
    versions : Versions
        As `show_versions` returns them.
    machine : dict
        Board, chip, kernel, driver, device nodes, libraries, container.
    clocks : tuple
        Of NPU and DDR memory, where they can be read.
    governors : tuple of str
        The CPU's governors in use.
    file_limit : tuple of int
        The soft and the hard limit of open files; each NPU buffer takes one.
    settings : dict
        As `get_config` returns them.
    engine : dict
        The state of the engine: closed, open or unavailable, and what it found.
    notes : tuple of str
        What is no fault, and may explain slowness or trouble.
    """

    available: Availability
    versions: Versions
    machine: dict[str, Any]
    clocks: tuple[Clock, ...]
    governors: tuple[str, ...]
    file_limit: tuple[int, int]
    settings: dict[str, Any]
    engine: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def simulated(self) -> bool:
        """True if the NPU is the simulator."""
        return self.available.simulated

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dicts, lists, strings and numbers."""
        return asdict(self)

    def _rows(self) -> list[tuple[str, str]]:
        machine, engine = self.machine, self.engine
        state = str(engine.get("state", "closed"))
        if self.simulated:
            state += " (simulated)"
        nodes = ", ".join(f"{node['path']} ({_node_state(node)})" for node in machine["nodes"])
        rows = [
            ("NPU", repr(self.available).removeprefix("npublas: ")),
            *self.versions.versions.items(),
            ("board", machine["board"] or "unknown"),
            ("chip", machine["chip"] or machine["soc"] or "none that npublas knows"),
            ("container", machine["container"] or "no"),
            ("device nodes", nodes or "none"),
            ("engine", state),
        ]
        problems = engine.get("type_problems") or {}
        rows += [(f"{name} products", f"off: {why}") for name, why in problems.items() if why]
        rows += [
            (
                f"{clock.name} clock",
                f"{clock.current / 1e6:,.0f} of {clock.maximum / 1e6:,.0f} MHz ({clock.governor})",
            )
            for clock in self.clocks
        ]
        if self.governors:
            rows.append(("CPU governor", ", ".join(self.governors)))
        soft, hard = (f"{n:,}" if n >= 0 else "unlimited" for n in self.file_limit)
        rows.append(("open files", f"{soft} (hard limit {hard})"))
        rows.append(("settings", ", ".join(f"{k}={v!r}" for k, v in self.settings.items())))
        rows += [("note", note) for note in self.notes]
        return rows

    def __repr__(self) -> str:
        return _lines(self._rows())

    def _repr_html_(self) -> str:
        return _html("npublas: info", self._rows())


def is_available() -> Availability:
    """Tell whether there is an NPU that can be used, and if not, why and what to do.

    Returns
    -------
    Availability
        True or false in an ``if``; its ``repr`` says why.

    Notes
    -----
    Nothing is opened. While the engine is closed the answer is what can be seen from outside:
    board, driver, device node, permission, library, versions. Once it was opened, or failed to, the
    answer is what came of that.

    Under ``runtime="simulator"`` it is the simulator that is available, and ``simulated`` is true.

    Examples
    --------
    >>> import npublas
    >>> where = "on the NPU" if npublas.is_available() else "on the CPU"
    """
    settings, status = _state()
    return _availability(settings, status, _machine.look(settings["runtime"]))


def info() -> Info:
    """Describe the machine, the NPU, the versions and the settings; ``npublas info`` prints it.

    Returns
    -------
    Info
        With the text as its ``repr``, and a ``to_dict`` method. Nothing is opened.

    Examples
    --------
    >>> import npublas
    >>> npublas.info().settings["device"]
    'auto'
    """
    settings, status = _state()
    machine = _machine.look(settings["runtime"])
    available = _availability(settings, status, machine)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    clocks, governors = _machine.clocks(), _machine.governors()
    return Info(
        available=available,
        versions=_versions(settings, status, machine),
        machine=asdict(machine),
        clocks=clocks,
        governors=governors,
        file_limit=files,
        settings=settings,
        engine=status,
        notes=(
            *_engine_notes(status),
            *_notes(settings, machine, clocks, governors, files[0]),
        ),
    )


def show_versions() -> Versions:
    """Return the versions of npublas and of everything that has a say in what it does.

    Returns
    -------
    Versions
        With the text as its ``repr``: at the prompt it shows, in a script it wants a ``print``, as
        all reports of npublas do.

    Examples
    --------
    >>> import npublas
    >>> sorted(npublas.show_versions().to_dict())[:3]
    ['driver', 'kernel', 'npublas']
    """
    settings, status = _state()
    return _versions(settings, status, _machine.look(settings["runtime"]))


def _state() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the engine's state."""
    return _config.get_config().to_dict(), _engine.status()


def _availability(
    settings: dict[str, Any], status: dict[str, Any], machine: Machine
) -> Availability:
    runtime = settings["runtime"]
    found = _library.diagnose(machine, runtime)
    simulated = runtime == "simulator" or bool(found.library and found.library.simulated)
    if status["state"] == "open":
        return _opened(bool(status["simulated"]), status.get("type_problems") or {})
    if status["state"] == "unavailable":
        # In the engine's words, which hold the diagnosis if there was one.
        return Availability(False, simulated, str(status["unavailable_because"]), "", True)
    if found:
        return Availability(False, False, found.cause, found.cure, False)
    return Availability(True, simulated, "", "", False)


def _opened(simulated: bool, problems: dict[str, str]) -> Availability:
    """What the self-tests have left: an NPU that is trusted with no type is none."""
    off = {name: why for name, why in problems.items() if why}
    if off and len(off) == len(problems):
        npu = "the simulated NPU" if simulated else "the NPU"
        each = "; ".join(f"{name}: {why}" for name, why in off.items())
        cause = f"{npu} failed the self-test of every type ({each})"
        return Availability(False, simulated, cause, _SELF_TEST_CURE, True, off)
    return Availability(True, simulated, "", "", True, off)


def _versions(settings: dict[str, Any], status: dict[str, Any], machine: Machine) -> Versions:
    runtime = str(status.get("runtime_version") or "")
    path = str(status.get("runtime_path") or "")
    simulated = bool(status.get("simulated"))
    if not path and settings["runtime"] == "simulator":
        path = _core.simulator_path()
        said = _core.read_runtime(path)
        runtime, simulated = said["version"], said["simulated"]
    elif not path and machine.libraries:
        library = _library.diagnose(machine, settings["runtime"]).library or machine.libraries[0]
        path, runtime, simulated = library.path, library.version, library.simulated
    driver = str(status.get("driver_version") or machine.driver_version)
    if simulated:
        driver = f"{driver} (simulated)" if status.get("driver_version") else "none (simulated)"
    elif machine.driver:
        driver = f"{machine.driver} {driver or '(version unknown: it is shown to root only)'}"
    return Versions(
        {
            "npublas": __version__,
            "python": f"{platform.python_version()} ({sys.executable})",
            "numpy": np.__version__,
            "runtime": f"{'simulated: ' * simulated}{runtime or 'version unknown'} ({path})"
            if path
            else "none",
            "driver": driver or "none",
            "kernel": f"{machine.kernel or 'unknown'} ({machine.architecture})",
            "rknn-toolkit-lite2": _toolkit_version() or "not installed",
        }
    )


def _toolkit_version() -> str:
    try:
        return importlib.metadata.version("rknn-toolkit-lite2")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _engine_notes(status: dict[str, Any]) -> list[str]:
    """What the open engine knows and a user should."""
    notes = []
    if status.get("lock_problem"):
        notes.append(
            f"no lock keeps other processes off the NPU: {status['lock_problem']}; name a file "
            "that all may write with NPUBLAS_LOCK_FILE"
        )
    if status.get("work", {}).get("retries"):
        notes.append(
            f"{status['work']['retries']:,} products came right at the second attempt only; last: "
            f"{status['last_retry']}"
        )
    if status.get("quarantined_because"):
        notes.append(f"the NPU is left alone for a while: {status['quarantined_because']}")
    if status.get("window", {}).get("contexts_unpinned"):
        notes.append("the runtime refused to choose a core; the driver does, and cores may idle")
    return notes


def _notes(
    settings: dict[str, Any],
    machine: Machine,
    clocks: Sequence[Clock],
    governors: Sequence[str],
    files: int,
) -> tuple[str, ...]:
    notes = list(_library.diagnose(machine, settings["runtime"]).notes)
    if machine.driver != "rknpu":
        return tuple(notes)
    if 0 <= files < _FEW_FILES:
        notes.append(
            f"at most {files:,} files may be open, and each NPU buffer is one: ulimit -n 65536"
        )
    slow = sorted(set(governors) - {"performance"})
    if slow:
        notes.append(
            f"CPU governor {', '.join(slow)}: calls that wait for the NPU were up to 3 times "
            "slower than with 'performance' (sudo cpupower frequency-set -g performance)"
        )
    notes += [
        f"the DDR clock is at {clock.current / 1e6:,.0f} of {clock.maximum / 1e6:,.0f} MHz; if it "
        "stays there while products run, memory limits them"
        for clock in clocks
        if clock.name == "DDR" and clock.current < clock.maximum
    ]
    return tuple(notes)


def _node_state(node: dict[str, Any]) -> str:
    if not node["exists"]:
        return "missing"
    return f"group {node['group']}, {'accessible' if node['accessible'] else 'no permission'}"


def _sentence(text: str) -> str:
    return text if not text or text.endswith(".") else f"{text}."


def _lines(rows: Sequence[tuple[str, str]]) -> str:
    """Align names and texts; long texts are left to the terminal to break, so that they paste."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows)


def _html(caption: str, rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows
    )
    return f"<table><caption>{escape(caption)}</caption>{body}</table>"

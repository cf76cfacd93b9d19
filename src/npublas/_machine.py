"""Looking at the machine: board, driver, device nodes, libraries, clocks.

Nothing is opened and nothing is judged here. Every probe takes the root of the file system, and an
unreadable file is no error but a thing that can't be seen: a board shows different things to root,
to an ordinary user and inside a container.
"""

from __future__ import annotations

import contextlib
import grp
import os
import platform
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from npublas import _core

_ELF_MACHINES = {(2, 183): "aarch64", (1, 40): "32-bit ARM", (2, 62): "x86_64", (1, 3): "i386"}
_RUNTIME = "librknnrt.so"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Node:
    """A device node that the driver offers."""

    path: str
    exists: bool
    accessible: bool
    group: str


@dataclass(frozen=True)
class Library:
    """A library file, and what the loader would think of it."""

    path: str
    architecture: str  # "" if it is no library at all, UNREADABLE if nobody can tell
    version: str  # in its own words, "" if it says nothing
    simulated: bool
    unsupported: bool
    untested: bool
    known_bad: str


@dataclass(frozen=True)
class Machine:
    """What can be seen of a machine without opening its NPU."""

    architecture: str
    bits: int  # of this Python
    kernel: str
    board: str
    device_tree: bool
    chip: str  # a chip that npublas knows, or ""
    soc: str  # what the device tree calls it
    container: str  # what it is run by, or ""
    driver: str  # "rknpu", "rocket" or ""
    driver_version: str
    nodes: tuple[Node, ...]
    stray_node: bool  # a /dev/rknpu that is no node of the driver's
    libraries: tuple[Library, ...]
    named: bool  # the libraries were named, not found


@dataclass(frozen=True)
class Clock:
    """A clock that the kernel scales, in Hz."""

    name: str
    current: int
    maximum: int
    governor: str


def look(
    runtime: str = "auto",
    root: Path = Path("/"),
    *,
    environment: Mapping[str, str] = os.environ,
    access: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK),
) -> Machine:
    """Look at the machine under `root`, and at the libraries that `runtime` means there."""
    compatible = _bytes(root / "proc/device-tree/compatible")
    driver = _driver(root)
    nodes = tuple(_nodes(root, access)) if driver == "rknpu" else ()
    stray = root / "dev/rknpu"
    named = runtime if runtime not in ("auto", "simulator") else ""
    if runtime == "auto" and environment.get("NPUBLAS_RUNTIME", "") not in ("auto", "simulator"):
        named = environment.get("NPUBLAS_RUNTIME", "")
    paths = [named] if named else _usual_places(root, environment)
    if runtime == "simulator":
        paths = []
    return Machine(
        architecture=platform.machine(),
        bits=8 * struct.calcsize("P"),
        kernel=_text(root / "proc/sys/kernel/osrelease"),
        board=_text(root / "proc/device-tree/model"),
        device_tree=compatible is not None,
        chip=_core.chip_name(compatible or b""),
        soc=_core.soc_name(compatible or b""),
        container=_container(root, environment),
        driver=driver,
        driver_version=driver_version(root),
        nodes=nodes,
        stray_node=os.path.lexists(stray)
        and any(node.path.startswith("/dev/dri/") for node in nodes)
        and not any(node.path == "/dev/rknpu" for node in nodes),
        libraries=tuple(_libraries(root, paths)),
        named=bool(named),
    )


def driver_version(root: Path = Path("/")) -> str:
    """Return the version of the vendor's driver, "" where it can't be seen (debugfs is root's)."""
    for place in (
        "sys/kernel/debug/rknpu/version",
        "sys/module/rknpu/version",
        "proc/rknpu/version",
    ):
        version = _core.parse_version(_text(root / place))
        if any(version):
            return ".".join(map(str, version))
    return ""


def clocks(root: Path = Path("/")) -> tuple[Clock, ...]:
    """Return the clocks of NPU and DDR memory, where they can be read."""
    found = []
    for folder in _glob(root / "sys/class/devfreq", "*"):
        # "fdab0000.npu" and "dmc" with the vendor's kernels; others have other addresses and names.
        name = "NPU" if "npu" in folder.name else "DDR" if "dmc" in folder.name else ""
        current = _text(folder / "cur_freq")
        if name and current.isdecimal():
            maximum = _text(folder / "max_freq")
            found.append(
                Clock(
                    name=name,
                    current=int(current),
                    maximum=int(maximum) if maximum.isdecimal() else 0,
                    governor=_text(folder / "governor"),
                )
            )
    return tuple(found)


def governors(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the CPU governors in use, each once."""
    policies = _glob(root / "sys/devices/system/cpu/cpufreq", "policy*/scaling_governor")
    return tuple(dict.fromkeys(filter(None, map(_text, policies))))


def _driver(root: Path) -> str:
    """Return which driver has the NPU: the vendor's, the mainline kernel's, or none."""
    sys = root / "sys"
    if (
        any(_exists(sys / "bus/platform/drivers" / name) for name in ("RKNPU", "rknpu"))
        or _exists(sys / "module/rknpu")
        or _exists(sys / "kernel/debug/rknpu")
        or any(_npu_minors(root))
    ):
        return "rknpu"
    if (
        _exists(sys / "bus/platform/drivers/rocket")
        or _exists(sys / "module/rocket")
        or any(_glob(root / "dev/accel", "accel*"))
    ):
        return "rocket"
    return ""


def _npu_minors(root: Path) -> Iterator[str]:
    """Yield the DRM minors of the vendor's driver: a card and a render node."""
    for uevent in _glob(root / "sys/class/drm", "*/device/uevent"):
        name = uevent.parent.parent.name
        if re.search(r"^DRIVER=RKNPU$", _text(uevent), re.IGNORECASE | re.MULTILINE):
            yield name


def _nodes(root: Path, access: Callable[[Path], bool]) -> Iterator[Node]:
    names = [f"dri/{minor}" for minor in _npu_minors(root)]
    if _exists(root / "sys/class/misc/rknpu"):
        names.append("rknpu")
    for name in names:
        path = root / "dev" / name
        group = ""
        exists = False
        with contextlib.suppress(OSError):
            gid = path.stat().st_gid
            exists = True
            group = str(gid)
            with contextlib.suppress(KeyError):
                group = grp.getgrgid(gid).gr_name
        yield Node(f"/dev/{name}", exists, exists and access(path), group)


def _container(root: Path, environment: Mapping[str, str]) -> str:
    if _exists(root / ".dockerenv"):
        return "docker"
    if _exists(root / "run/.containerenv"):
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    manager = _text(root / "run/systemd/container")
    if manager:
        return manager
    # Control groups of version 1 name the container; with version 2 its root file system does.
    group = re.search(r":/.*(docker|kubepods|libpod|lxc)", _text(root / "proc/1/cgroup"))
    mount = re.search(
        r"^(?:\S+ ){4}/ .*overlay.*(docker|containerd|containers/storage)",
        _text(root / "proc/self/mountinfo"),
        re.MULTILINE,
    )
    found = group or mount
    return found[1] if found else ""


def _usual_places(root: Path, environment: Mapping[str, str]) -> list[str]:
    """Return the loader's candidates, with the bare name replaced by what it may stand for."""
    places = []
    for candidate in _core.runtime_candidates():
        if "/" in candidate:
            places.append(candidate)
            continue
        folders = environment.get("LD_LIBRARY_PATH", "").split(":")
        places += [f"{folder}/{candidate}" for folder in folders if folder.startswith("/")]
        cache = _bytes(root / "etc/ld.so.cache") or b""
        found = re.findall(rb"(/[^\0]*/" + re.escape(_RUNTIME.encode()) + rb")\0", cache)
        places += [os.fsdecode(path) for path in found]
    return list(dict.fromkeys(places))


def _libraries(root: Path, paths: list[str]) -> Iterator[Library]:
    for path in paths:
        file = root / path.lstrip("/") if path.startswith("/") else Path(path)
        if not os.path.isfile(file):  # noqa: PTH113
            continue
        said = _core.read_runtime(str(file))
        yield Library(
            path=path,
            architecture=_architecture(file),
            version=said["version"],
            simulated=said["simulated"],
            unsupported=said["unsupported"],
            untested=said["untested"],
            known_bad=said["known_bad"],
        )


def _architecture(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            head = stream.read(20)
    except OSError:
        return UNREADABLE
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ""
    bits, machine = head[4], int.from_bytes(head[18:20], "little")
    return _ELF_MACHINES.get((bits, machine), f"ELF machine {machine}")


# pathlib raises errors where a folder on the way may not be entered, as debugfs mostly.


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _text(path: Path) -> str:
    return (_bytes(path) or b"").decode(errors="replace").strip("\0\n\t ")

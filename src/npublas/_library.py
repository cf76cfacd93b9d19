"""Finding out why there is no NPU: one cause, and its cure.

The causes are tried from the board upwards, because each one hides those after it: without the
driver there is no node, without the node nobody can open it, and so on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from npublas import _core, _machine
from npublas._machine import Library, Machine, Node

_SIMULATOR = "To try npublas without an NPU: npublas.set_config(runtime='simulator')."
_GET_RUNTIME = (
    "Install librknnrt.so 2.3.2 to /usr/lib (rknpu2/runtime/Linux/librknn_api/aarch64/librknnrt.so "
    "in Rockchip's rknn-toolkit2), or name it with NPUBLAS_RUNTIME=/path/to/librknnrt.so."
)
_GET_KERNEL = (
    "Boot an image with the vendor's kernel (5.10 or 6.1 from Rockchip or the board's maker) and "
    "its rknpu driver 0.9.8."
)
_ANYWAY = "NPUBLAS_UNSUPPORTED_RUNTIME=1 tries it all the same."


@dataclass(frozen=True)
class Diagnosis:
    """The one cause why the NPU can't be used, with its cure; or none, as far as can be seen."""

    code: str = ""  # a word per cause, empty if there is none
    cause: str = ""
    cure: str = ""
    notes: tuple[str, ...] = ()
    library: Library | None = None  # the one that would be loaded

    def __bool__(self) -> bool:
        """Tell whether there is a cause."""
        return bool(self.code)

    def __str__(self) -> str:
        return f"{self.cause}. {self.cure}" if self.code else ""


def diagnose(
    machine: Machine, runtime: str = "auto", environment: Mapping[str, str] = os.environ
) -> Diagnosis:
    """Name the one cause why `machine` has no NPU that can be used, if there is one."""
    if runtime == "simulator":
        path = _core.simulator_path()
        if Path(path).is_file():
            return Diagnosis()
        return Diagnosis(
            "no-simulator",
            f"the simulator {path} is missing",
            "Install npublas again; the library comes with it.",
        )
    anyway = environment.get("NPUBLAS_UNSUPPORTED_RUNTIME") == "1"
    if machine.named:
        library = machine.libraries[0] if machine.libraries else None
        if library is None:
            return _libraries(machine, runtime, anyway)  # what was asked for by name isn't there
        if library and library.simulated:
            return _simulator(library) if runtime == "auto" else Diagnosis(library=library)
        if library and library.architecture == machine.architecture != "aarch64":
            return Diagnosis(library=library)  # somebody's own; what board there is doesn't matter
    return (
        _board(machine)
        or _driver(machine)
        or _nodes(machine)
        or _old_driver(machine, anyway)
        or _libraries(machine, runtime, anyway)
    )


def cause(runtime: str, message: str) -> str:
    """Return why `runtime` can't be used: what can be seen, else the failure's own words."""
    return str(diagnose(_machine.look(runtime), runtime)) or message


def driver_version() -> str:
    """Return the version of the NPU driver, "" where it can't be seen."""
    return _machine.driver_version()


def driver_is_unknown(version: str, root: Path = Path("/")) -> bool:
    """Tell whether the driver is newer than npublas knows, or there and of unseen version."""
    if version:
        return not (0, 0, 0) < _core.parse_version(version) <= _core.RECOMMENDED_DRIVER
    return _machine.look("simulator", root).driver == "rknpu"


def _board(machine: Machine) -> Diagnosis:
    """No board, or not one that npublas knows."""
    if machine.architecture not in ("aarch64", "arm64", "armv8l"):
        return Diagnosis(
            "architecture",
            f"this machine is {machine.architecture or 'unknown'}, and the NPU is part of boards "
            "with an RK3588 (aarch64)",
            _SIMULATOR,
        )
    if machine.bits != 64:
        return Diagnosis(
            "bits",
            f"this Python is {machine.bits}-bit, and the runtime is used in its 64-bit form",
            "Use a 64-bit (arm64) system and Python.",
        )
    if not machine.device_tree and machine.container:
        return Diagnosis(
            "container",
            f"this container ({machine.container}) hides the board's device tree "
            "(/proc/device-tree/compatible)",
            _container_cure(machine.nodes),
        )
    if not machine.device_tree:
        return Diagnosis(
            "board",
            "this is no Rockchip board: it has no device tree (/proc/device-tree/compatible)",
            _SIMULATOR,
        )
    if not machine.soc:
        name = f" ({machine.board})" if machine.board else ""
        return Diagnosis("board", f"this is no Rockchip board{name}", _SIMULATOR)
    if not machine.chip:
        return Diagnosis(
            "chip",
            f"the chip {machine.soc} is not supported: npublas knows the NPU of the RK3588",
            _SIMULATOR,
        )
    return Diagnosis()


def _driver(machine: Machine) -> Diagnosis:
    """No vendor driver."""
    if machine.driver == "rocket":
        return Diagnosis(
            "mainline",
            f"this is a mainline kernel ({machine.kernel}), whose NPU driver 'rocket' has another "
            "interface; librknnrt needs the vendor's driver rknpu",
            _GET_KERNEL,
        )
    if not machine.driver:
        return Diagnosis(
            "no-driver",
            f"the kernel ({machine.kernel or 'of unknown version'}) has no NPU driver rknpu: it is "
            "a mainline kernel, or the NPU is switched off in the device tree",
            _GET_KERNEL,
        )
    return Diagnosis()


def _nodes(machine: Machine) -> Diagnosis:
    """The driver is there, and can't be reached."""
    there = [node for node in machine.nodes if node.exists]
    if machine.nodes and not there:
        names = _names(machine.nodes)
        if machine.container:
            return Diagnosis(
                "container",
                f"this container ({machine.container}) was started without the NPU's device nodes "
                f"({names})",
                _container_cure(machine.nodes),
            )
        return Diagnosis(
            "no-node",
            f"the driver rknpu is loaded, and its device nodes ({names}) are missing",
            "Let udev make them: sudo udevadm trigger --subsystem-match=drm; or restart.",
        )
    if not machine.nodes:
        return Diagnosis(
            "no-device",
            "the driver rknpu is loaded and drives no NPU: the device tree has none, or has it "
            "switched off",
            "Use the board's own device tree, with the NPU's nodes on (status = \"okay\").",
        )
    if machine.stray_node:
        return Diagnosis(
            "stray-node",
            "/dev/rknpu exists and is not the driver's node; librknnrt tries it first and takes it "
            "for an old driver",
            f"Remove it (sudo rm /dev/rknpu): the NPU is at {_names(machine.nodes)}.",
        )
    closed = [node for node in there if not node.accessible]
    if closed and len(closed) == len(there):
        return Diagnosis(
            "permission", f"you may not open {_names(closed)}", _permission_cure(closed, machine)
        )
    return Diagnosis()


def _old_driver(machine: Machine, anyway: bool) -> Diagnosis:
    version = _core.parse_version(machine.driver_version)
    if (0, 0, 0) < version < _core.OLDEST_DRIVER and not anyway:
        return Diagnosis(
            "old-driver",
            f"the NPU driver rknpu {machine.driver_version} is too old: npublas needs "
            f"{_dotted(_core.OLDEST_DRIVER)}, and {_dotted(_core.RECOMMENDED_DRIVER)} is better",
            f"It is part of the kernel: install a newer kernel or image of the board's maker. "
            f"{_ANYWAY}",
        )
    return Diagnosis()


def _libraries(machine: Machine, runtime: str, anyway: bool) -> Diagnosis:
    """Take the first library that may be used, or tell what is wrong with the first one."""
    first = Diagnosis()
    for library in machine.libraries:
        problem = _library(library, runtime, anyway)
        if not problem:
            return Diagnosis(library=library, notes=tuple(_notes(machine, library)))
        first = first or problem
    if first:
        return first
    if machine.named:
        name = runtime if runtime != "auto" else "NPUBLAS_RUNTIME"
        return Diagnosis(
            "no-runtime", f"the library that {name} names does not exist", _GET_RUNTIME
        )
    return Diagnosis("no-runtime", "there is no librknnrt.so in the usual places", _GET_RUNTIME)


def _library(library: Library, runtime: str, anyway: bool) -> Diagnosis:
    name = f"{library.path} ({library.version or 'version unknown'})"
    if library.architecture == _machine.UNREADABLE:
        return Diagnosis(
            "unreadable-runtime",
            f"you may not read {library.path}",
            f"Give it to all: sudo chmod a+r {library.path}.",
        )
    if library.architecture != "aarch64":
        kind = f"for {library.architecture}" if library.architecture else "no library"
        return Diagnosis(
            "wrong-runtime", f"{library.path} is {kind}", f"It must be for aarch64. {_GET_RUNTIME}"
        )
    if library.simulated and runtime == "auto":
        return _simulator(library)
    if library.known_bad:
        return Diagnosis("bad-runtime", f"{name} is known bad: {library.known_bad}", _GET_RUNTIME)
    if library.unsupported and not anyway:
        return Diagnosis(
            "old-runtime",
            f"{name} is too old: npublas needs {_dotted(_core.OLDEST_RUNTIME)} or newer",
            f"{_GET_RUNTIME} {_ANYWAY}",
        )
    return Diagnosis()


def _simulator(library: Library) -> Diagnosis:
    return Diagnosis(
        "simulator",
        f"{library.path} is a simulator, which runtime='auto' never takes",
        "The simulator that comes with npublas: npublas.set_config(runtime='simulator').",
    )


def _notes(machine: Machine, library: Library) -> list[str]:
    """Say what is no cause, and worth knowing when something is odd all the same."""
    notes = []
    closed = [node for node in machine.nodes if node.exists and not node.accessible]
    if closed:
        notes.append(
            f"you may not open {_names(closed)}; should opening the NPU fail: "
            f"{_permission_cure(closed, machine)}"
        )
    version = _core.parse_version(machine.driver_version)
    if (0, 0, 0) < version < _core.RECOMMENDED_DRIVER:
        notes.append(
            f"driver {machine.driver_version}: {_dotted(_core.RECOMMENDED_DRIVER)} is recommended; "
            "older ones fail now and then, and npublas waits more for them"
        )
    if library.untested or version > _core.RECOMMENDED_DRIVER:
        notes.append(
            "runtime or driver are newer than what npublas knows, and are tried in a process of "
            "their own first"
        )
    return notes


def _permission_cure(nodes: list[Node], machine: Machine) -> str:
    groups = sorted({node.group for node in nodes} - {"root", "", "0"})
    if machine.container:
        flags = " ".join(f"--group-add {group}" for group in groups) or "--user root"
        return f"Start the container with {flags} (the group's number on the host)."
    rule = 'KERNEL=="card*|renderD*|rknpu", DRIVERS=="RKNPU", GROUP="render", MODE="0660"'
    by_udev = (
        f"echo '{rule}' | sudo tee /etc/udev/rules.d/99-rknpu.rules && "
        "sudo udevadm control --reload && sudo udevadm trigger"
    )
    if not groups:
        return f"They belong to root alone. Give them to a group: {by_udev}; then join it."
    return (
        f"Join the group{'s' * (len(groups) > 1)}: sudo usermod -aG {','.join(groups)} $USER, and "
        "log in again."
    )


def _container_cure(nodes: tuple[Node, ...]) -> str:
    # /proc/device-tree points into /sys/firmware, which Docker masks, and no bind mount gets there.
    devices = "--device /dev/rknpu" if [n.path for n in nodes] == ["/dev/rknpu"] else ""
    return (
        f"Start it with docker run {devices or '--device /dev/dri'} "
        "--security-opt systempaths=unconfined "
        "-v /usr/lib/librknnrt.so:/usr/lib/librknnrt.so:ro (podman: --security-opt unmask=ALL; "
        "elsewhere -v /proc/device-tree/compatible:/proc/device-tree/compatible:ro may do). "
        "Don't make a /dev/rknpu in it: librknnrt would take it for an old driver."
    )


def _names(nodes: list[Node] | tuple[Node, ...]) -> str:
    return ", ".join(node.path for node in nodes)


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))

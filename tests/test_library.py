"""The diagnosis names the one cause why there is no NPU, and its cure.

Boards are folders here: a device tree, what the kernel shows of the driver, device nodes, a
library.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npublas import _core, _library, _machine
from npublas._library import Diagnosis, diagnose
from npublas._machine import Library, Machine, Node

RUNTIME = "usr/lib/librknnrt.so"
NPU = "devices/platform/fdab0000.npu"


class Board:
    """An RK3588 board with everything right, until something is changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment: dict[str, str] = {}
        self.closed: set[str] = set()
        self.write("proc/device-tree/compatible", b"radxa,rock-5b\0rockchip,rk3588\0")
        self.write("proc/device-tree/model", b"Radxa ROCK 5B\0")
        self.write("proc/sys/kernel/osrelease", b"6.1.115-vendor-rk35xx\n")
        self.write("sys/bus/platform/drivers/RKNPU/bind", b"")
        self.write("sys/class/drm/card0/device/uevent", b"DRIVER=rockchip-drm\n")
        for node in ("card1", "renderD129"):
            self.write(f"sys/class/drm/{node}/device/uevent", b"OF_NAME=npu\nDRIVER=RKNPU\n")
        for node in ("card0", "renderD128", "card1", "renderD129"):
            self.write(f"dev/dri/{node}", b"")
        self.write("sys/kernel/debug/rknpu/version", b"RKNPU driver: v0.9.8\n")
        self.library(RUNTIME)

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def remove(self, *names: str) -> None:
        for name in names:
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                for child in sorted(path.iterdir()):
                    self.remove(str(child.relative_to(self.root)))
                path.rmdir()
            else:
                path.unlink()

    def library(
        self, name: str, version: str = "2.3.2 (429f97ae6b@2025-04-09)", machine: int = 183
    ) -> None:
        head = bytearray(64)
        head[:5] = b"\x7fELF\x02" if machine != 40 else b"\x7fELF\x01"
        head[18:20] = machine.to_bytes(2, "little")
        self.write(name, bytes(head) + b"\0librknnrt version: " + version.encode() + b"\0")

    def look(self, runtime: str = "auto") -> Machine:
        machine = _machine.look(
            runtime,
            self.root,
            environment=self.environment,
            access=lambda path: path.name not in self.closed,
        )
        return replace(machine, architecture="aarch64", bits=64)

    def diagnose(self, runtime: str = "auto") -> Diagnosis:
        return diagnose(self.look(runtime), runtime, self.environment)


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Gives up root's rights for a while, if we have them."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_a_good_board_has_no_cause_and_no_notes(board: Board) -> None:
    found = board.diagnose()
    assert not found
    assert str(found) == ""
    assert found.notes == ()
    assert found.library is not None
    assert found.library.path == f"/{RUNTIME}"
    machine = board.look()
    assert machine.board == "Radxa ROCK 5B"
    assert machine.chip == "RK3588"
    assert machine.driver_version == "0.9.8"
    assert [node.path for node in machine.nodes] == ["/dev/dri/card1", "/dev/dri/renderD129"]


def break_tree(board: Board) -> None:
    board.remove("proc/device-tree")


def rename_chip(board: Board) -> None:
    board.write("proc/device-tree/compatible", b"armsom,sige5\0rockchip,rk3576\0")


def rename_vendor(board: Board) -> None:
    board.write("proc/device-tree/compatible", b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    board.write("proc/device-tree/model", b"Raspberry Pi 5\0")


def without_driver(board: Board) -> None:
    board.remove("sys")


def mainline(board: Board) -> None:
    board.remove("sys")
    board.write("sys/bus/platform/drivers/rocket/bind", b"")
    board.write("proc/sys/kernel/osrelease", b"6.18.2-arm64")


def mainline_by_node(board: Board) -> None:
    board.remove("sys")
    board.write("dev/accel/accel0", b"")


def without_device(board: Board) -> None:
    board.remove("sys/class")


def without_nodes(board: Board) -> None:
    board.remove("dev")


def without_nodes_in_docker(board: Board) -> None:
    board.remove("dev")
    board.write(".dockerenv", b"")


def masked_in_podman(board: Board) -> None:
    board.remove("proc/device-tree")
    board.write("run/.containerenv", b"")


def stray_link(board: Board) -> None:
    (board.root / "dev/rknpu").symlink_to("dri/renderD129")


def no_permission(board: Board) -> None:
    board.closed = {"card1", "renderD129"}


def old_driver(board: Board) -> None:
    board.write("sys/kernel/debug/rknpu/version", b"RKNPU driver: v0.9.2\n")


def no_library(board: Board) -> None:
    board.remove("usr")


def old_library(board: Board) -> None:
    board.library(RUNTIME, "1.5.2 (c6b7b351a@2023-08-23)")


def bad_library(board: Board) -> None:
    board.library(RUNTIME, "2.2.0 (c195366594@2024-09-14)")


def small_library(board: Board) -> None:
    board.library(RUNTIME, machine=40)


def no_elf(board: Board) -> None:
    board.write(RUNTIME, b"<html>Not found</html>\n")


def simulator(board: Board) -> None:
    board.library(RUNTIME, "2.3.2 (npublas simulator)")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (break_tree, "board", ["no Rockchip board", "/proc/device-tree/compatible", "simulator"]),
        (rename_vendor, "board", ["no Rockchip board", "Raspberry Pi 5"]),
        (rename_chip, "chip", ["rk3576", "RK3588"]),
        (without_driver, "no-driver", ["6.1.115-vendor-rk35xx", "mainline", "rknpu driver 0.9.8"]),
        (mainline, "mainline", ["mainline kernel (6.18.2-arm64)", "rocket", "vendor's kernel"]),
        (mainline_by_node, "mainline", ["rocket"]),
        (without_device, "no-device", ["device tree", "okay"]),
        (without_nodes, "no-node", ["/dev/dri/card1, /dev/dri/renderD129", "udevadm trigger"]),
        (without_nodes_in_docker, "container", ["docker", "--device /dev/dri", "/dev/rknpu"]),
        (masked_in_podman, "container", ["podman", "systempaths=unconfined"]),
        (stray_link, "stray-node", ["/dev/rknpu", "rm /dev/rknpu", "/dev/dri/renderD129"]),
        (no_permission, "permission", ["/dev/dri/card1, /dev/dri/renderD129"]),
        (old_driver, "old-driver", ["0.9.2", "0.9.6", "0.9.8", "NPUBLAS_UNSUPPORTED_RUNTIME=1"]),
        (no_library, "no-runtime", ["librknnrt.so 2.3.2", "/usr/lib", "NPUBLAS_RUNTIME"]),
        (old_library, "old-runtime", ["1.5.2", "1.6.0", "2.3.2", "NPUBLAS_UNSUPPORTED_RUNTIME=1"]),
        (bad_library, "bad-runtime", ["2.2.0", "zero", "2.3.2"]),
        (small_library, "wrong-runtime", ["32-bit ARM", "aarch64"]),
        (no_elf, "wrong-runtime", ["is no library"]),
        (simulator, "simulator", ["is a simulator", "runtime='simulator'"]),
    ],
)
def test_each_cause_is_named_with_its_cure(
    board: Board, change: Callable[[Board], None], code: str, words: list[str]
) -> None:
    change(board)
    found = board.diagnose()
    assert found.code == code
    assert found.cause and found.cure
    for word in words:
        assert word in str(found)
    assert str(found).endswith(".")


def test_the_cause_nearest_to_the_board_is_named_first(board: Board) -> None:
    for change, code in [
        (no_library, "no-runtime"),
        (old_driver, "old-driver"),
        (no_permission, "permission"),
        (without_nodes, "no-node"),
        (without_driver, "no-driver"),
        (rename_chip, "chip"),
        (break_tree, "board"),
    ]:
        change(board)
        assert board.diagnose().code == code


def test_another_machine_or_a_32_bit_python_is_said_before_all_else(board: Board) -> None:
    board.remove("proc")
    machine = board.look()
    assert diagnose(replace(machine, architecture="x86_64")).code == "architecture"
    assert "x86_64" in str(diagnose(replace(machine, architecture="x86_64")))
    assert diagnose(replace(machine, bits=32)).code == "bits"


@pytest.mark.parametrize(
    ("groups", "cure"),
    [
        (("video", "render"), "Join the groups: sudo usermod -aG render,video $USER"),
        (("render", "render"), "Join the group: sudo usermod -aG render $USER"),
        (("root", "root"), "/etc/udev/rules.d/99-rknpu.rules"),
    ],
)
def test_the_cure_for_a_closed_node_is_its_group_or_a_udev_rule(
    board: Board, groups: tuple[str, str], cure: str
) -> None:
    no_permission(board)
    machine = board.look()
    nodes = tuple(
        replace(node, group=group) for node, group in zip(machine.nodes, groups, strict=True)
    )
    assert cure in diagnose(replace(machine, nodes=nodes)).cure


def test_in_a_container_the_cure_for_a_closed_node_is_a_flag(board: Board) -> None:
    no_permission(board)
    machine = replace(board.look(), container="docker")
    nodes = tuple(replace(node, group="render") for node in machine.nodes)
    assert "--group-add render" in diagnose(replace(machine, nodes=nodes)).cure


def test_one_open_node_of_two_may_do_and_is_noted(board: Board) -> None:
    board.closed = {"card1"}
    found = board.diagnose()
    assert not found
    assert any("/dev/dri/card1" in note for note in found.notes)


def test_the_node_of_a_driver_without_drm_is_no_stray(board: Board) -> None:
    board.remove("sys/class")
    board.write("sys/class/misc/rknpu/dev", b"10:120")
    board.write("dev/rknpu", b"")
    assert not board.diagnose()
    assert [node.path for node in board.look().nodes] == ["/dev/rknpu"]
    board.remove("dev")
    board.write(".dockerenv", b"")
    assert "--device /dev/rknpu" in board.diagnose().cure


@pytest.mark.parametrize(
    ("name", "content", "container"),
    [
        (".dockerenv", b"", "docker"),
        ("run/.containerenv", b"", "podman"),
        ("run/systemd/container", b"systemd-nspawn\n", "systemd-nspawn"),
        ("proc/1/cgroup", b"12:cpu:/kubepods/besteffort/pod1/2\n", "kubepods"),
        ("proc/1/cgroup", b"0::/\n", ""),
        (
            "proc/self/mountinfo",
            b"1 2 0:3 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/containerd/1\n",
            "containerd",
        ),
        (
            "proc/self/mountinfo",
            b"1 2 179:1 / / rw - ext4 /dev/root rw\n"
            b"3 1 0:4 / /var/lib/docker/overlay2/1/merged rw - overlay overlay rw\n",
            "",
        ),
    ],
)
def test_containers_are_recognised_and_their_hosts_are_not(
    board: Board, name: str, content: bytes, container: str
) -> None:
    board.write(name, content)
    assert board.look().container == container


def test_kubernetes_is_recognised_by_its_variable(board: Board) -> None:
    board.environment["KUBERNETES_SERVICE_HOST"] = "10.43.0.1"
    assert board.look().container == "kubernetes"


def test_a_later_place_serves_if_an_earlier_one_has_a_bad_library(board: Board) -> None:
    bad_library(board)
    board.library("usr/local/lib/librknnrt.so", "2.3.0 (x)")
    found = board.diagnose()
    assert not found
    assert found.library is not None
    assert found.library.path == "/usr/local/lib/librknnrt.so"


def test_of_several_bad_libraries_the_first_is_named(board: Board) -> None:
    bad_library(board)
    board.library("usr/local/lib/librknnrt.so", "1.5.2 (x)")
    assert board.diagnose().code == "bad-runtime"


def test_a_library_that_may_not_be_read_is_said_to_be_so(board: Board) -> None:
    machine = board.look()
    library = replace(machine.libraries[0], architecture=_machine.UNREADABLE)
    assert diagnose(replace(machine, libraries=(library,))).code == "unreadable-runtime"


def test_the_loaders_own_places_are_searched(board: Board) -> None:
    no_library(board)
    board.library("srv/rknn/librknnrt.so")
    assert board.diagnose().code == "no-runtime"
    board.environment["LD_LIBRARY_PATH"] = ":/srv/rknn"
    assert not board.diagnose()
    board.environment.clear()
    board.write("etc/ld.so.cache", b"\1\2libz.so\0/srv/rknn/librknnrt.so\0librknnrt.so\0")
    assert not board.diagnose()


def test_npublas_runtime_goes_before_the_usual_places(board: Board) -> None:
    board.library("srv/librknnrt.so", "2.2.0 (x)")
    board.environment["NPUBLAS_RUNTIME"] = "/srv/librknnrt.so"
    assert board.diagnose().code == "bad-runtime"
    board.environment["NPUBLAS_RUNTIME"] = "/srv/nowhere.so"
    assert board.diagnose().code == "no-runtime"
    assert "NPUBLAS_RUNTIME" in board.diagnose().cause
    board.environment["NPUBLAS_RUNTIME"] = "simulator"  # overruled by asking for auto
    assert not board.diagnose()


def test_a_named_simulator_is_refused_under_auto_on_any_machine(board: Board) -> None:
    board.library("srv/fake.so", "2.3.2 (npublas simulator)", machine=62)
    board.environment["NPUBLAS_RUNTIME"] = "/srv/fake.so"
    machine = replace(board.look(), architecture="x86_64")
    assert diagnose(machine, "auto", board.environment).code == "simulator"
    chosen = replace(board.look("/srv/fake.so"), architecture="x86_64")
    assert not diagnose(chosen, "/srv/fake.so", board.environment)


def test_a_library_for_another_machine_may_be_named_there(board: Board) -> None:
    board.library("srv/fake.so", machine=62)
    machine = replace(board.look("/srv/fake.so"), architecture="x86_64")
    assert not diagnose(machine, "/srv/fake.so", {})
    assert diagnose(replace(machine, architecture="aarch64"), "/srv/fake.so", {})


def test_old_versions_pass_on_demand_and_bad_ones_do_not(board: Board) -> None:
    old_driver(board)
    old_library(board)
    board.environment["NPUBLAS_UNSUPPORTED_RUNTIME"] = "1"
    assert not board.diagnose()
    bad_library(board)
    assert board.diagnose().code == "bad-runtime"


def test_a_driver_between_required_and_recommended_is_noted(board: Board) -> None:
    board.write("sys/kernel/debug/rknpu/version", b"RKNPU driver: v0.9.6\n")
    found = board.diagnose()
    assert not found
    assert any("0.9.6" in note and "0.9.8" in note for note in found.notes)


def test_versions_newer_than_known_are_noted(board: Board) -> None:
    board.library(RUNTIME, "2.5.1a4 (x)")
    assert any("newer" in note for note in board.diagnose().notes)


@pytest.mark.parametrize(
    "place", ["sys/kernel/debug/rknpu/version", "sys/module/rknpu/version", "proc/rknpu/version"]
)
def test_the_drivers_version_is_read_where_it_is_shown(board: Board, place: str) -> None:
    board.remove("sys/kernel")
    assert _machine.driver_version(board.root) == ""
    board.write(place, b"RKNPU driver: v0.9.7\n")
    assert _machine.driver_version(board.root) == "0.9.7"


def test_a_driver_whose_version_is_not_shown_is_not_too_old(board: Board) -> None:
    board.remove("sys/kernel")
    assert board.look().driver == "rknpu"
    assert not board.diagnose()


def test_what_an_ordinary_user_may_not_look_at_is_not_seen_and_no_error(board: Board) -> None:
    debug = board.root / "sys/kernel/debug"
    debug.chmod(0)
    with ordinary_user():
        machine = board.look()
    debug.chmod(0o755)
    assert machine.driver_version == ""


def test_a_driver_is_unknown_if_newer_or_of_unseen_version(board: Board) -> None:
    for version in ("0.9.8", "0.9.6", "0.8.2"):
        assert not _library.driver_is_unknown(version, board.root)
    for version in ("0.9.9", "1.0.0", "strange", ""):
        assert _library.driver_is_unknown(version, board.root)
    without_driver(board)
    assert not _library.driver_is_unknown("", board.root)  # there is none to fear


def test_the_simulator_needs_no_board() -> None:
    nothing = _machine.look("simulator", Path("/nonexistent"), environment={})
    assert not diagnose(nothing, "simulator")


def test_an_unreadable_machine_shows_nothing_and_is_no_error(tmp_path: Path) -> None:
    machine = _machine.look("auto", tmp_path / "nothing", environment={})
    assert machine.libraries == ()
    assert machine.nodes == ()
    assert machine.driver == machine.driver_version == machine.container == machine.kernel == ""
    assert _machine.clocks(tmp_path) == ()
    assert _machine.governors(tmp_path) == ()


def test_a_cause_that_cannot_be_seen_is_the_failures_own(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = board.look()
    without_driver(board)
    seen = [good, board.look()]
    monkeypatch.setattr(_machine, "look", lambda runtime: seen.pop(0))
    words = "another process holds the NPU"
    assert _library.cause("auto", words) == words
    assert _library.cause("auto", words).startswith("the kernel (6.1")


def test_clocks_and_governors_are_read_where_they_can_be(board: Board) -> None:
    for folder, current, governor in [
        ("fdab0000.npu", b"1000000000\n", b"rknpu_ondemand\n"),
        ("dmc", b"528000000\n", b"dmc_ondemand\n"),
        ("fb000000.gpu", b"300000000\n", b"simple_ondemand\n"),
    ]:
        board.write(f"sys/class/devfreq/{folder}/cur_freq", current)
        board.write(f"sys/class/devfreq/{folder}/max_freq", b"2112000000\n")
        board.write(f"sys/class/devfreq/{folder}/governor", governor)
    for policy, governor in [("policy0", b"ondemand\n"), ("policy4", b"performance\n")]:
        board.write(f"sys/devices/system/cpu/cpufreq/{policy}/scaling_governor", governor)
    board.write("sys/devices/system/cpu/cpufreq/policy6/scaling_governor", b"performance\n")
    ddr, npu = _machine.clocks(board.root)
    assert (ddr.name, ddr.current, ddr.maximum) == ("DDR", 528_000_000, 2_112_000_000)
    assert (npu.name, npu.governor) == ("NPU", "rknpu_ondemand")
    assert _machine.governors(board.root) == ("ondemand", "performance")


@given(
    st.tuples(*[st.integers(0, 99)] * 3),
    st.text(st.characters(exclude_categories=("Nd", "Cs"), exclude_characters="."), max_size=9),
    st.text(st.characters(exclude_categories=("Nd", "Cs")), max_size=9),
)
def test_versions_are_found_in_any_decoration(
    version: tuple[int, int, int], before: str, after: str
) -> None:
    text = f"{before}{'.'.join(map(str, version))}{after}"
    assert _core.parse_version(text) == version


def test_the_rules_are_the_loaders() -> None:
    assert _core.runtime_candidates()[0] == f"/{RUNTIME}"
    assert _core.OLDEST_RUNTIME == (1, 6, 0)
    assert _core.OLDEST_DRIVER < _core.RECOMMENDED_DRIVER
    assert _core.soc_name(b"a,b\0rockchip,rk3576\0") == "rk3576"
    node = Node("/dev/dri/card1", True, True, "video")
    library = Library("/x.so", "aarch64", "", False, False, True, "")
    assert hash(node) and hash(library)  # values, to be kept and compared

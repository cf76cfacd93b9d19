"""What the machine, the versions and the NPU are: returned, not printed, and nothing is opened."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from importlib import metadata
from typing import Any

import numpy as np
import pytest

import npublas
from npublas import _core, _engine, _info, _library, _machine, cli
from npublas._library import Diagnosis
from npublas._machine import Clock, Library, Machine, Node
from npublas.testing import simulator


@pytest.fixture
def good(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine is a board on which everything is right."""
    library = Library("/usr/lib/librknnrt.so", "aarch64", "2.3.2 (x)", False, False, False, "")
    machine = Machine(
        architecture="aarch64",
        bits=64,
        kernel="6.1.115-vendor-rk35xx",
        board="Radxa ROCK 5B",
        device_tree=True,
        chip="RK3588",
        soc="rk3588",
        container="",
        driver="rknpu",
        driver_version="0.9.8",
        nodes=(Node("/dev/dri/renderD129", True, True, "render"),),
        stray_node=False,
        libraries=(library,),
        named=False,
    )
    show(monkeypatch, machine)
    return machine


def show(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(_machine, "look", lambda runtime="auto": machine)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The engine's state, to be changed."""
    status: dict[str, Any] = {"state": "closed", "simulated": False, "type_problems": {}}
    monkeypatch.setattr(_info._engine, "status", lambda: status)
    return status


@pytest.mark.usefixtures("good", "engine")
def test_a_good_board_is_available_and_not_opened_for_it() -> None:
    available = npublas.is_available()
    assert available
    assert not available.tested
    assert not available.simulated
    assert repr(available) == "npublas: there is an NPU (not opened yet)"


def test_a_cause_makes_it_false_and_is_shown(
    good: Machine, engine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    show(monkeypatch, replace(good, driver="rocket"))
    available = npublas.is_available()
    assert not available
    assert "rocket" in available.cause
    assert "vendor" in available.cure
    assert repr(available) == f"npublas: no NPU: {available.cause}. {available.cure}"


def test_what_came_of_opening_goes_before_what_can_be_seen(
    good: Machine, engine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine |= {"state": "unavailable", "unavailable_because": "the self-test failed."}
    available = npublas.is_available()
    assert not available
    assert available.tested
    assert repr(available) == "npublas: no NPU: the self-test failed."
    engine |= {"state": "open", "unavailable_because": ""}
    show(monkeypatch, replace(good, driver=""))
    assert npublas.is_available()
    assert "passed its self-tests" in repr(npublas.is_available())


def test_the_simulator_is_available_everywhere_and_called_simulated() -> None:
    npublas.set_config(runtime="simulator")
    assert npublas.is_available().simulated
    assert "simulated" in repr(npublas.is_available())
    assert npublas.info().simulated
    a = np.ones((64, 64), np.int8)
    npublas.matmul(a, a, device="npu")
    assert npublas.is_available().tested
    info = npublas.info()
    assert info.engine["state"] == "open"
    assert "simulated" in info.versions.versions["runtime"]
    assert "simulated" in info.versions.versions["driver"]


def open_while_every_answer_is_zero(first: int) -> None:
    """The self-test's runs from `first` on come back as zeros, with success."""
    npublas.set_config(runtime="simulator")
    _engine.close_engine()
    try:
        with simulator.fault("zeros", nth=first, count=0):
            _engine.open_engine()
    finally:
        simulator.reset()


def test_an_npu_that_is_trusted_with_no_type_is_none() -> None:
    open_while_every_answer_is_zero(first=1)
    available = npublas.is_available()
    assert not available
    assert available.tested and available.simulated
    assert "the simulated NPU failed the self-test of every type" in available.cause
    assert "int8: the known answer" in available.cause
    assert "float16: the known answer" in available.cause
    assert "passed" not in repr(npublas.info())
    assert cli.main(["info"]) == 1


def test_a_type_that_is_off_is_named_and_the_rest_is_available() -> None:
    open_while_every_answer_is_zero(first=19)  # after the answers in int8
    available = npublas.is_available()
    assert available
    assert list(available.types_off) == ["float16", "int4"]
    assert "(float16 is off: the known answer" in repr(available)
    assert "passed" not in repr(available)
    assert cli.main(["info"]) == 0


def test_nothing_is_opened_printed_or_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import npublas; from npublas import _core; npublas.is_available(); npublas.info();"
        "npublas.show_versions(); assert _core.engine_state() == 'closed';"
        "assert 'librknnrt' not in open('/proc/self/maps').read();"
        "assert 'simulator' not in open('/proc/self/maps').read()"
    )
    for runtime in ("auto", "simulator"):
        child = subprocess.run(
            [sys.executable, "-c", f"{code}; npublas.set_config(runtime={runtime!r}); {code}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (child.returncode, child.stdout, child.stderr) == (0, "", "")
    npublas.info()
    npublas.show_versions()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("engine")
def test_versions_name_library_driver_and_toolkit(
    good: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = npublas.show_versions().to_dict()
    assert versions["npublas"] == npublas.__version__
    assert versions["numpy"] == np.__version__
    assert versions["runtime"] == "2.3.2 (x) (/usr/lib/librknnrt.so)"
    assert versions["driver"] == "rknpu 0.9.8"
    assert versions["kernel"] == "6.1.115-vendor-rk35xx (aarch64)"
    assert versions["rknn-toolkit-lite2"] == "not installed"
    monkeypatch.setattr(metadata, "version", lambda name: {"rknn-toolkit-lite2": "2.3.2"}[name])
    assert npublas.show_versions().versions["rknn-toolkit-lite2"] == "2.3.2"
    show(monkeypatch, replace(good, driver_version="", libraries=()))
    versions = npublas.show_versions().to_dict()
    assert "root" in versions["driver"]
    assert versions["runtime"] == "none"


@pytest.mark.usefixtures("good")
def test_an_open_engine_knows_better_than_the_files(engine: dict[str, Any]) -> None:
    engine |= {
        "state": "open",
        "runtime_path": "/srv/librknnrt.so",
        "runtime_version": "2.1.0 (y)",
        "driver_version": "0.9.7",
    }
    versions = npublas.show_versions().to_dict()
    assert versions["runtime"] == "2.1.0 (y) (/srv/librknnrt.so)"
    assert versions["driver"] == "rknpu 0.9.7"


def test_info_shows_one_line_per_thing(
    good: Machine, engine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = (
        Clock("DDR", 528_000_000, 2_112_000_000, "dmc_ondemand"),
        Clock("NPU", 1_000_000_000, 1_000_000_000, "rknpu_ondemand"),
    )
    monkeypatch.setattr(_machine, "clocks", lambda: clocks)
    monkeypatch.setattr(_machine, "governors", lambda: ("ondemand",))
    monkeypatch.setattr(_info.resource, "getrlimit", lambda which: (1024, -1))
    engine["type_problems"] = {"int8": "", "float16": "zeros with success"}
    lines = dict(line.split("  ", 1) for line in reversed(repr(npublas.info()).splitlines()))
    lines = {name.strip(): text.strip() for name, text in lines.items()}
    assert lines["board"] == "Radxa ROCK 5B"
    assert lines["device nodes"] == "/dev/dri/renderD129 (group render, accessible)"
    assert lines["DDR clock"] == "528 of 2,112 MHz (dmc_ondemand)"
    assert lines["NPU clock"] == "1,000 of 1,000 MHz (rknpu_ondemand)"
    assert lines["CPU governor"] == "ondemand"
    assert lines["open files"] == "1,024 (hard limit unlimited)"
    assert lines["float16 products"] == "off: zeros with success"
    assert "int8 products" not in lines
    assert "device='auto'" in lines["settings"]
    notes = " ".join(npublas.info().notes)
    assert "ulimit -n" in notes and "performance" in notes and "528" in notes


@pytest.mark.usefixtures("good", "engine")
def test_a_board_at_its_best_has_no_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "clocks", lambda: (Clock("DDR", 2112, 2112, "performance"),))
    monkeypatch.setattr(_machine, "governors", lambda: ("performance",))
    monkeypatch.setattr(_info.resource, "getrlimit", lambda which: (-1, -1))
    assert npublas.info().notes == ()
    assert "note" not in repr(npublas.info())


def test_reports_are_frozen_and_turn_into_plain_values_and_html() -> None:
    for report in (npublas.is_available(), npublas.info(), npublas.show_versions()):
        json.dumps(report.to_dict())
        with pytest.raises(FrozenInstanceError):
            report.versions = {}
    for page in (npublas.info()._repr_html_(), npublas.show_versions()._repr_html_()):
        assert page.startswith("<table>") and page.endswith("</table>")
        assert page.count("<tr>") == page.count("</tr>") > 5


@pytest.mark.usefixtures("engine")
def test_html_is_escaped(good: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, replace(good, board="<b>"))
    assert "&lt;b&gt;" in npublas.info()._repr_html_()


def test_a_diagnosis_that_fails_to_see_anything_says_nothing() -> None:
    assert str(Diagnosis()) == ""
    assert _library.cause("simulator", "the engine's words") == "the engine's words"
    assert _core.engine_state() in ("closed", "open", "unavailable")

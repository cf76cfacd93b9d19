"""The tuning that is kept: whose it is, what is refused, and what it changes."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from processes import run_python

import npublas
from npublas import _core, _engine, _machine, _measuring, _tune, _tuning, _tuning_plot
from npublas._tuning import Entry, Key
from npublas.cli import main
from npublas.testing import simulator

BOARD = Key("RK3588", "2.3.2 (429f97ae6b@2025-04-09)", "0.9.8", "NPU at up to 1000 MHz", False)
SIMULATED = replace(
    BOARD, runtime="2.3.2 (npublas simulator)", clocks="clock=target", simulated=True
)


def rates(**changes):
    target = _core.rates("target")
    del target["measured"]
    return {**target, **changes}


def entry(key=BOARD, **changes):
    return Entry(key, "2026-01-02T03:04:05+00:00", "0.1.0", rates(**changes), 1 << 30, 2e-5, [])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """A cache and rates of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NPUBLAS_SIMULATOR_CLOCK", raising=False)
    yield
    _tuning.use(None, simulated=True)


def status(**changes):
    key = BOARD
    return {
        "simulated": key.simulated, "chip": key.chip, "runtime_version": key.runtime,
        "driver_version": key.driver, **changes,
    }  # fmt: skip


@pytest.fixture
def _clock(monkeypatch):
    monkeypatch.setattr(
        _machine, "clocks", lambda *_: (_machine.Clock("NPU", 3 * 10**8, 10**9, "ondemand"),)
    )
    monkeypatch.setattr(_tuning._machine, "clocks", _machine.clocks)


# --- The file -------------------------------------------------------------------------------------


def test_what_is_stored_is_read_again():
    assert _tuning.store(entry()) == _tuning.path()
    assert _tuning.read(_tuning.path()) == [entry()]


def test_one_machine_has_one_entry_and_others_keep_theirs():
    other = replace(BOARD, clocks="NPU at up to 600 MHz")
    for one in (entry(), entry(other), entry(slack=2.0)):
        _tuning.store(one)
    assert _tuning.read(_tuning.path()) == [entry(other), entry(slack=2.0)]


def test_simulated_ones_have_a_file_of_their_own():
    _tuning.store(entry())
    _tuning.store(entry(SIMULATED))
    assert _tuning.read(_tuning.path()) == [entry()]
    assert _tuning.read(_tuning.path(simulated=True)) == [entry(SIMULATED)]
    assert len(_tuning.clear()) == 2 and _tuning.clear() == []


def test_a_file_is_written_whole_or_not_at_all(monkeypatch):
    _tuning.store(entry())
    before = _tuning.path().read_bytes()

    def full(*_):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        _tuning.store(entry(slack=9.0))
    assert _tuning.path().read_bytes() == before
    assert [p.name for p in _tuning.path().parent.iterdir()] == ["tuning.json"]


def test_a_file_that_cannot_be_read_is_written_anew():
    _tuning.path().parent.mkdir(parents=True)
    _tuning.path().write_text("{")
    _tuning.store(entry())
    assert _tuning.read(_tuning.path()) == [entry()]


def broken():
    """Contents, and what is said of each."""
    good = entry().to_dict()

    def content(**changes):
        return {"npublas tuning": 2, "entries": [{**good, **changes}]}

    def with_rates(**changes):
        return content(rates={**good["rates"], **changes})

    return [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("[]", "no tuning of npublas"),
        ("{}", "no tuning of npublas"),
        ('{"npublas tuning": 1, "entries": []}', "format 1, and this npublas reads 2"),
        ('{"npublas tuning": 2}', "no list of entries"),
        ('{"npublas tuning": 2, "entries": [3]}', "no object"),
        (content(key={"chip": "RK3588"}), "key must have"),
        (content(key={**good["key"], "simulated": 0}), "key must have"),
        (content(measured=None), "no measured"),
        (content(records=3), "no records"),
        (content(records=[3]), "no records"),
        (content(rates=None), "no rates"),
        (content(window_bytes=-1), "window_bytes is -1"),
        (content(wake_seconds="soon"), "wake_seconds is 'soon'"),
        (with_rates(speed=3.0), "not those that npublas has: speed"),
        (with_rates(slack=0), "slack is 0"),
        (with_rates(slack=True), "slack is True"),
        (with_rates(slack=float("nan")), "slack is nan"),
        (with_rates(cpu_flops=float("inf")), "cpu_flops is inf"),
        (with_rates(cpu_flops=10**400), "cpu_flops is 10"),
        (with_rates(threads="4"), "threads is '4'"),
        (with_rates(macs_per_second={"int8": 1e12}), "must have int8, float16, int4"),
        (with_rates(macs_per_second={"int8": 1e12, "float16": 0, "int4": 1}), "float16 is 0"),
        (" " * ((4 << 20) + 1), "more than 4 MiB"),
    ]  # fmt: skip


@pytest.mark.parametrize(("content", "complaint"), broken())
def test_a_broken_file_is_refused_and_ignored_with_one_message(content, complaint, caplog, _clock):
    file = _tuning.path()
    file.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(npublas.TuningFileError, match=complaint.replace("(", r"\(")):
        _tuning.read(file)
    with caplog.at_level(logging.INFO, "npublas"):
        _tuning.apply(status())
    assert len(caplog.records) == 1 and complaint in caplog.text and "ignored" in caplog.text
    assert _core.current_rates() == _core.rates("pessimistic")


# --- The key --------------------------------------------------------------------------------------


def test_the_key_has_chip_versions_and_clocks(_clock):
    assert _tuning.key_of(status()) == BOARD
    assert str(BOARD) == (
        "RK3588, runtime 2.3.2 (429f97ae6b@2025-04-09), driver 0.9.8, NPU at up to 1000 MHz"
    )


def test_clocks_are_read_where_the_kernel_shows_them(tmp_path):
    for name, current, maximum in (
        ("fdab0000.npu", "300000000", "1000000000"),
        ("npu-bus", "600000000", "600000000"),
        ("dmc", "528000000", "2112000000"),
        ("fb000000.gpu", "1", "1"),
    ):
        folder = tmp_path / "sys/class/devfreq" / name
        folder.mkdir(parents=True)
        (folder / "cur_freq").write_text(current + "\n")
        (folder / "max_freq").write_text(maximum + "\n")
    key = _tuning.key_of(status(), tmp_path)
    assert key.clocks == "DDR at up to 2112 MHz, NPU at up to 1000 MHz, NPU at up to 600 MHz"
    assert _tuning.key_of(status(), tmp_path / "nowhere").clocks == ""


def test_a_simulator_has_a_key_while_its_clock_is_on(tmp_path):
    simulated = status(simulated=True)
    assert _tuning.key_of(simulated, tmp_path, {}) is None
    assert _tuning.key_of(simulated, tmp_path, {"NPUBLAS_SIMULATOR_CLOCK": "off"}) is None
    environment = {
        "NPUBLAS_SIMULATOR_CLOCK": "target",
        "NPUBLAS_SIMULATOR_NPU_MHZ": "600",
        "A": "b",
    }
    key = _tuning.key_of(simulated, tmp_path, environment)
    assert key.simulated and key.clocks == "clock=target npu_mhz=600"


# --- What it changes ------------------------------------------------------------------------------


def test_the_rates_of_this_machine_are_used_and_only_of_this(_clock, caplog):
    _tuning.store(entry(slack=1.5))
    _tuning.apply(status())
    used = _core.current_rates()
    assert used["measured"] and used["slack"] == 1.5
    for name in ("chip", "runtime_version", "driver_version"):
        caplog.clear()
        with caplog.at_level(logging.INFO, "npublas"):
            _tuning.apply(status(**{name: "another"}))
        assert not _core.current_rates()["measured"]
        assert len(caplog.records) == 1 and "and this is" in caplog.text


def test_a_measurement_of_other_clocks_is_not_used(monkeypatch, _clock, caplog):
    _tuning.store(entry(replace(BOARD, clocks="NPU at up to 600 MHz")))
    with caplog.at_level(logging.INFO, "npublas"):
        _tuning.apply(status())
    assert not _core.current_rates()["measured"]
    assert "600 MHz, and this is" in caplog.text


def test_no_board_uses_what_was_simulated(_clock):
    """Not even with the same key, brought there by hand."""
    _tuning.store(entry(SIMULATED))
    _tuning.path(simulated=True).rename(_tuning.path())
    _tuning.apply(status())
    assert not _core.current_rates()["measured"]


def test_nobody_is_told_of_a_tuning_that_never_was(_clock, caplog):
    with caplog.at_level(logging.DEBUG, "npublas"):
        _tuning.apply(status())
    assert not caplog.records


def test_the_simulators_own_speed_is_never_what_is_gone_by():
    npublas.set_config(runtime="simulator")
    _engine.close_engine()
    assert _engine.open_engine()
    assert _core.current_rates() == _core.rates("pessimistic")


def test_a_tuned_machine_opens_the_engine_for_what_might_pay():
    assert _core.current_rates() == _core.rates("pessimistic")
    _tuning.expect()
    assert _core.current_rates() == _core.rates("pessimistic")
    _tuning.store(entry())
    _tuning.expect()
    assert _core.current_rates() == _core.rates("stretch")


def test_a_tuning_under_the_simulators_clock_is_found_by_the_next_process(tmp_path):
    code = """
        import npublas
        from npublas import _core, _engine
        npublas.set_config(runtime="simulator")
        tuning = npublas.tune(quick=True)
        assert tuning.simulated and tuning.file, tuning
        _engine.close_engine()
        _engine.open_engine()
        assert _core.current_rates()["submit_seconds"] == tuning.rates["submit_seconds"]
        print(repr(tuning.rates["submit_seconds"]))
    """
    again = """
        import npublas
        from npublas import _core, _engine
        npublas.set_config(runtime="simulator")
        _engine.open_engine()
        rates = _core.current_rates()
        print(rates["submit_seconds"] if rates["measured"] else "unmeasured")
    """
    clock = {"NPUBLAS_SIMULATOR_CLOCK": "target"}
    submit = run_python(code, **clock)
    assert run_python(again, **clock) == submit
    assert run_python(again, NPUBLAS_SIMULATOR_CLOCK="stretch") == "unmeasured"
    assert run_python(again) == "unmeasured"


def test_what_is_timed_on_the_simulators_clock_is_the_clock_and_not_arithmetic(monkeypatch):
    npublas.set_config(runtime="simulator")
    seen = {"measure_runs": set(), "open_engine": set()}
    for name in seen:
        owner = _core if name == "measure_runs" else _engine
        function = getattr(owner, name)

        def watch(*arguments, _function=function, _name=name, **keywords):
            seen[_name].add(simulator.setting("compute"))
            return _function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, watch)
    with simulator.settings(clock="target"):
        tuning = npublas.tune(quick=True)
        assert simulator.setting("compute") == 1
    assert seen == {"measure_runs": {0}, "open_engine": {1}}
    # 1024 MACs per cycle of 1 GHz: this machine's arithmetic is slower by far.
    assert tuning.rates["macs_per_second"]["int8"] > 0.3 * 1.024e12
    assert any("turned on in this process" in note for note in tuning.notes)
    assert not tuning.file and not _core.current_rates()["measured"]


def test_a_simulator_that_computes_nothing_is_tuned_and_stays_one_that_passes():
    npublas.set_config(runtime="simulator")
    a = np.arange(64, dtype=np.int8).reshape(8, 8)
    npublas.matmul(a, a, device="npu")
    with simulator.settings(clock="target", compute=0):
        tuning = npublas.tune(quick=True)
        assert simulator.setting("compute") == 0
    assert "submit_seconds" in tuning.measured
    assert not any("is off" in note for note in tuning.notes)
    assert (npublas.matmul(a, a, device="npu") == a @ a).all()
    assert npublas.counters().fallbacks == 0


def test_tuning_is_not_among_what_was_counted():
    npublas.set_config(runtime="simulator")
    a = np.ones((8, 8), np.int8)
    npublas.matmul(a, a, device="npu")
    npublas.matmul(a, a, device="cpu")
    before = npublas.counters()
    npublas.tune(quick=True)
    after = npublas.counters()
    assert (after.cpu, after.reasons) == (before.cpu, before.reasons)
    assert (after.npu.products, after.npu.flops) == (before.npu.products, before.npu.flops)
    assert after.npu.seconds == pytest.approx(before.npu.seconds, abs=1e-6)
    assert all(0 <= share <= 1 for share in after.busy)
    for _ in range(2):
        npublas.matmul(a, a, device="npu")
    assert npublas.counters().npu.products == 3 and npublas.counters().cpu.products == 1
    npublas.reset_counters()
    npublas.matmul(a, a, device="npu")
    assert npublas.counters().npu.products == 1


def test_rates_have_names_and_unknown_ones_are_refused():
    _core.set_rates("target", {"slack": 3.0, "macs_per_second": {"int4": 5e12}})
    now = _core.current_rates()
    assert now["slack"] == 3 and now["macs_per_second"] == {
        "int8": 1.024e12, "float16": 0.512e12, "int4": 5e12,
    }  # fmt: skip
    for wrong in ({"speed": 1.0}, {"macs_per_second": {"int2": 1.0}}):
        with pytest.raises(ValueError, match="no "):
            _core.set_rates("target", wrong)
    with pytest.raises(ValueError, match="no profile"):
        _core.rates("best")


# --- Measuring ------------------------------------------------------------------------------------


def test_everything_of_a_simulator_is_measured_and_nothing_kept():
    npublas.set_config(runtime="simulator")
    steps = []
    tuning = npublas.tune(quick=True, progress=lambda *step: steps.append(step))
    assert tuning.simulated and not tuning.file and not _tuning.path(simulated=True).exists()
    believed = {"efficiency", "sync_seconds", "sync_bytes_per_second", "bind_seconds"}
    assert set(tuning.measured) == {*rates()} - believed
    assert all("not used" not in note for note in tuning.notes)
    done, total, _ = zip(*steps, strict=True)
    assert list(done) == sorted(done) and steps[-1][0] == steps[-1][1] == max(total)
    assert json.loads(json.dumps(tuning.to_dict()))["rates"] == tuning.rates
    text = repr(tuning)
    assert "(simulated)" in text and "not kept" in text and "Gflop/s" in text
    assert "<table>" in tuning._repr_html_()
    assert not _core.current_rates()["measured"]
    a = np.ones((8, 8), np.int8)
    assert (npublas.matmul(a, a, device="npu") == a @ a).all()


@pytest.mark.parametrize("wrong", [{"save": "x"}, {"quick": 3}, {"save": None}])
def test_what_is_neither_true_nor_false_is_refused_at_once(wrong):
    with pytest.raises(TypeError, match="must be True or False, not"):
        npublas.tune(**wrong)


def test_a_measurement_that_fails_leaves_the_rates_as_they_were(monkeypatch):
    npublas.set_config(runtime="simulator")
    before = _core.current_rates()

    def fail(*_):
        assert _core.current_rates()["measured"]
        raise RuntimeError("no more")

    monkeypatch.setattr(_core, "plan_for", fail)
    with pytest.raises(RuntimeError, match="no more"):
        npublas.tune(quick=True)
    assert _core.current_rates() == before


def test_without_an_npu_the_cpu_is_measured_and_that_is_said():
    npublas.set_config(runtime="/nowhere/librknnrt.so")
    tuning = npublas.tune(quick=True)
    assert {"cpu_flops", "pack_bytes_per_second"} <= set(tuning.measured)
    assert "submit_seconds" not in tuning.measured and not tuning.simulated
    assert any("only the CPU was measured" in note for note in tuning.notes)
    assert " ? " in repr(tuning) and not tuning.file
    assert not _core.current_rates()["measured"]


def test_the_npu_is_not_measured_beside_an_open_engine():
    npublas.set_config(runtime="simulator")
    assert _engine.open_engine()
    with pytest.raises(Exception, match="while the engine is closed"):
        _core.measure_window("simulator", "", 1000, most=1 << 25)


def test_as_much_memory_as_was_asked_for_can_be_had():
    _engine.close_engine()
    assert _core.measure_window("simulator", "", 20000, most=100 << 20) == 96 << 20


def test_that_there_is_no_more_memory_is_no_news(monkeypatch, capfd):
    npublas.set_config(runtime="simulator")
    tuner = _measuring.Measuring(quick=False)
    tuner._find_npu()
    monkeypatch.setattr(_measuring._memory, "available", lambda: 1 << 30)
    with simulator.settings(window_bytes=128 << 20):
        tuner._measure_window()
    assert simulator.setting("log") == 1
    assert 0 < tuner.window < 256 << 20
    assert capfd.readouterr().err == ""


def test_a_plot_is_written(tmp_path):
    npublas.set_config(runtime="simulator")
    tuning = npublas.tune(quick=True)
    for name, start in (("t.png", b"\x89PNG"), ("t.svg", b"<?xml")):
        tuning.plot(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_a_plot_without_an_npu_has_no_place_for_one(tmp_path):
    host = {"kind": "host", "work": "unpack_c", "threads": 4, "bytes_per_second": 5e9}
    run = {
        "kind": "run", "what": "macs", "shape": [128, 512, 4096], "cores": [0],
        "element": "float16", "period": 1e-3,
    }  # fmt: skip
    for records, count in (([host], 2), ([host, run], 3)):
        _tuning_plot.draw("title", records, tmp_path / "t.svg")
        picture = (tmp_path / "t.svg").read_text()
        assert len(re.findall(r'<g id="axes_\d+">', picture)) == count
        assert "<!-- unpack C, 4 threads -->" in picture
        assert ("<!-- NPU -->" in picture) == (count == 3)


# --- The command line -----------------------------------------------------------------------------


def test_tune_shows_what_it_measured(capsys):
    npublas.set_config(runtime="simulator")
    assert main(["tune", "--quick", "--no-save"]) == 0
    out, error = capsys.readouterr()
    assert "memory, all cores" in out and "not kept" in out and "it took" in out
    assert error == ""  # no bar where there is no terminal


def test_a_bar_is_drawn_on_a_terminal(monkeypatch, capsys):
    from npublas.cli import _tune as command

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = command._progress()
    progress(3, 10, "products of int8")
    assert f"[{'#' * 9}{'.' * 21}]  30 % products of int8" in capsys.readouterr().err
    progress(0, 0, "")
    assert capsys.readouterr().err.strip() == ""


def test_tuning_is_exported_imported_shown_and_cleared(tmp_path, capsys):
    file = str(tmp_path / "board.json")
    assert main(["tuning", "show"]) == 1
    assert main(["tuning", "export", file]) == 1
    _tuning.store(entry())
    _tuning.store(entry(SIMULATED))
    assert main(["tuning", "export", file]) == 0
    assert main(["tuning", "clear"]) == 0
    assert main(["tuning", "show"]) == 1
    assert main(["tuning", "import", file]) == 0
    assert _tuning.read(_tuning.path()) == [entry()]
    assert _tuning.read(_tuning.path(simulated=True)) == [entry(SIMULATED)]
    capsys.readouterr()
    assert main(["tuning", "show"]) == 0
    out = capsys.readouterr().out
    assert str(BOARD) in out and f"{SIMULATED} (simulated)" in out and "1.02 TMAC/s" in out


def test_nothing_broken_is_imported(tmp_path, capsys):
    _tuning.store(entry())
    file = tmp_path / "board.json"
    for content, complaint in (
        ("{", "not JSON"),
        ('{"npublas tuning": 2, "entries": []}', "no entries"),
    ):
        file.write_text(content)
        assert main(["tuning", "import", str(file)]) == 1
        assert complaint in capsys.readouterr().err
    assert main(["tuning", "import", str(tmp_path / "nowhere")]) == 1
    assert _tuning.read(_tuning.path()) == [entry()]


def test_a_broken_cache_is_told_of(capsys):
    _tuning.path().parent.mkdir(parents=True)
    _tuning.path().write_text("{")
    assert main(["tuning", "show"]) == 1
    assert "clear` removes it" in capsys.readouterr().err


def test_a_plot_that_cannot_be_is_refused_before_measuring(tmp_path, capsys):
    assert main(["tune", "--plot", str(tmp_path / "t.doc")]) == 1
    assert "a .png, .svg or .pdf" in capsys.readouterr().err
    assert main(["tune", "--plot", str(tmp_path / "nowhere" / "t.png")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_an_export_makes_no_folders(tmp_path, capsys):
    _tuning.store(entry())
    assert main(["tuning", "export", str(tmp_path / "nowhere" / "x.json")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_rows_show_what_was_not_measured_as_unknown():
    rows = {row[0]: row for row in _tune.rows_of(rates(), ("submit_seconds",))}
    assert rows["submit"][1] == "60 µs" and rows["cpu flops"][1] == "?"


def test_the_command_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "npublas", "tuning", "--help"], capture_output=True, check=False
    )
    assert done.returncode == 0 and b"export" in done.stdout


# --- Correcting itself ----------------------------------------------------------------------------


def test_products_slower_than_predicted_move_to_the_cpu_and_one_line_says_so(caplog):
    npublas.set_config(runtime="simulator")
    assert _engine.open_engine()
    peaks = dict.fromkeys(("int8", "float16", "int4"), 1e16)
    fast = {name: 1e13 for name in rates() if name.endswith(("bytes_per_second", "second_all"))}
    names = ("submit_seconds", "queued_seconds", "call_seconds", "handoff_seconds")
    quick = dict.fromkeys(names, 0.0)
    # An NPU of no real machine: whatever runs, takes longer than that.
    _core.set_rates("target", {**fast, **quick, "macs_per_second": peaks, "cpu_flops": 1e12})
    _core.set_correcting(True)
    a = np.ones((256, 256), np.int8)
    with caplog.at_level(logging.INFO, "npublas"):
        for _ in range(20):
            assert (npublas.matmul(a, a, dtype=np.int32) == 256).all()
    assert npublas.counters().npu.products == 5 and npublas.counters().cpu.products == 15
    (record,) = [r for r in caplog.records if "predicted time" in r.message]
    assert record.levelno == logging.INFO
    assert record.message.startswith("integers products of 16.8 to 67.1 Mflop take ")
    assert npublas.counters().fallbacks == 0
    # Other products are decided as before, and who demands the NPU has it.
    b = np.ones((1024, 1024), np.int8)
    assert npublas.explain(b, b, dtype=np.int32).on_npu
    assert npublas.explain(a, a, dtype=np.int32, device="npu").on_npu
    explained = npublas.explain(a, a, dtype=np.int32)
    assert not explained.on_npu and explained.npu_seconds > explained.cpu_seconds
    assert not explained.measured and "from published figures" in repr(explained)
    assert "on a well tuned board, by which plans are compared" in repr(explained)
    _core.set_rates("target", {"measured": True})
    explained = npublas.explain(a, a, dtype=np.int32, device="npu")
    assert "(as measured)" in repr(explained)
    assert "by what was measured" in repr(explained)


def test_nothing_is_corrected_on_a_simulator_that_was_not_tuned(caplog):
    npublas.set_config(runtime="simulator")
    a = np.ones((256, 256), np.int8)
    with caplog.at_level(logging.INFO, "npublas"):
        for _ in range(20):
            npublas.matmul(a, a, device="npu")
    assert not caplog.records

"""`npublas bench`: what it measures, and what it writes."""

from __future__ import annotations

import getpass
import json
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npublas
from npublas import _tuning, cli
from npublas.cli import _bench, _bench_cases, _bench_report
from npublas.cli._bench_cases import Case, Times
from npublas.cli._failure import Failure
from npublas.testing import simulator


@pytest.fixture(autouse=True)
def _simulator() -> None:
    npublas.set_config(runtime="simulator")


def bench(tmp_path: Path, *arguments: str) -> int:
    return cli.main(["bench", "--quick", "--output", str(tmp_path / "out"), *arguments])


# Cases


def test_a_shape_is_a_side_a_product_or_a_stack() -> None:
    assert _bench_cases.read_shapes("64, 1x2x3 ,5×6×7,2x3x4x5") == [
        (1, 64, 64, 64), (1, 1, 2, 3), (1, 5, 6, 7), (2, 3, 4, 5),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "64,", "0", "1x2", "1x2x3x4x5", "big", "-1", "4x-4x4"])
def test_what_is_no_shape_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Failure, match=r"is no shape: give a side \(256\)"):
        _bench_cases.read_shapes(text)


def test_a_name_that_is_unknown_is_refused_with_those_that_are_not() -> None:
    with pytest.raises(Failure, match="'int16' is no dtype of the benchmark: it has float32,"):
        _bench_cases.read_names("int8, int16", _bench_cases.DTYPES, "dtype")


def test_precisions_are_those_of_float32_operands() -> None:
    found = list(_bench_cases.cases([(1, 2, 3, 4)], ["float32", "int8"], ["float32", "int8"]))
    kinds = [(case.kind, case.packed) for case in found]
    assert kinds == [
        ("float32", False), ("float32", True), ("float32 as int8", False),
        ("float32 as int8", True), ("int8", False), ("int8", True),
    ]  # fmt: skip
    assert found[0].size == "2×3×4"
    assert Case((5, 2, 3, 4), "int8", "float32", False).size == "5 × 2×3×4"


def test_an_error_is_the_largest_in_the_rows_and_columns_that_are_looked_at() -> None:
    a, b = _bench_cases.operands(Case((3, 7, 20, 9), "float32", "float32", False))
    c = a.astype(np.float64) @ b
    assert _bench_cases.error_of(a, b, c) == 0
    c[2, 6, 8] += 0.5
    expected = 0.5 / (np.abs(a).astype(np.float64) @ np.abs(b))[2, 6, 8]
    assert _bench_cases.error_of(a, b, c) == pytest.approx(expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(1, 40, 70, 33), (3, 8, 40, 33)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("float32", "float32"), ("float32", "float16"), ("float32", "int8"), ("float16", "float32"),
     ("int8", "float32")],
)  # fmt: skip
def test_a_case_is_measured_with_its_answer_checked(
    dtype: str, precision: str, shape: Any, packed: bool
) -> None:
    result = _bench_cases.measure(Case(shape, dtype, precision, packed), Times(3.0, 1.0), 0.0)
    assert result.right
    assert (result.error == 0) == (dtype == "int8")
    assert result.calls == 3 and 0 < result.best <= result.seconds
    assert result.work["flops"] == 2 * np.prod(shape)
    assert result.gflops == pytest.approx(result.work["flops"] / result.seconds * 1e-9)
    assert result.speedup == pytest.approx(1 / result.seconds)
    assert result.roof_share == pytest.approx(result.roof_seconds / result.seconds)
    assert result.source == "simulated"
    assert result.would_run_on == "CPU" and "faster on the CPU" in result.because


def test_faster_is_against_numpys_best_and_a_median_far_from_it_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numpys = iter([Times(200.0, 5e-3), Times(100.0, 1e-3)])
    monkeypatch.setattr(_bench_cases, "numpy_float32", lambda *_: next(numpys))
    assert bench(tmp_path, "--shapes", "32", "--dtypes", "int8") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 of 2 cases were disturbed" in out and " 1 ms " in out
    for result in json.loads((tmp_path / "out" / "bench.json").read_text("utf-8"))["results"]:
        assert result["speedup"] == pytest.approx(1e-3 / result["seconds"])
        assert result["disturbed"] and result["numpy_float32_seconds"] == 100


def test_what_is_timed_runs_on_the_simulators_clock_and_computes_nothing() -> None:
    with _bench_cases.without_computing():
        assert (simulator.setting("clock"), simulator.setting("compute")) == (2, 0)
    assert (simulator.setting("clock"), simulator.setting("compute")) == (0, 1)


def test_a_case_whose_plan_changes_when_it_is_timed_is_no_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explain, calls = npublas.explain, iter([1, 1, 4])

    def other(a: Any, b: Any, **options: Any) -> npublas.Explanation:
        return explain(a[..., : next(calls) * 10, :], b, **options)

    monkeypatch.setattr(npublas, "explain", other)
    with pytest.raises(Failure, match="40×32×32 is planned otherwise when it is timed"):
        _bench_cases.measure(Case((1, 40, 32, 32), "int8", "float32", False), Times(1.0, 1.0), 0.0)


# The command


def test_it_prints_a_table_and_writes_json_and_charts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path, "--shapes", "32,48,1x64x96", "--precisions", "float32,int8") == 0
    out = capsys.readouterr().out
    assert "NPU: simulated: the clock of a model of the chip" in out
    assert "host: host-measured on this machine" in out
    assert max(map(len, out.splitlines())) <= 100
    table = out[out.index("M×K×N") :].splitlines()
    assert len([line for line in table if "packed" in line and " x " in line]) == 3 * 4
    data = json.loads((tmp_path / "out" / "bench.json").read_text("utf-8"))
    assert data["simulated"] is True
    assert len(data["results"]) == 3 * 4 * 2
    assert {result["source"] for result in data["results"]} == {"simulated"}
    for name in ("speed", "error", "roofline", "shares"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        picture = (tmp_path / "out" / f"{name}.svg").read_text("utf-8")
        assert "<svg" in picture and "<!-- npublas bench. NPU: simulated: the clock of" in picture


def test_the_speed_of_no_square_is_not_drawn(tmp_path: Path) -> None:
    assert bench(tmp_path, "--shapes", "1x64x96", "--dtypes", "int8") == 0
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {"roofline.png", "shares.png"}


def test_a_wrong_answer_is_said_and_is_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bench_cases, "error_of", lambda *_: 0.25)
    assert bench(tmp_path, "--shapes", "32", "--dtypes", "int8") == 1
    assert "WRONG: int8 32×32×32: off by 2.5e-01 of |A||B|" in capsys.readouterr().out


def test_an_answer_that_is_not_a_number_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bench_cases, "error_of", lambda *_: float("nan"))
    case = Case((1, 8, 32, 32), "float32", "int8", False)
    assert not _bench_cases.measure(case, Times(1.0, 1.0), 0.0).right


def test_without_matplotlib_there_are_no_charts_and_it_is_said_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = tmp_path / "r.zip"
    arguments = ("--shapes", "32", "--dtypes", "int8", "--report", str(report))
    assert bench(tmp_path, *arguments) == 0
    assert "pip install 'npublas[report]'" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench.json"]
    with zipfile.ZipFile(report) as archive:
        assert "<table" in archive.read("report.html").decode()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(["--shapes", "big"], "is no shape"), (["--dtypes", "float64"], "is no dtype"),
     (["--precisions", "exact"], "is no precision")],
)  # fmt: skip
def test_a_wrong_list_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    assert bench(tmp_path, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and error in printed.err


def test_a_report_without_a_folder_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path, "--report", str(tmp_path / "nowhere" / "r.zip")) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "there is no folder" in printed.err


def test_a_report_that_is_no_zip_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path, "--report", str(tmp_path / "r.txt")) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "r.txt: a report is a .zip" in printed.err


def test_shapes_beyond_the_memory_are_refused_and_no_shapes_are_no_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path, "--shapes", "64,1000000x1000000x1000000") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1000000×1000000×1000000 takes 36.1 TB of memory, and" in printed.err
    assert bench(tmp_path, "--shapes=") == 1
    assert "'' is no shape" in capsys.readouterr().err


# The report


def test_the_report_is_one_archive_that_says_what_was_simulated(tmp_path: Path) -> None:
    report = tmp_path / "r.zip"
    arguments = ("--shapes", "32", "--dtypes", "int8", "--report", str(report))
    assert bench(tmp_path, *arguments) == 0
    with zipfile.ZipFile(report) as archive:
        assert archive.namelist() == ["report.json", "report.html"]
        data = json.loads(archive.read("report.json"))
        page = archive.read("report.html").decode()
    assert data["bench"]["simulated"] is True
    assert data["info"]["versions"]["versions"]["npublas"] == npublas.__version__
    assert data["rates"]["measured"] is False
    assert "The NPU is simulated" in page
    assert page.count("<svg") == 3  # integers have no error to draw
    assert str(Path(npublas.__file__).parent) not in page + json.dumps(data)


def test_the_report_has_what_was_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        def to_dict(self) -> dict[str, Any]:
            return {"rates": {"submit_seconds": 5e-5}}

    read: list[Path] = []
    monkeypatch.setattr(_tuning, "read", lambda path: read.append(path) or [Entry()])
    assert _bench_report._tunings() == [{"rates": {"submit_seconds": 5e-5}}]
    assert read == [_tuning.path(simulated=True)]


def test_a_report_without_a_tuning_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tuning, "path", lambda simulated: tmp_path / "nothing")
    assert _bench_report._tunings() == []


def test_names_of_users_hosts_and_folders_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    monkeypatch.setattr(socket, "gethostname", lambda: "kitchen-board")
    clean = _bench_report.cleaner()
    assert clean(
        {
            "python": "3.11 (/home/" + "anna/secret/bin/python)",
            "anna": ["kitchen-board:/usr/lib/librknnrt.so", 3, None],
            "node": "/dev/dri/renderD129 (group render)",
            "word": "Hannah and/or annals, 1/2",
            "lock": ["/tmp/" + "anna-private/lock", "/run/" + "user/1000/lock"],
        }
    ) == {
        "python": "3.11 (.../python)",
        "user": ["host:/usr/lib/librknnrt.so", 3, None],
        "node": "/dev/dri/renderD129 (group render)",
        "word": "Hannah and/or annals, 1/2",
        "lock": [".../lock", ".../lock"],
    }


def test_a_user_without_a_name_has_none_to_take_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.setattr(getpass, "getuser", fail)
    assert _bench_report.cleaner()("a text") == "a text"


def test_a_board_measures_what_a_simulator_only_models(monkeypatch: pytest.MonkeyPatch) -> None:
    class Board:
        simulated = False

    monkeypatch.setattr(npublas, "info", Board)
    assert _bench.sources()["NPU"] == "board-measured"
    with _bench_cases.without_computing():
        assert simulator.setting("compute") == 1

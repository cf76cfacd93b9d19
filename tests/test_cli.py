"""The command line: what it accepts, what it prints where, and how it ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import npublas
from npublas import _engine, _info, cli
from npublas.cli import _terminal
from npublas.cli._failure import Failure


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "npublas", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_python_m_npublas_is_the_command() -> None:
    ended = run("--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"npublas {npublas.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["--faster"], ["info", "more"], ["demo", "--model"]]
)
def test_wrong_arguments_are_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: npublas" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["demo"], ["info"], ["bench"]])
def test_help_fits_80_columns(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "%%" not in text


@pytest.mark.parametrize(("there", "code"), [(True, 0), (False, 1)])
def test_info_prints_the_report_and_tells_by_its_code_whether_there_is_an_npu(
    there: bool, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npublas, "is_available", lambda: there)
    assert cli.main(["info"]) == code
    assert capsys.readouterr().out == f"{_info.info()}\n"


@pytest.mark.parametrize(
    "error", [Failure("no model; bring one"), npublas.NpuError("no model; bring one")]
)
def test_a_failure_is_said_on_stderr_without_a_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli._demo, "run", fail)
    assert cli.main(["demo"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "\nnpublas demo: no model; bring one\n"


def test_an_interrupted_command_ends_quietly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli._demo, "run", interrupt)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "npublas", "info"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert ended.stderr == b""
    assert ended.returncode == 1


@pytest.mark.parametrize("arguments", [["info"], ["--version"], ["demo", "--help"]])
def test_a_full_disk_is_one_line_on_stderr_and_code_1(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "npublas", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            check=False,
        )
    assert ended.returncode == 1
    (line,) = ended.stderr.split("\n")[1:-1]
    assert line.startswith("npublas") and "No space left" in line


def test_a_setting_that_cannot_be_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    npublas.set_config(runtime="simulator")
    _engine.close_engine()
    monkeypatch.setenv("NPUBLAS_LOCK_TIMEOUT", "soon")
    assert cli.main(["demo"]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("\nnpublas demo: environment variable NPUBLAS_LOCK_TIMEOUT=soon")
        and error.count("\n") == 2
    )


def test_a_missing_model_is_a_message_and_code_1(tmp_path: Path) -> None:
    ended = run("demo", "--model", str(tmp_path / "nowhere"), "a sentence")
    assert ended.returncode == 1
    assert "no such file or directory" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_sentences_and_model_reach_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(cli._demo, "run", lambda *arguments: seen.append(arguments) or 0)
    assert cli.main(["demo", "--model", str(tmp_path), "one", "caf\udce9"]) == 0
    assert seen == [(["one", "caf?"], tmp_path)]


def test_what_the_terminal_cannot_encode_becomes_a_question_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    _terminal.say("Grüße", "plain")
    assert written.getvalue() == b"Gr??e\nplain\n"


def test_a_shortened_text_is_one_line_that_fits() -> None:
    assert _terminal.shorten("a  b\n c", 5) == "a b c"
    assert _terminal.shorten("a b c d", 6) == "a b..."
    assert _terminal.shorten("abcdef", 6) == "abcdef"


def test_a_tables_columns_are_aligned() -> None:
    rows = [("what", "time"), ("a", "5 ms"), ("long name", "12 ms")]
    assert _terminal.table(rows, right=[1]) == [
        "what        time",
        "a           5 ms",
        "long name  12 ms",
    ]

"""What the README, the pages of docs/ and the public docstrings show is run.

Python blocks of one page run one after the other in a process of their own, so that a page reads
like one program; a doctest block (``>>>``) also has its output compared. Shell blocks run line by
line. Whatever runs the tests, the benchmarks or the checks themselves would run them again from
here: such lines are listed below, with who runs them.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import npublas
import npublas.nn

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# Commands that are not run from here, and who runs them.
RUN_ELSEWHERE = {
    "make demo": ".ci/run demo",
    "make test": ".ci/run tests",
    'make test ARGS="-k name"': ".ci/run tests; the page shows how to choose some",
    "make test ARGS=--npu": "needs a board",
    "make lint": ".ci/run lint",
    "make types": ".ci/run types",
    "make cpp-test": ".ci/run asan tsan",
    "make bench": ".ci/run benchmarks",
    "make aarch64": ".ci/run aarch64",
    "make stubs": "rewrites _core.pyi; test_stubs.py runs the same generator",
    ".ci/run": "it is what runs this test",
    "pip install .": ".ci/run pythons",
    "npublas bench --quick": "half a minute; test_bench.py, in small",
    "npublas bench --shapes 256,1x4096x4096 --dtypes float32,int8 --precisions float32,float16": (
        "half a minute; test_bench.py, in small"
    ),
    "npublas bench --report board.zip": "minutes; test_bench.py, in small",
    "npublas tune": "two minutes; test_tuning.py, with --quick",
    "npublas tuning show": "test_tuning.py, where nobody's own tuning is kept",
    "npublas tuning export board.json": "the same",
    "npublas tuning import board.json": "the same",
    "npublas tuning clear": "the same",
    "python benchmarks/quantization_table.py": "two minutes; test_quantization_table.py, in small",
}

# Languages of blocks that are run, and of blocks that are to be read.
RUN = {"python", "sh", "console"}
READ = {"text", "c", "cpp", "json", "ini"}


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        inside: Block | None = None
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if inside is None and (fence := re.match(r"```+(.*)", line)):
                inside = Block(page, number, fence[1].strip(), "")
            elif inside is not None and re.match(r"```+\s*$", line):
                yield inside
                inside = None
            elif inside is not None:
                inside = inside._replace(text=f"{inside.text}{line}\n")
        assert inside is None, f"{page.name} ends inside of a block"


BLOCKS = list(blocks())


def commands(block: Block) -> Iterator[str]:
    """The command lines of a shell block; in a console they follow a ``$``, the rest is output."""
    text = re.sub(r"\\\n\s*", "", block.text)
    for line in text.splitlines():
        prompt = re.match(r"\$ (.*)", line)
        if block.language == "console" and not prompt:
            continue
        command = re.sub(r"\s+#\s.*", "", prompt[1] if prompt else line).strip()
        if command and not command.startswith("#"):
            yield command


COMMANDS = [
    pytest.param(command, id=f"{block.place()}: {command}")
    for block in BLOCKS
    if block.language in ("sh", "console")
    for command in commands(block)
    if command not in RUN_ELSEWHERE
]


def run(command: list[str], **environment: str) -> None:
    """Fails with the command's own words."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("block", BLOCKS, ids=Block.place)
def test_every_block_says_its_language(block: Block) -> None:
    assert block.language in RUN | READ


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str) -> None:
    run(["bash", "-euo", "pipefail", "-c", command])


def test_every_command_that_runs_elsewhere_exists() -> None:
    shown = {c for block in BLOCKS if block.language in ("sh", "console") for c in commands(block)}
    assert set(RUN_ELSEWHERE) - shown == set(), "listed, but on no page"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    made = {command.split()[1] for command in shown if command.startswith("make ")}
    assert made - set(targets) == set()
    steps = set(re.findall(r"^(\w+)\(\)", (ROOT / ".ci" / "run").read_text(), re.M))
    named = {s for who in RUN_ELSEWHERE.values() for s in re.findall(r"^\.ci/run ([\w ]+)", who)}
    assert {step for group in named for step in group.split()} - steps == set()


def python_blocks(page: Path, prompted: bool) -> list[Block]:
    return [
        block
        for block in BLOCKS
        if (block.page, block.language) == (page, "python") and (">>>" in block.text) == prompted
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_blocks_of_a_page_run_as_one_program(page: Path, tmp_path: Path) -> None:
    program = ""
    for block in python_blocks(page, prompted=False):
        # As many lines before it as on the page: a traceback then has the page's numbers.
        program += "\n" * (block.line - program.count("\n")) + block.text
    (tmp_path / "page.py").write_text(program)
    run([sys.executable, "-W", "error", str(tmp_path / "page.py")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_dialogues_of_a_page_have_the_output_that_they_show(page: Path) -> None:
    names: dict[str, object] = {}
    for block in python_blocks(page, prompted=True):
        check(doctest.DocTestParser().get_doctest(block.text, names, block.place(), None, 0))


def check(test: doctest.DocTest) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(test, out=report.append, clear_globs=False)
    assert runner.failures == 0, "".join(report)


DOCUMENTED = [
    pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
    for module in (npublas, npublas.nn)
    for name in module.__all__
]


@pytest.mark.parametrize("thing", DOCUMENTED)
def test_the_examples_of_public_docstrings_run(thing: object) -> None:
    name = getattr(thing, "__name__", type(thing).__name__)
    for test in doctest.DocTestFinder(exclude_empty=True).find(thing, name):
        check(test)

"""The stubs say what the compiled modules have."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import npublas
from npublas import _ufuncs

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "npublas"
INSTALLED = Path(npublas.__file__).parent


def test_the_package_says_that_it_is_typed() -> None:
    for name in ("py.typed", "_core.pyi", "_ufuncs.pyi"):
        assert (INSTALLED / name).is_file()


def test_the_stub_of_the_core_is_what_the_bindings_generate() -> None:
    generator = subprocess.run(
        [sys.executable, ROOT / ".ci" / "stubs.py", "--print"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert generator.returncode == 0, generator.stderr
    assert (SOURCE / "_core.pyi").read_text() == generator.stdout, "run `make stubs`"


def test_the_stub_of_the_ufuncs_has_the_names_of_the_module() -> None:
    functions, values = set(), set()
    for node in ast.parse((SOURCE / "_ufuncs.pyi").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            functions.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            values.add(node.target.id)
    # With an underscore, a name is a word of the stub's own.
    names = {name for name in dir(_ufuncs) if not name.startswith("__")}
    assert functions == {name for name in names if inspect.isbuiltin(getattr(_ufuncs, name))}
    assert {name for name in values if not name.startswith("_")} == names - functions

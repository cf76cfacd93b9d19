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
    generated = subprocess.run(
        [sys.executable, ROOT / ".ci" / "stubs.py", "--print"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (SOURCE / "_core.pyi").read_text() == generated, "run `make stubs`"


def declared(stub: Path) -> dict[str, ast.stmt]:
    """What a stub declares by name; private classes are words of the stub's own."""
    names: dict[str, ast.stmt] = {}
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return names


def test_the_stub_of_the_ufuncs_has_every_name_of_the_module() -> None:
    existing = {name for name in dir(_ufuncs) if not name.startswith("__")}
    assert set(declared(SOURCE / "_ufuncs.pyi")) == existing


def test_the_stub_of_the_ufuncs_has_the_arguments_that_the_functions_take() -> None:
    for name, node in declared(SOURCE / "_ufuncs.pyi").items():
        function = getattr(_ufuncs, name)
        assert isinstance(node, ast.FunctionDef) == inspect.isbuiltin(function), name
        # The functions that give a text signature must agree with the stub.
        if isinstance(node, ast.FunctionDef) and function.__text_signature__:
            taken = inspect.signature(function).parameters
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            assert [argument.arg for argument in arguments] == [*taken], name

"""Arrows go down: which folder of csrc may include what, and which module may import what.

A new folder or module starts with a line in one of the two tables.
"""

import ast
import re
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each folder of csrc, and the folders that it may include besides itself. A single file may stand
# for a part of a folder.
ROOMS: dict[str, set[str]] = {
    "npublas/base": set(),
    "npublas/math": {"npublas/base"},
    "npublas/device": {"npublas/base"},
    "npublas/exec": {"npublas/base", "npublas/math", "npublas/device"},
    "npublas/engine": {"npublas/base", "npublas/math", "npublas/device", "npublas/exec"},
    "python": {"npublas/base", "npublas/math", "npublas/device", "npublas/exec", "npublas/engine"},
    "numpy": {"npublas/base", "npublas/engine", "npublas/exec/trace.hpp"},
    # Two readings of the facts, so that they can disagree: they share the declarations alone.
    "simulator": {"npublas/device/abi.hpp"},
}

# Headers from outside, and the only folders that may include them.
OUTSIDE: dict[str, set[str]] = {
    r"Python\.h|pybind11/.*": {"python", "numpy"},
    r"numpy/.*": {"numpy"},
    r"dlfcn\.h": {"npublas/device"},
    r"(thread|mutex|shared_mutex|condition_variable|future)": {
        "npublas/device",
        "npublas/exec",
        "npublas/engine",
        "simulator",
        "python",
        "numpy",
    },
}

# The modules of the package, lowest first, as docs/architecture.md draws them. A module imports
# modules of lower rows, and of its own row as long as no circle arises. A package counts as one.
LAYERS: list[set[str]] = [
    {"_core", "_ufuncs"},
    {
        "errors",
        "_types",
        "_dtypes",
        "_table",
        "_environment",
        "_version",
        "_symmetric",
        "_roof",
        "_report",
        "_rates",
    },
    {"_config", "_log", "_matmul", "_machine", "_hadamard", "_calibrate", "_trace"},
    {
        "_verify",
        "_library",
        "_stats",
        "_memory",
        "_lanes",
        "_weights_file",
        "_charts",
        "_threads",
        "_tuning",
        "_threadpool",
        "_simulator",
        "_operands",
        "_on_cpu",
    },
    {"_engine", "_quantized", "_profile"},
    {"_product"},
    {
        "_decide",
        "_info",
        "_quantize",
        "_packed",
        "_packing",
        "_rules",
        "_linear",
        "_async",
        "_tune",
        "_measuring",
        "_tuning_plot",
    },
    {"_error_report", "_cache"},
    {"__init__"},
    {"nn", "testing"},
    {"cli"},
    {"__main__"},
]


def includes(path: Path) -> Iterator[tuple[str, bool]]:
    """The headers that a file includes, and whether in quotation marks."""
    for mark, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', path.read_text(), re.M):
        yield name, mark == '"'


def room_of(name: str) -> str | None:
    return next((room for room in ROOMS if name.startswith(room + "/")), None)


def include_violations(root: Path) -> Iterator[str]:
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".cpp", ".hpp", ".h", ".c")):
        name = path.relative_to(root).as_posix()
        room = room_of(name)
        neighbours = {other.name for other in path.parent.iterdir()}
        if room is None:
            yield f"{name}: its folder is not in ROOMS of {Path(__file__).name}; add it there"
            continue
        for header, quoted in includes(path):
            if not quoted:
                for pattern, rooms in OUTSIDE.items():
                    if re.fullmatch(pattern, header) and room not in rooms:
                        yield f"{name}: <{header}> is for {', '.join(sorted(rooms))} only"
            elif header in neighbours:
                continue
            elif not (root / header).is_file():
                yield f'{name}: "{header}" is no neighbour, and no path from csrc'
            elif (target := room_of(header)) != room and not {target, header} & ROOMS[room]:
                yield f'{name}: {room} must not include "{header}"'


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules of npublas that a module of `package` ("npublas" or "npublas.nn") imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            # "from npublas import x": x is a module or a name of npublas/__init__.py.
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == "npublas":
                yield parts[1] if len(parts) > 1 else "__init__"


def import_violations(root: Path) -> Iterator[str]:
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    files = {path: path.relative_to(root) for path in sorted(root.rglob("*.py"))}
    modules = {relative.parts[0].removesuffix(".py") for relative in files.values()}
    for module in sorted(modules - rank.keys()):
        yield f"{module}: not in LAYERS of {Path(__file__).name}; add it to a row"
    graph: dict[str, set[str]] = {}
    for path, relative in files.items():
        module = relative.parts[0].removesuffix(".py")
        if module not in rank:
            continue
        package = ".".join(["npublas", *relative.parent.parts])
        names = imported_names(ast.parse(path.read_text()), package)
        # What is no module is a name of the package: matmul, NpuError.
        targets = {name if name in modules | rank.keys() else "__init__" for name in names}
        targets = (targets & rank.keys()) - {module}
        graph.setdefault(module, set()).update(targets)
        for target in sorted(targets):
            if rank[target] > rank[module]:
                yield f"{relative}: {module} must not import {target}, which stands above it"
    for module in sorted(graph):
        if module in reachable(graph, module):
            yield f"{module} imports itself through others"


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [*graph.get(start, ())]
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += graph.get(name, ())
    return seen


def test_the_core_includes_downwards_only() -> None:
    assert list(include_violations(ROOT / "csrc")) == []


def test_the_package_imports_downwards_only() -> None:
    assert list(import_violations(ROOT / "src" / "npublas")) == []


def test_the_architecture_page_draws_every_module_and_room() -> None:
    picture = re.search(
        r"## The rooms\n+```text\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.S
    )
    assert picture
    drawn = set(re.findall(r"[\w/]+", picture[1]))
    modules = set.union(*LAYERS) - {"__main__"}
    assert modules - drawn == set()
    assert {room if "/" in room else f"csrc/{room}" for room in ROOMS} - drawn == set()


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("npublas/math/plan.cpp", '#include "npublas/device/runtime.hpp"', "must not include"),
        ("npublas/base/error.hpp", '#include "npublas/exec/window.hpp"', "must not include"),
        ("npublas/exec/tile.cpp", '#  include "npublas/engine/engine.hpp"', "must not include"),
        ("simulator/run.cpp", '#include "npublas/base/error.hpp"', "must not include"),
        ("simulator/run.cpp", '#include "npublas/device/runtime.hpp"', "must not include"),
        ("numpy/loop.cpp", '#include "python/module.hpp"', "must not include"),
        ("npublas/device/load.cpp", '#include "simulator/faults.hpp"', "must not include"),
        ("npublas/math/pack.cpp", "#include <thread>", "is for"),
        ("npublas/engine/engine.cpp", "#include <Python.h>", "is for"),
        ("npublas/exec/window.cpp", "#include <dlfcn.h>", "is for"),
        ("npublas/math/pack.cpp", '#include "runtime.hpp"', "no path from csrc"),
        ("rocket/run.cpp", "", "add it there"),
    ],
)
def test_an_include_that_goes_up_is_reported(
    tmp_path: Path, name: str, line: str, complaint: str
) -> None:
    headers = dict.fromkeys(
        [
            "npublas/base/error.hpp",
            "npublas/math/layout.hpp",
            "npublas/device/runtime.hpp",
            "npublas/exec/window.hpp",
            "npublas/engine/engine.hpp",
            "python/module.hpp",
            "simulator/faults.hpp",
        ],
        "",
    )
    assert list(include_violations(write(tmp_path, headers))) == []
    (report,) = include_violations(write(tmp_path, {name: line}))
    assert report.startswith(name) and complaint in report


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("_config.py", "from npublas import _engine", "_config must not import _engine"),
        ("_config.py", "from npublas._engine import open", "_config must not import _engine"),
        ("_engine.py", "from . import _decide", "_engine must not import _decide"),
        ("_stats.py", "def f():\n    import npublas.cli", "_stats must not import cli"),
        ("_matmul.py", "import npublas", "_matmul must not import __init__"),
        ("_matmul.py", "from npublas import matmul", "_matmul must not import __init__"),
        ("_matmul.py", "from npublas.nn import Encoder", "_matmul must not import nn"),
        ("nn/_bert.py", "from ..cli import main", "nn must not import cli"),
        ("_verify.py", "from ._library import find", "imports itself"),
        ("_sorcery.py", "", "_sorcery: not in LAYERS"),
    ],
)
def test_an_import_that_goes_up_is_reported(
    tmp_path: Path, name: str, line: str, complaint: str
) -> None:
    good = {
        "__init__.py": "from npublas._matmul import ufunc as matmul\nfrom npublas import _core",
        "_library.py": "from npublas import _verify",
        "nn/_bert.py": "from . import _functions\nfrom npublas import matmul\nimport numpy",
        "nn/_functions.py": "from npublas import __version__",
        "cli/__init__.py": "from npublas.nn import Encoder",
    }
    assert list(import_violations(write(tmp_path, good))) == []
    reports = list(import_violations(write(tmp_path, {name: line})))
    assert complaint in "\n".join(reports)

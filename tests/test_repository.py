"""Rules that the whole repository keeps: what must be the same in two places, and what must not be
anywhere.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import npublas
import npublas.nn

ROOT = Path(__file__).parent.parent

# Hosts that the texts may send a reader to.
HOSTS = {
    "www.apache.org",
    "docs.python.org",
    "github.com",
    "numpy.org",
    "keepachangelog.com",
    "semver.org",
}


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def lines() -> Iterator[tuple[str, str]]:
    """Every line of text, with its place."""
    for path in tracked_files():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def found(pattern: str) -> list[str]:
    return [f"{place}: {line.strip()}" for place, line in lines() if re.search(pattern, line)]


def test_nothing_of_the_vendors_is_in_the_repository() -> None:
    names = [path.name for path in tracked_files()]
    assert [name for name in names if re.search(r"^(lib)?rk(nn|llm)\w*\.(h|hpp|so|a)", name)] == []


def test_no_file_is_larger_than_a_mebibyte() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked_files()}
    assert {name: size for name, size in sizes.items() if size > 2**20} == {}


def test_no_text_names_a_folder_of_somebodys_machine() -> None:
    assert found(r"(?<![\w.$}>])/(home|root|work|Users|opt)/\w") == []


def test_links_lead_to_known_hosts_only() -> None:
    links = [
        (place, host)
        for place, line in lines()
        for host in re.findall(r"\bhttps?://([\w.-]+)", line)
        if host not in HOSTS
    ]
    assert links == [], "add the host to HOSTS if every reader can reach it"


def test_nothing_is_left_for_later() -> None:
    assert found(r"\b(T[O]DO|F[I]XME|X[X]X|H[A]CK|NotImplemented[E]rror)\b") == []
    # What a test needs is installed, or the test fails. Only what NumPy 1.26 can't do is left out.
    skips = found(r"\bpytest\.(s[k]ip|importor[s]kip|xf[a]il)|mark\.(s[k]ip|xf[a]il)")
    assert [skip for skip in skips if not re.search(r"skipif\(.*NumPy", skip)] == []


def test_the_version_is_the_same_everywhere() -> None:
    (declared,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert npublas.__version__ == declared
    released = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == re.sub(r"\.dev\d+$", "", declared)


def test_line_five_of_the_readme_says_on_how_many_boards_it_was_confirmed() -> None:
    line = (ROOT / "README.md").read_text().splitlines()[4]
    assert re.match(r"\*\*Confirmed on \d+ boards?\*\*", line), line


@pytest.mark.parametrize(
    ("machine", "python", "wanted"),
    [
        ("aarch64", "3.10", True),
        ("aarch64", "3.12", True),
        ("aarch64", "3.13", False),
        ("x86_64", "3.12", False),
    ],
)
def test_the_vendors_toolkit_is_asked_for_where_it_has_wheels(
    machine: str, python: str, wanted: bool
) -> None:
    (toolkit,) = [
        requirement
        for requirement in map(Requirement, metadata.requires("npublas") or [])
        if requirement.name == "rknn-toolkit-lite2"
    ]
    assert toolkit.marker
    here = {"platform_machine": machine, "python_version": python, "platform_system": "Linux"}
    assert toolkit.marker.evaluate({**here, "extra": "rknn"}) == wanted
    assert not toolkit.marker.evaluate({**here, "extra": ""})


def test_no_headline_of_a_text_states_a_speed() -> None:
    headlines = [
        (path.name, line)
        for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        for line in path.read_text().splitlines()
        if line.startswith("#")
    ]
    assert [h for h in headlines if re.search(r"\d\s*(G?T?(FL)?OPS?|×|x|ms|times)\b", h[1])] == []


PUBLIC = [
    pytest.param(module, name, id=f"{module.__name__}.{name}")
    for module in (npublas, npublas.nn)
    for name in module.__all__
    if name != "__version__"
]


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_public_things_have_a_docstring_with_an_example(module: object, name: str) -> None:
    thing = getattr(module, name)
    assert thing.__doc__, f"{name} has no docstring"
    if callable(thing) and not isinstance(thing, type):
        assert ">>> " in thing.__doc__, f"the docstring of {name} has no example"

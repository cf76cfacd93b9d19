"""What tests and benchmarks share: npublas at its defaults around each of them, and the devices.

Python tests run on the simulator, which is always there, and with ``--npu`` on the board as well.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator

import pytest

# Before npublas is imported: no setting of this shell's, and no lock of other programs. Processes
# that tests start inherit it.
for _name in [name for name in os.environ if name.startswith("NPUBLAS_")]:
    if not _name.startswith("NPUBLAS_TEST_"):
        del os.environ[_name]
_folder = tempfile.TemporaryDirectory(prefix="npublas-tests-")
os.environ["NPUBLAS_LOCK_FILE"] = f"{_folder.name}/lock"

import npublas  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--npu", action="store_true", help="run the tests on the board's NPU as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--npu``, tests that need a board are not part of the run: nothing is skipped."""
    if not config.getoption("--npu"):
        needs_board = [item for item in items if item.get_closest_marker("npu")]
        if needs_board:
            config.hook.pytest_deselected(items=needs_board)
            items[:] = [item for item in items if item not in needs_board]


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """Gives back the settings, the counters and the log level that a test has changed."""
    settings = npublas.get_config().to_dict()
    level = logging.getLogger("npublas").level
    npublas.reset_counters()
    yield
    npublas.set_config(**settings)
    logging.getLogger("npublas").setLevel(level)


@pytest.fixture(params=["simulator", pytest.param("board", marks=pytest.mark.npu)])
def device(request: pytest.FixtureRequest) -> str:
    """A test that asks for it runs on each device; the value is the device's name.

    Nothing is forced to run there: use ``device="npu"`` for products that must. The board's runtime
    is found as always, or named by NPUBLAS_TEST_RUNTIME.
    """
    name: str = request.param
    board = os.environ.get("NPUBLAS_TEST_RUNTIME", "auto")
    npublas.set_config(runtime="simulator" if name == "simulator" else board)
    return name

"""What planning costs: the search, and the decision that finds its plan in the cache.

    python -m pytest benchmarks/test_planning.py --benchmark-only

What to conclude: a search is to cost less than 50 µs (a product that is new to a thread pays it
once; of products with few runs, the best plans are replayed in that time), a decision whose plan is
kept less than a microsecond beside the call from Python, which the case `empty` shows.
"""

from __future__ import annotations

import pytest

from npublas import _config, _core

CASES = {
    "packed": ((512, 4096, 4096), "integers", (1376, 1376)),
    "packed, with replays": ((128, 1024, 1024), "integers", (1024, 512)),
    "fresh, with replays": ((512, 1024, 1024), "float16", None),
    "fresh": ((512, 4096, 4096), "float16", None),
    "fresh, in parts": ((4096, 4096, 11008), "float32", None),
    "one row": ((1, 4096, 4096), "integers", (1376, 1376)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_search(benchmark, name):
    shape, method, packed = CASES[name]
    benchmark.group = "planning: the search"
    assert _core.plan(1, *shape, method, packed=packed)["cores"] == 3
    benchmark(_core.plan, 1, *shape, method, packed=packed)


@pytest.mark.parametrize(("name", "m"), [("kept", 4096), ("empty", 0)])
def test_a_decision(benchmark, name, m):
    benchmark.group = "planning: the decision"
    settings = _config.packed(device="auto")
    arguments = (settings, "float32", "float32", "float32", 1, m, 1024, 1024)
    _core.decide(*arguments)
    benchmark(_core.decide, *arguments)

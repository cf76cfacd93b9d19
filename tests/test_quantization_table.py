"""The script that measures the tables of docs/quantization.md: its statistics, and that it runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from tiny_bert import CONFIG, tiny_weights

from npublas.nn import Encoder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "benchmarks" / "quantization_table.py"
    spec = importlib.util.spec_from_file_location("quantization_table", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ranks_count_from_zero_and_equals_share_theirs(script: ModuleType) -> None:
    assert script.ranks(np.array([3.0, 1.0, 2.0, 1.0])).tolist() == [3, 0.5, 2, 0.5]


def test_spearman_sees_order_alone(script: ModuleType) -> None:
    x = np.array([0.1, 0.2, 0.5, 0.9])
    assert script.spearman(x, np.exp(9 * x)) == pytest.approx(1)
    assert script.spearman(x, -(x**3)) == pytest.approx(-1)
    # By hand: 1 - 6·(1 + 1) / (4·15).
    assert script.spearman(x, np.array([2.0, 1.0, 3.0, 4.0])) == pytest.approx(0.8)


def test_there_are_sixty_different_sentences(script: ModuleType) -> None:
    assert len(script.SENTENCES) == len(set(script.SENTENCES)) >= 60


def test_it_has_a_line_for_every_mode(script: ModuleType) -> None:
    weights = {name: value.astype(np.float32) for name, value in tiny_weights().items()}
    model = SimpleNamespace(
        encoder=Encoder(weights, CONFIG),
        tokens=lambda texts: [[len(word) for word in text.split()] for text in texts],
    )
    lines = list(script.measure(model, script.SENTENCES[:8], script.SENTENCES[8:16]))
    modes = list(script.modes())
    assert len({mode.name for mode in modes}) == len(modes) == 18
    assert len(lines) == 4 + len(modes)
    for line, mode in zip(lines[4:], modes, strict=True):
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert name == mode.name and len(cells) == 8
        mean, least, ranks = map(float, cells[2:5])
        assert least <= mean <= 1 and ranks <= 1
        if "int8" in name:
            assert least > 0.98
    assert len({line.count("|") for line in lines}) == 1

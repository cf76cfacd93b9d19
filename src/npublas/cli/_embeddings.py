"""The demo's second part: sentence embeddings with a real model, and what it took to get them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import npublas
from npublas._stats import Counters
from npublas.cli._model import Model
from npublas.cli._terminal import progress
from npublas.nn._functions import Floats


@dataclass(frozen=True)
class Embeddings:
    """The sentences as rows of length 1, computed twice, and the counters of the first time."""

    npu: Floats
    numpy: Floats
    counters: Counters
    seconds: float
    numpy_seconds: float

    @property
    def difference(self) -> float:
        """The largest difference between the two in any element."""
        return float(np.abs(self.npu - self.numpy).max())

    @property
    def cosine(self) -> float:
        """The smallest cosine between a sentence and itself, computed in float64."""
        ours, theirs = self.npu.astype(np.float64), self.numpy.astype(np.float64)
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        return float((np.einsum("ij,ij->i", ours, theirs) / lengths).min())


def embed(model: Model, texts: list[str]) -> Embeddings:
    """Runs the model with its products on the NPU in float16, then with NumPy's in float32."""
    tokens = model.tokens(texts)

    def run(label: str, matmul: Callable[[Any, Any], Any]) -> tuple[Floats, float]:
        start = time.perf_counter()
        with progress(label, model.encoder.steps(len(tokens))) as step:
            sentences = model.encoder.embed(tokens, matmul=matmul, after_layer=step)
        return sentences, time.perf_counter() - start

    npublas.reset_counters()
    npu, seconds = run("npublas", partial(npublas.matmul, precision="float16", device="npu"))
    counters = npublas.counters()
    numpy, numpy_seconds = run("NumPy", np.matmul)
    return Embeddings(npu, numpy, counters, seconds, numpy_seconds)


def closest(similarity: Floats, row: int, count: int) -> list[int]:
    """The texts most similar to text `row`, the best first, without itself."""
    order = np.argsort(-similarity[row], kind="stable")
    return [int(other) for other in order if other != row][:count]


def closest_pairs(similarity: Floats, count: int) -> list[tuple[int, int]]:
    """The most similar pairs of different texts, the best first."""
    rows, columns = np.triu_indices(len(similarity), 1)
    order = np.argsort(-similarity[rows, columns], kind="stable")[:count]
    return [(int(rows[pair]), int(columns[pair])) for pair in order]

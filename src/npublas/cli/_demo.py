"""`npublas demo`: does it multiply rightly here, and how does it do on real work?

on the NPU if there is one, else on the simulator, which is said first
one square product per type, checked
sentence embeddings with a real model, beside the same model on NumPy
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np

import npublas
from npublas.cli import _model
from npublas.cli._embeddings import Embeddings, closest, closest_pairs, embed
from npublas.cli._failure import Failure
from npublas.cli._products import Product, npu_name, square_products
from npublas.cli._terminal import WIDTH, say, shorten, table, wrap

SIZE = 1024
PAIRS = 6
NEIGHBOURS = 3

# What the demo promises of the embeddings.
LEAST_SHARE = 0.90
LEAST_COSINE = 0.999


def run(sentences: list[str], model: Path | None = None, size: int = SIZE) -> int:
    """Prints the demo. 0 if every answer is right and at least 90 % of the work ran on the NPU."""
    if model is not None:
        _model.find(model)  # a wrong path is said at once
    choose_device()
    products = square_products(size)
    say("", *products_page(products, size))
    loaded = _model.load(model)
    texts = sentences + shipped_texts()
    say("", *wrap(f"Sentence embeddings of {len(texts)} texts, precision float16: {loaded.name}"))
    embeddings = embed(loaded, texts)
    say("", *pairs_page(embeddings, texts, len(sentences)))
    say("", *figures_page(embeddings))
    problems = list(find_problems(products, embeddings))
    if problems:
        say("", *problems)
    return 1 if problems else 0


def shipped_texts() -> list[str]:
    """The texts that come with the demo, one per line of texts.txt."""
    return resources.files("npublas.cli").joinpath("texts.txt").read_text("utf-8").splitlines()


def choose_device() -> None:
    """Takes the simulator where there is no NPU, and says so."""
    say(f"npublas {npublas.__version__}, NumPy {np.__version__}")
    if problem := _try_npu():
        cause = problem.rstrip(".")
        say(*wrap(f"There is no NPU here: {cause}. (`npublas info` says more.)", indent=""))
        npublas.set_config(runtime="simulator")
        if problem := _try_npu():
            raise Failure(f"The simulator can't be used either: {problem}")
    if npublas.counters().simulated:
        say("The simulator stands in for it: the numbers are an NPU's, the times are not.")


def _try_npu() -> str:
    """Opens what the settings name; returns why there is nothing to compute on, or ""."""
    npu = npublas.is_available()
    if npu:
        # What looks like an NPU from outside is one if it computes.
        try:
            one = np.eye(2, dtype=np.float16)
            npublas.matmul(one, one, device="npu")
        except npublas.NpuError as error:
            return str(error)
        npu = npublas.is_available()
    return "" if npu else npu.cause


def products_page(products: list[Product], size: int) -> list[str]:
    """One line per product."""
    rows = [("operands", "result", "ran on", "time", "answer, checked in float64")]
    rows += [
        (product.operands, product.result, product.where, duration(product.seconds), product.answer)
        for product in products
    ]
    return [f"One product, {size} x {size} x {size}", "", *table(rows, right=[3])]


def pairs_page(embeddings: Embeddings, texts: list[str], given: int) -> list[str]:
    """What is most similar to each given text, and the most similar pairs of all."""
    similarity = embeddings.npu @ embeddings.npu.T

    def quote(text: int) -> str:
        return shorten(texts[text], WIDTH - 8)

    lines = []
    for row in range(given):
        lines += [f'Most similar to "{shorten(texts[row], WIDTH - 20)}"']
        lines += [
            f"  {similarity[row, other]:5.2f} {quote(other)}"
            for other in closest(similarity, row, NEIGHBOURS)
        ]
        lines += [""]
    lines += ["Most similar pairs"]
    for one, other in closest_pairs(similarity, PAIRS):
        lines += [f"  {similarity[one, other]:5.2f} {quote(one)}", f"        {quote(other)}"]
    return lines


def figures_page(embeddings: Embeddings) -> list[str]:
    """Where the products ran, and how the result compares with NumPy's."""
    counters = embeddings.counters
    npu = npu_name(counters)
    products = counters.npu.products + counters.cpu.products
    flops = counters.npu.flops + counters.cpu.flops
    rows = [
        (
            f"On the {npu}",
            f"{counters.npu.products:,} of {products:,} products, "
            f"{counters.npu.flops / flops:.1%} of {flops / 1e9:.1f} Gflop",
        )
    ]
    rows += [
        ("Largest difference from NumPy float32", f"{embeddings.difference:.1e} in any element"),
        ("Smallest cosine with NumPy float32", f"{embeddings.cosine:.7f}"),
        (f"Time with the {npu}", duration(embeddings.seconds)),
        ("Time with NumPy float32 on the CPU", duration(embeddings.numpy_seconds)),
    ]
    reasons = [
        line
        for reason in counters.reasons
        if not reason.on_npu
        for line in wrap(
            f"On the CPU: {reason.products:,} {reason.dtype} products, "
            f"{reason.flops / 1e9:.3g} Gflop: {reason.text}"
        )
    ]
    return [*table(rows), *reasons]


def find_problems(products: list[Product], embeddings: Embeddings) -> Iterator[str]:
    """What the demo promises and didn't keep."""
    for product in products:
        if not product.right:
            yield f"The {product.operands} product is wrong."
    counters = embeddings.counters
    share = counters.npu.flops / (counters.npu.flops + counters.cpu.flops)
    if share < LEAST_SHARE:
        yield f"Less than {LEAST_SHARE:.0%} of the embeddings' work ran on the NPU."
    if not embeddings.cosine >= LEAST_COSINE:
        yield f"The embeddings differ from NumPy's: a cosine is below {LEAST_COSINE}."


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"

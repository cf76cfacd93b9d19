"""What quantisation costs in quality: the tables of docs/quantization.md, as Markdown.

    python benchmarks/quantization_table.py

The demo's model (all-MiniLM-L6-v2, fetched once) embeds the sentences below with all 24 of its
dense layers quantised in every mode; attention, and everything that is no product, stays in
float32. Each embedding is compared with the one of the float32 model, and the order of the
similarities of all pairs with theirs. Fixed activation scales come from other texts, the demo's.

What to conclude: which mode is good enough, and what a rotation or smaller groups buy. The integers
are exact wherever they are computed, so the figures are those of any device; here it is the CPU.
It takes two minutes, and shows no times: they would say nothing about a board.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import npublas
from npublas import QuantizedMatrix
from npublas._error_report import float16_product
from npublas.cli import _model
from npublas.nn import Encoder

# Pairs and triples about one thing in other words, near misses, and sentences about nothing else.
SENTENCES = """\
A cat slept on the warm windowsill all afternoon.
The whole afternoon the cat lay asleep in the sun by the window.
A dog barked at the postman until he closed the gate.
The letter carrier was greeted by loud barking behind the fence.
She poured the boiling water over the tea leaves and waited four minutes.
Steep black tea in hot water for about four minutes.
Coffee beans lose their aroma within weeks of being roasted.
The bakery on the corner sells out of rye bread before nine.
Whoever wants rye bread must be at the baker's early in the morning.
Our train to the coast was delayed by two hours because of a fallen tree.
A tree on the tracks held up the railway line to the seaside.
The bus stops here every ten minutes on weekdays.
He missed his flight and spent the night on a bench at the airport.
Cyclists are asked to dismount in the pedestrian tunnel.
Heavy snow closed the mountain road for the third time this winter.
The pass over the mountains is blocked by snow again.
A warm wind from the south melted the ice on the lake within a day.
The forecast promises sunshine for the weekend and storms on Monday.
Thunderstorms are expected at the start of next week.
The river rose half a metre overnight and flooded the lower meadows.
Farmers moved their cattle to higher ground when the water came.
The parliament rejected the new tax on sugar by eleven votes.
A narrow majority of deputies voted against taxing sweet drinks.
The mayor opened the new bridge with a pair of golden scissors.
Voters will choose between six candidates in the second week of May.
The court ruled that the contract had never been valid.
According to the judges, the agreement between the companies was void.
Shares in the chip maker fell sharply after a weak forecast.
The semiconductor company's stock dropped when it lowered its expectations.
The price of olive oil has doubled since last year's drought.
Small savers hardly notice when interest rates fall by a tenth of a point.
The compiler warned that the variable might be used before it was set.
An uninitialised variable caused the program to print nonsense.
The server answered every request with the same error after the update.
Since last night's upgrade the web service has been returning failures.
Sorting a list of a million numbers takes a fraction of a second.
She wrote a small script that renames photographs by the day they were taken.
The password must have at least twelve characters and one digit.
A transformer learns which words of a sentence to look at.
Attention lets a language model weigh the other words in the text.
The telescope photographed a galaxy whose light is twelve billion years old.
Astronomers saw an extremely distant galaxy with their new instrument.
A comet will be visible to the naked eye shortly after sunset.
Water boils at a lower temperature on high mountains.
The nurse measured his blood pressure twice and wrote down the lower value.
Vaccination protects most people from a severe course of the disease.
Those who were immunised rarely became seriously ill.
The surgeon replaced the worn hip joint in less than an hour.
Drink plenty of water and stay in bed until the fever is gone.
The orchestra played the symphony without a conductor.
No one stood at the podium while the musicians performed.
Her first novel tells of three sisters who inherit a lighthouse.
The film was shot in a single night with two cameras.
The painter used blue so rarely that each patch of it catches the eye.
The striker scored twice in the last five minutes and won the match.
With two late goals the forward turned the game around.
The marathon was won by a teacher who had never raced before.
She lost the chess game because she ran out of time in a winning position.
They pitched their tent next to the stream and cooked beans over the fire.
The museum's oldest clock still strikes every quarter of an hour.
Our neighbours painted their fence green and their door red.
Octopuses have three hearts and blue blood.
""".splitlines()


class Mode(NamedTuple):
    name: str
    options: dict[str, Any] | None  # of npublas.quantize


class Quality(NamedTuple):
    mean_cosine: float
    least_cosine: float
    rank_correlation: float


def modes() -> Iterator[Mode]:
    for bits in (8, 4):
        yield Mode(f"int{bits}, one scale per matrix", {"bits": bits, "axis": None})
        for size in (None, 128, 64, 32):
            for rotate in (False, True):
                name = f"int{bits}, groups of {size}" if size else f"int{bits}, per column"
                options = {"bits": bits, "group_size": size, "rotate": rotate}
                yield Mode(name + (", rotated" if rotate else ""), options)


def ranks(x: np.ndarray) -> np.ndarray:
    """The rank of each element, from 0; equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation: Pearson's, of the ranks."""
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def quality(embeddings: np.ndarray, reference: np.ndarray) -> Quality:
    a, b = embeddings.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.einsum("ij,ij->i", a, b) / lengths
    pairs = np.triu_indices(len(a), 1)
    return Quality(cosines.mean(), cosines.min(), spearman((a @ a.T)[pairs], (b @ b.T)[pairs]))


def dense_weights(encoder: Encoder) -> list[np.ndarray]:
    return [
        dense.weight
        for layer in encoder.layers
        for dense in (layer.qkv, layer.output, layer.up, layer.down)
    ]


def instead(
    weights: list[np.ndarray], replacements: list[Any], multiply: Callable[..., Any]
) -> Callable[[Any, Any], Any]:
    """A `matmul` that multiplies by the replacement of a weight, and else as NumPy does."""
    table = {id(weight): other for weight, other in zip(weights, replacements, strict=True)}

    def matmul(x: Any, w: Any) -> Any:
        return multiply(x, table[id(w)]) if id(w) in table else np.matmul(x, w)

    return matmul


def snr_db(pairs: list[tuple[np.ndarray, np.ndarray]], weights: list[QuantizedMatrix]) -> float:
    """The mean over the layers' products of signal to noise, in dB."""
    values = []
    for (x, w), q in zip(pairs, weights, strict=True):
        exact = x.astype(np.float64) @ w.astype(np.float64)
        values.append(10 * np.log10(np.sum(exact**2) / np.sum((x @ q - exact) ** 2)))
    return float(np.mean(values))


def measure(model: _model.Model, texts: list[str], others: list[str]) -> Iterator[str]:
    """The lines of the table."""
    encoder, tokens, unseen = model.encoder, model.tokens(texts), model.tokens(others)
    weights = dense_weights(encoder)
    met: dict[int, np.ndarray] = {}  # the activations of each weight's last product

    def watching(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        met[id(w)] = x
        return np.matmul(x, w)

    reference = encoder.embed(tokens, matmul=watching)
    pairs = [(met[id(weight)], weight) for weight in weights]

    yield (
        "| dense layers | weights, MB | SNR, dB | cosine: mean | least | ranks "
        "| fixed scales: mean | least | ranks |"
    )
    yield "|---|" + "---:|" * 8
    size = sum(weight.nbytes for weight in weights) / 1e6
    yield f"| float32 | {size:.2f} | | 1 | 1 | 1 | | | |"
    float16 = encoder.embed(tokens, matmul=instead(weights, weights, float16_product))
    half = quality(float16, reference)
    yield f"| float16 | {size / 2:.2f} | | {shown(half)} | | | |"
    for mode in modes():
        quantised = [npublas.quantize(weight, **mode.options) for weight in weights]
        with npublas.calibrate() as calibration:
            encoder.embed(unseen, matmul=instead(weights, quantised, npublas.matmul))
        fixed = [calibration[q] for q in quantised]
        dynamic, static = (
            quality(encoder.embed(tokens, matmul=instead(weights, qs, npublas.matmul)), reference)
            for qs in (quantised, fixed)
        )
        size = sum(q.nbytes for q in quantised) / 1e6
        yield (
            f"| {mode.name} | {size:.2f} | {snr_db(pairs, quantised):.1f} | {shown(dynamic)} | "
            f"{shown(static)} |"
        )


def shown(quality: Quality) -> str:
    return " | ".join(f"{value:.5f}" for value in quality)


def main() -> None:
    model = _model.load(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    others = resources.files("npublas.cli").joinpath("texts.txt").read_text("utf-8").splitlines()
    print(f"{model.name}, {len(SENTENCES)} sentences", flush=True)
    with npublas.config_context(device="cpu"):
        for line in measure(model, SENTENCES, others):
            print(line, flush=True)


if __name__ == "__main__":
    main()

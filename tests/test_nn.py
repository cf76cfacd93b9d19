"""The sentence encoder, against a loop in float64 that is written from the papers' formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bert import CONFIG, HIDDEN, LAYERS, tiny_weights

from npublas.nn._bert import Encoder, batches
from npublas.nn._functions import erf, gelu, layer_norm, softmax


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(tiny_weights(), CONFIG)


def random_texts(*lengths: int) -> list[list[int]]:
    random = np.random.default_rng(lengths)
    return [random.integers(0, CONFIG["vocab_size"], length).tolist() for length in lengths]


def reference(tokens: list[int], config: dict[str, Any] = CONFIG) -> np.ndarray:
    """One text's embedding in float64, one token and one head at a time."""
    w = {name: array.astype(np.float64) for name, array in tiny_weights().items()}

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        scaled = (x - x.mean()) / math.sqrt(x.var() + config["layer_norm_eps"])
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def cumulative(x: float) -> float:
        return (1 + math.erf(x / math.sqrt(2))) / 2

    xs = [
        norm(
            "embeddings.LayerNorm",
            w["embeddings.word_embeddings.weight"][token]
            + w["embeddings.position_embeddings.weight"][position]
            + w["embeddings.token_type_embeddings.weight"][0],
        )
        for position, token in enumerate(tokens)
    ]
    heads = config["num_attention_heads"]
    for number in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{number}"
        q, k, v = (
            [np.split(dense(f"{name}.attention.self.{part}", x), heads) for x in xs]
            for part in ("query", "key", "value")
        )
        after = []
        for here, x in enumerate(xs):
            context = []
            for head in range(heads):
                depth = len(q[here][head])
                shares = np.exp([q[here][head] @ key[head] / math.sqrt(depth) for key in k])
                shares /= shares.sum()
                context.append(sum(s * value[head] for s, value in zip(shares, v, strict=True)))
            attended = dense(f"{name}.attention.output.dense", np.concatenate(context))
            y = norm(f"{name}.attention.output.LayerNorm", x + attended)
            up = dense(f"{name}.intermediate.dense", y)
            up = np.array([value * cumulative(value) for value in up])
            after.append(norm(f"{name}.output.LayerNorm", y + dense(f"{name}.output.dense", up)))
        xs = after
    mean = sum(xs) / len(xs)
    return mean / math.sqrt(mean @ mean)


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float32, 4e-7), (np.float64, 1e-15)])
def test_erf_is_within_its_stated_error(dtype: type, rounding: float) -> None:
    x = np.concatenate([np.linspace(-6, 6, 20001), [0, -1e30, 1e30, 1e-30]]).astype(dtype)
    expected = np.array([math.erf(value) for value in x])
    assert erf(x).dtype == dtype
    assert np.abs(erf(x) - expected).max() <= 1.5e-7 + rounding


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 40000])
def test_gelu_is_the_same_in_every_piece(size: int) -> None:
    x = np.linspace(-5, 5, size, dtype=np.float32)
    expected = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x.tolist()]
    np.testing.assert_allclose(gelu(x), expected, atol=2e-6)


def test_gelu_reads_views() -> None:
    x = np.linspace(-5, 5, 60, dtype=np.float32).reshape(6, 10)
    np.testing.assert_array_equal(gelu(x.T[::2]), gelu(x).T[::2])


def test_softmax_of_large_scores_does_not_overflow() -> None:
    scores = np.array([[1000, 1000, -1e9], [-1000, -1001, -1e9]], np.float32)
    e = math.exp(-1)
    expected = [[0.5, 0.5, 0], [1 / (1 + e), e / (1 + e), 0]]
    np.testing.assert_allclose(softmax(scores), expected, rtol=1e-6)


def test_layer_norm_has_the_learnt_mean_and_deviation() -> None:
    x = np.random.default_rng(0).normal(3, 2, (5, 4096))
    y = layer_norm(x, np.full(4096, 7.0), np.full(4096, -1.0), 0)
    np.testing.assert_allclose(y.mean(axis=-1), -1)
    np.testing.assert_allclose(y.std(axis=-1), 7)


def test_a_constant_row_is_normalised_to_its_bias() -> None:
    y = layer_norm(np.full((1, 8), 5.0), np.ones(8), np.full(8, 0.25), 1e-12)
    np.testing.assert_array_equal(y, 0.25)


@pytest.mark.parametrize("length", [1, 2, 7, CONFIG["max_position_embeddings"]])
def test_an_embedding_follows_the_formula(encoder: Encoder, length: int) -> None:
    (tokens,) = random_texts(length)
    np.testing.assert_allclose(encoder.embed([tokens])[0], reference(tokens), atol=2e-6)


@given(st.lists(st.integers(1, CONFIG["max_position_embeddings"]), max_size=9), st.integers(1, 10))
def test_an_embedding_does_not_depend_on_its_batch(lengths: list[int], batch: int) -> None:
    encoder = Encoder(tiny_weights(), CONFIG)
    texts = random_texts(*lengths)
    together = encoder.embed(texts, batch=batch)
    assert together.shape == (len(texts), HIDDEN)
    assert together.dtype == np.float32
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(row, encoder.embed([text])[0], atol=2e-6)


def test_every_product_goes_through_the_given_function(encoder: Encoder) -> None:
    texts = random_texts(5, 12, 3)
    flops = 0

    def counting(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal flops
        c: np.ndarray = np.matmul(a, b)
        flops += 2 * c.size * a.shape[-1]
        return c

    encoder.embed(texts, matmul=counting)
    # Dense layers see tokens, attention sees texts padded to the longest.
    dense = 2 * (5 + 12 + 3) * (4 * HIDDEN**2 + 2 * HIDDEN * CONFIG["intermediate_size"])
    attention = 2 * 2 * 3 * 12 * 12 * HIDDEN
    assert flops == LAYERS * (dense + attention)


def test_every_product_is_of_the_weights_type(encoder: Encoder) -> None:
    seen: set[np.dtype[Any]] = set()

    def noting(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        seen.update((a.dtype, b.dtype))
        return np.matmul(a, b)

    encoder.embed(random_texts(5, 12), matmul=noting)
    assert seen == {np.dtype(np.float32)}


def test_what_the_function_returns_is_used(encoder: Encoder) -> None:
    (text,) = texts = random_texts(6)
    zero = encoder.embed(texts, matmul=lambda a, b: np.zeros_like(np.matmul(a, b)))
    assert np.abs(zero[0] - reference(text)).max() > 0.01


def test_progress_is_reported_as_often_as_announced(encoder: Encoder) -> None:
    def calls(texts: int, batch: int) -> int:
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1

        encoder.embed(random_texts(*[2] * texts), batch=batch, after_layer=tick)
        return count

    for texts, batch in [(1, 4), (4, 4), (5, 4), (9, 1)]:
        assert calls(texts, batch) == encoder.steps(texts, batch)


@given(st.lists(st.integers(1, 128)), st.integers(1, 40))
def test_batches_hold_every_text_once_longest_first(lengths: list[int], size: int) -> None:
    groups = list(batches([[0] * length for length in lengths], size))
    order = [int(text) for group in groups for text in group]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[text] for text in order] == sorted(lengths, reverse=True)
    assert all(len(group) == size for group in groups[:-1])


@pytest.mark.parametrize(
    "change",
    [{"model_type": "t5"}, {"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}],
)
def test_another_architecture_is_refused_by_name(change: dict[str, str]) -> None:
    ((key, value),) = change.items()
    with pytest.raises(ValueError, match=f"{key} is '{value}'"):
        Encoder(tiny_weights(), CONFIG | change)


@pytest.mark.parametrize(
    "damage",
    [
        lambda weights, _: weights.pop("encoder.layer.1.output.dense.bias"),
        lambda _, config: config.pop("num_attention_heads"),
    ],
)
def test_a_missing_part_is_named(damage: Callable[[Any, Any], Any]) -> None:
    weights, config = tiny_weights(), dict(CONFIG)
    damage(weights, config)
    with pytest.raises(ValueError, match=r"no 'encoder|no 'num_attention_heads'"):
        Encoder(weights, config)

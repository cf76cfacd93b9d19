"""A BERT sentence encoder in plain NumPy.

    x = embed(token) + embed(position) + embed(type 0), normalised
    for each layer:
        q, k, v = x Wqkv                        one product for the three
        c       = softmax(q k' / sqrt(d)) v     per text and head
        x       = normalise(x + c Wo)
        x       = normalise(x + gelu(x W1) W2)
    sentence = mean of x over the text's tokens, scaled to length 1

The dense layers look at one token at a time, so they get the tokens of all texts as the rows of one
matrix, without any padding: few, large products. Only attention sees texts, padded to the longest.

Architecture: Devlin et al. 2018, arXiv:1810.04805; the mean as the sentence: Reimers and Gurevych
2019, arXiv:1908.10084.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npublas.nn._functions import Floats, gelu, layer_norm, softmax

MatMul = Callable[[Any, Any], Any]

# Added to the score of a position that holds no token: its share becomes exactly 0 in float32, and
# unlike -inf it can't make a NaN.
_NOWHERE = -1e9


@dataclass(frozen=True)
class Dense:
    """y = x W + b. The file keeps W as (out, in); its transpose is a view."""

    weight: Floats  # (in, out)
    bias: Floats

    def __call__(self, x: Floats, matmul: MatMul) -> Floats:
        return np.asarray(matmul(x, self.weight)) + self.bias


@dataclass(frozen=True)
class Norm:
    weight: Floats
    bias: Floats
    epsilon: float

    def __call__(self, x: Floats) -> Floats:
        return layer_norm(x, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class Layer:
    qkv: Dense
    output: Dense
    attention_norm: Norm
    up: Dense
    down: Dense
    norm: Norm


class Encoder:
    """Sentence embeddings from token numbers.

    Parameters
    ----------
    weights
        Arrays by the names that the model's file gives them.
    config
        The model's `config.json`.

    Raises
    ------
    ValueError
        If the model isn't a BERT of the kind that this encoder computes, or lacks a weight.

    Examples
    --------
    A network without layers averages its embeddings, normalised:

    >>> import numpy as np
    >>> from npublas.nn import Encoder
    >>> weights = {
    ...     "embeddings.word_embeddings.weight": np.eye(4),
    ...     "embeddings.position_embeddings.weight": np.zeros((8, 4)),
    ...     "embeddings.token_type_embeddings.weight": np.zeros((2, 4)),
    ...     "embeddings.LayerNorm.weight": np.ones(4),
    ...     "embeddings.LayerNorm.bias": np.zeros(4),
    ... }
    >>> config = {"num_hidden_layers": 0, "num_attention_heads": 1, "layer_norm_eps": 1e-12}
    >>> Encoder(weights, config).embed([[0, 1], [2]], matmul=np.matmul).round(2)
    array([[ 0.5 ,  0.5 , -0.5 , -0.5 ],
           [-0.29, -0.29,  0.87, -0.29]])
    """

    def __init__(self, weights: Mapping[str, Floats], config: Mapping[str, Any]) -> None:
        for key, supported in (
            ("model_type", "bert"),
            ("hidden_act", "gelu"),
            ("position_embedding_type", "absolute"),
        ):
            if config.get(key, supported) != supported:
                raise ValueError(f"{key} is {config[key]!r}, and only {supported!r} is supported")
        try:
            self._read(weights, config)
        except KeyError as error:
            raise ValueError(f"the model has no {error.args[0]!r}") from None

    def _read(self, weights: Mapping[str, Floats], config: Mapping[str, Any]) -> None:
        epsilon = float(config["layer_norm_eps"])

        def dense(*names: str) -> Dense:
            return Dense(
                np.concatenate([weights[f"{name}.weight"] for name in names]).T,
                np.concatenate([weights[f"{name}.bias"] for name in names]),
            )

        def norm(name: str) -> Norm:
            return Norm(weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

        def layer(name: str) -> Layer:
            attention = f"{name}.attention"
            return Layer(
                qkv=dense(*(f"{attention}.self.{part}" for part in ("query", "key", "value"))),
                output=dense(f"{attention}.output.dense"),
                attention_norm=norm(f"{attention}.output.LayerNorm"),
                up=dense(f"{name}.intermediate.dense"),
                down=dense(f"{name}.output.dense"),
                norm=norm(f"{name}.output.LayerNorm"),
            )

        self.heads = int(config["num_attention_heads"])
        self.layers = [
            layer(f"encoder.layer.{number}") for number in range(int(config["num_hidden_layers"]))
        ]
        self._words = weights["embeddings.word_embeddings.weight"]
        self._positions = weights["embeddings.position_embeddings.weight"]
        self._type = weights["embeddings.token_type_embeddings.weight"][0]
        self._norm = norm("embeddings.LayerNorm")

    @property
    def longest(self) -> int:
        """How many tokens a text can have."""
        return len(self._positions)

    def embed(
        self,
        texts: Sequence[Sequence[int]],
        *,
        matmul: MatMul = np.matmul,
        batch: int = 32,
        after_layer: Callable[[], object] = lambda: None,
    ) -> Floats:
        """One row of length 1 per text.

        Parameters
        ----------
        texts
            The tokens of each text, at least one.
        matmul
            Computes every matrix product: 2-D ones, and stacks of them for attention.
        batch
            How many texts go through the network together.
        after_layer
            Called `steps` times, evenly spread over the work.
        """
        sentences = np.empty((len(texts), self._words.shape[1]), self._words.dtype)
        for members in batches(texts, batch):
            tokens, is_token = _pad([texts[member] for member in members])
            x = self._norm(
                self._words[tokens[is_token]]
                + self._positions[np.nonzero(is_token)[1]]
                + self._type
            )
            for layer in self.layers:
                x = self._layer(layer, x, is_token, matmul)
                after_layer()
            sentences[members] = _mean(x, is_token)
        return sentences

    def steps(self, texts: int, batch: int = 32) -> int:
        """How often `embed` calls `after_layer` for so many texts."""
        return -(-texts // batch) * len(self.layers)

    def _layer(
        self, layer: Layer, x: Floats, is_token: NDArray[np.bool_], matmul: MatMul
    ) -> Floats:
        context = self._attention(layer.qkv(x, matmul), is_token, matmul)
        x = layer.attention_norm(x + layer.output(context, matmul))
        return layer.norm(x + layer.down(gelu(layer.up(x, matmul)), matmul))

    def _attention(self, qkv: Floats, is_token: NDArray[np.bool_], matmul: MatMul) -> Floats:
        texts, length = is_token.shape
        padded = np.zeros((texts, length, qkv.shape[-1]), qkv.dtype)
        padded[is_token] = qkv
        q, k, v = padded.reshape(texts, length, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        scores: Floats = matmul(q * q.dtype.type(q.shape[-1] ** -0.5), k.swapaxes(-1, -2))
        scores += np.where(is_token, 0, _NOWHERE).astype(scores.dtype)[:, None, None, :]
        context: Floats = matmul(softmax(scores), v)  # (texts, heads, length, depth)
        rows: Floats = context.swapaxes(1, 2).reshape(texts, length, -1)[is_token]
        return rows


def batches(texts: Sequence[Sequence[int]], size: int) -> Iterator[NDArray[np.intp]]:
    """The texts' indices in groups of `size`, longest first: neighbours need little padding."""
    order = np.argsort([-len(text) for text in texts], kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _pad(texts: Sequence[Sequence[int]]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The texts as rows of one matrix, and where that holds a token: never only padding."""
    lengths = np.array([len(text) for text in texts])
    tokens = np.zeros((len(texts), lengths.max()), np.intp)
    is_token = np.arange(lengths.max()) < lengths[:, None]
    tokens[is_token] = np.concatenate([np.asarray(text, np.intp) for text in texts])
    return tokens, is_token


def _mean(x: Floats, is_token: NDArray[np.bool_]) -> Floats:
    """Averages each text's rows of x, which follow one another, and scales to length 1."""
    lengths = is_token.sum(axis=1)
    sums = np.add.reduceat(x, np.cumsum(lengths) - lengths, axis=0)
    means: Floats = sums / lengths[:, None].astype(x.dtype)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    means /= norms
    return means

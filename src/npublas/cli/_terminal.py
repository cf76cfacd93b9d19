"""How the command line writes: lines for 80 columns, plain where the terminal can't do better."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

WIDTH = 80


def say(*lines: str) -> None:
    """Prints lines now. What the terminal's encoding lacks becomes a question mark."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    for line in lines:
        print(line.encode(encoding, "replace").decode(encoding), flush=True)


def shorten(text: str, width: int) -> str:
    """The text on one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."


def wrap(text: str, indent: str = "  ") -> list[str]:
    """The text as lines that fit, the second and later ones indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False)


def table(
    rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), gap: str = "  "
) -> list[str]:
    """Rows as lines with aligned columns, those numbered in `right` aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        gap.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


@contextmanager
def progress(label: str, steps: int) -> Iterator[Callable[[], object]]:
    """Yields what to call after each step.

    Draws a bar on stderr once the work has taken a second, if stderr is a terminal, and takes it
    away at the end. Without tqdm (it is in the extra `demo`) there is no bar.
    """
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        yield lambda: None
        return
    # disable=None: only on a terminal.
    with tqdm(total=steps, desc=label, delay=1, disable=None, leave=False, ncols=WIDTH) as bar:
        yield bar.update

"""Tables for reports: the same rows as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, wrap: int = 0) -> str:
    """Align columns: the last to the left, numbers (all the others) to the right.

    `wrap` is the width at which the last column is broken into lines; 0 never breaks it.
    """
    from textwrap import wrap as wrap_text

    broken: list[list[str]] = []
    for row in rows:
        last = wrap_text(row[-1], wrap) if wrap else [row[-1]]
        broken.append([*row[:-1], last[0] if last else ""])
        broken.extend([[""] * (len(row) - 1) + [line] for line in last[1:]])
    table = [list(head), *broken]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = []
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the same rows as an HTML table."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return (
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"
    )


def si(value: float, unit: str) -> str:
    """Format a quantity with a decimal prefix.

    >>> si(87_040_000_000, "flop"), si(0.00123, "s"), si(0, "s")
    ('87 Gflop', '1.23 ms', '0 s')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    for factor, prefix in ((1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"0 {unit}"


def mebibytes(count: int) -> str:
    """Format a number of bytes.

    >>> mebibytes(8 << 20), mebibytes(12288)
    ('8.0 MiB', '12.0 KiB')
    """
    return f"{count / 2**20:.1f} MiB" if count >= 1 << 20 else f"{count / 1024:.1f} KiB"

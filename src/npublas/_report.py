"""Pages: HTML that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums;
        display: block; overflow-x: auto; }
th, td { text-align: right; padding: 3px 9px; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:last-child, td:last-child { text-align: left; }
.facts th { text-align: left; font-weight: normal; color: #666; }
.facts td { text-align: left; white-space: normal; }
caption { text-align: left; color: #666; padding-bottom: 6px; }
.note { border-left: 4px solid #ccbb44; padding: 4px 12px; background: #faf8ec; }
svg { max-width: 100%; height: auto; }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A whole page of sections, which are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def section(title: str, *content: str) -> str:
    """A heading, and the HTML under it."""
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(content) + "</section>"


def text(words: str, kind: str = "") -> str:
    """A paragraph; of the kind ``note``, one that stands out."""
    return f'<p class="{kind}">{escape(words)}</p>' if kind else f"<p>{escape(words)}</p>"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and what there is to say of them."""
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(what)}</td></tr>" for name, what in rows
    )
    return f'<table class="facts">{body}</table>'


SIMULATED = (
    "The NPU is simulated: the results are those that an NPU would compute; the times are those of "
    "this machine, or of a model of the chip, and were not measured on a board."
)

"""Parts of HTML pages that need nothing else: style, tables, and plots as inline SVG where matplotlib is installed."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

NO_PLOTS = "No plots: matplotlib is not installed (pip install 'blind-lineup[bench]')."
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } caption { text-align: left; color: #555; padding-bottom: .4rem; }
th, td { border-bottom: 1px solid #ddd; padding: .35rem .8rem; text-align: right; vertical-align: top; }
td { white-space: pre-line; font-variant-numeric: tabular-nums; }
pre { background: #f4f4f4; padding: .8rem 1rem; overflow-x: auto; }
.words th, .words td { text-align: left; }
.answer { border-left: 4px solid #1b6ca8; padding: .2rem 1rem; font-size: 1.05rem; }
.warning { border-left: 4px solid #b2182b; padding: .2rem 1rem; }
svg { max-width: 100%; height: auto; }
"""


def whole(title: str, parts: Iterable[str]) -> str:
    """A page of these parts, which are HTML already."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def paragraph(text: str, kind: str = "") -> str:
    """Text as a paragraph. `kind`: a class of the style."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def table(caption: str, head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """Texts as a table."""
    headings = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table{_class(kind)}><caption>{escape(caption)}</caption><tr>{headings}</tr>{body}</table>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def plots_available() -> bool:
    """Whether matplotlib is installed."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        return False
    return True


def plot(draw: Callable[[Any], None], height: float = 4.2) -> str:
    """The SVG of what `draw` puts on a pair of axes. The same figures give the same bytes."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "blind-lineup"
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(8, height), facecolor="white")
    draw(axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]

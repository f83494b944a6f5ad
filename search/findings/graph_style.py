"""How all graphs look: colours, symbols, titles, axes of whole steps."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from search.stopping.rules import OURS

COLOURS = ("#4063d8", "#e07b39", "#2a9d6f", "#b0457b", "#7a6ff0", "#8c6d31", "#3aa6b9", "#888888")
SYMBOLS = (
    "circle", "x", "diamond", "square", "triangle-up", "cross", "star", "hourglass",
    "triangle-down", "pentagon", "bowtie",
)  # fmt: skip

MOST_CHARACTERS = 24  # of a label
FEW_STEPS = 10  # of whole numbers; a longer axis has whole ticks by itself


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """{reason: (colour, symbol)}, completed first."""
    order = sorted(set(names), key=lambda name: (name != "completed", name not in OURS, name))
    return {
        name: (COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]) for i, name in enumerate(order)
    }


def plain(text: str) -> str:
    """Return a text that is not ours so that Plotly, which knows some HTML, shows it as it is."""
    return html.escape(text, quote=False)


def label(text: str) -> str:
    """A name that is not ours, as short as an axis needs it."""
    return plain(text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…")


def noted(text: str, shown: Sequence[Any], of: Sequence[Any]) -> str:
    if len(shown) == len(of):
        return text
    return f"{text}<br><sub>the best and the latest, {len(shown)} of {len(of)}</sub>"


def whole_steps(figure: go.Figure, span: int) -> None:
    """Let no tick stand at half an epoch."""
    if span <= FEW_STEPS:
        figure.update_xaxes(dtick=1)


def titled(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    return figure.update_layout(
        title={"text": title, "x": 0.02, "font": {"size": 16}},
        xaxis_title=x,
        yaxis_title=y,
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 70, "b": 50},
        legend={"orientation": "h", "y": -0.18},
        hovermode="closest",
    )

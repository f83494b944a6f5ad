"""A page of blocks in a file of its own: HTML that opens offline, or Markdown without graphs."""

from __future__ import annotations

import contextlib
import errno
import html
import os
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from search.findings.markup import Block, Graph, literal, to_html, to_markdown
from search.templates import asset, render
from spaces.errors import InputError, did_you_mean
from spaces.paths import unfinished

FORMATS = ("html", "md")
HEIGHT = 420  # pixels
STYLED = ("xaxis", "yaxis", "paper_bgcolor", "plot_bgcolor", "hoverlabel")


def as_page(name: str, blocks: Sequence[Block], form: str) -> str:
    """Return the text of a page.

    Args:
        name: what it is about, for its title.
        form: one of FORMATS.
    """
    if form == "md":
        return to_markdown(blocks)
    return render(
        "report.html",
        name=name,
        style=asset("report.css"),
        plotly=get_plotlyjs(),
        body=to_html(blocks),
        printing=asset("report.js"),
    )


def write_page(to: Path, text: str) -> int:
    """Write a page into a file, whole or not at all; return its size in bytes.

    Raises:
        InputError: the file cannot be written.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    temporary = unfinished(to)
    try:
        temporary.write_bytes(content)
        temporary.replace(to)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"--to {to} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return len(content)


def check_target(to: Path, form: str | None) -> str:
    """Return the format of the report that is to be written to `to`; `-` is standard output.

    Raises:
        InputError: an unknown format, or a file that cannot be written.
    """
    if form is None:
        form = "md" if str(to) == "-" else to.suffix.removeprefix(".").lower()
        if form not in FORMATS:
            raise InputError(f"--to {to}: must end in .html or .md, or give --format")
    if form not in FORMATS:
        hint = did_you_mean(form, FORMATS)
        raise InputError(f"--format {form}: must be {' or '.join(FORMATS)}{hint}")
    if str(to) == "-":
        if form != "md":
            raise InputError("--to -: only --format md goes to standard output; name a file")
        return form
    try:
        if to.exists() and not to.is_file():
            kind = "a folder" if to.is_dir() else "not a regular file"
            raise InputError(f"--to {to} is {kind}; name a file")
        if not to.parent.is_dir():
            raise InputError(f"--to {to}: the folder {to.parent} does not exist; make it first")
        if not os.access(to if to.exists() else to.parent, os.W_OK):
            raise InputError(f"--to {to} cannot be written")
    except OSError as error:
        raise InputError(f"--to {to} cannot be written: {error.strerror}") from None
    return form


def graph(name: str, figure: go.Figure | None, height: int = HEIGHT) -> list[Graph]:
    """A figure of its own height, as wide as the page, its title outside of it."""
    if figure is None:
        return []
    page = go.Figure(figure)
    title, _, caption = (page.layout.title.text or "").partition("<br><sub>")
    style = page.layout.template.layout
    # the whole template is 7 kB a graph, most of it about maps and solids
    page.layout.template = {"layout": {name: style[name] for name in STYLED}}
    page.update_layout(
        height=page.layout.height or height,
        margin={"l": 48, "r": 10, "t": 28, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 12},
        # above: it grows upwards and never meets the axis title
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 11},
            "entrywidth": 98,  # pixels of text: two columns on a telephone
            "tracegroupgap": 0,
        },
    )
    page.layout.title = None
    title, caption = html.unescape(title), html.unescape(caption.removesuffix("</sub>"))
    return [Graph(name, page, literal(title), literal(caption))]

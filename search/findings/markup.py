"""A text of headings, paragraphs, tables, code, graphs and pictures, as Markdown or as HTML."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from search.templates import render

_SPAN = re.compile(
    r"\\(?P<literal>[\\*`])"
    r"|\*\*(?=\S)(?P<bold>(?:\\[\\*`]|(?!\*\*|\\[\\*`]).)+)(?<=\S)\*\*"
    r"|`(?P<code>[^`]+)`",
    re.DOTALL,
)
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?( ?%)?")


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; `**bold**` and `` `code` `` are marked as in Markdown, all else is literal."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of short paragraphs."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells; numbers stand at the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, or nothing, in every row."""
        columns = [[row[index] for row in self.rows] for index in range(len(self.columns))]
        return [
            any(v is not None for v in values) and all(v is None or _is_number(v) for v in values)
            for values in columns
        ]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Graph:
    """A Plotly figure with a title and a caption of its own; Markdown leaves it out."""

    name: str
    figure: Any
    title: str = ""
    caption: str = ""

    def drawing(self) -> str:
        """Its HTML, for a page that has Plotly."""
        return str(
            self.figure.to_html(
                full_html=False,
                include_plotlyjs=False,
                div_id=self.name,
                config={"responsive": True, "displaylogo": False},
            )
        )


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG with its caption; Markdown leaves it out."""

    caption: str
    content: bytes
    mimetype: str = "image/png"

    @property
    def source(self) -> str:
        """A data URL."""
        return f"data:{self.mimetype};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Row:
    """Graphs, or pictures, side by side, as many as there is room for; at least one."""

    items: Sequence[Graph] | Sequence[Picture]


@dataclass(frozen=True)
class Folded:
    """Blocks below a summary, which Markdown shows when the reader opens it."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Text | Items | Table | Code | Graph | Picture | Row | Folded


def literal(text: str) -> str:
    """Return a text that is not ours so that nothing in it is taken for bold or code."""
    return re.sub(r"([\\*`])", r"\\\1", text)


def cell(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def to_markdown(blocks: Iterable[Block]) -> str:
    """Return GitHub-flavoured Markdown; no character of a user's text is taken for markup."""
    return "\n\n".join(part for block in blocks if (part := _markdown(block))) + "\n"


def to_html(blocks: Iterable[Block | str]) -> str:
    """Return HTML elements; no character of a user's text is taken for markup.

    A string among the blocks is marked text without an element around it.
    """
    return render("blocks.html", blocks=list(blocks), spans=_spans, cell=cell)


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_marked(block.text)}"
    if isinstance(block, Text):
        return _at_start(_marked(block.text))
    if isinstance(block, Items):
        return "\n".join(f"- {_at_start(_marked(item))}" for item in block.items)
    if isinstance(block, Code):
        runs = re.findall(r"`+", block.text)
        fence = "`" * max(3, *(len(run) + 1 for run in runs), 3)
        return "\n".join((fence, *block.text.splitlines(), fence))
    if isinstance(block, Table):
        aligned = ["--:" if numeric else "---" for numeric in block.numeric]
        head, *rows = ([_in_table(cell(v)) for v in row] for row in (block.columns, *block.rows))
        return "\n".join(f"| {' | '.join(row)} |" for row in (head, aligned, *rows))
    if isinstance(block, Folded):
        inner = to_markdown(block.blocks)
        return f"<details><summary>{to_html([block.summary])}</summary>\n\n{inner}\n</details>"
    return ""


def _spans(text: str) -> Iterator[tuple[str, str]]:
    """(kind, its text): `text`, `bold` (which may hold code), `code`."""
    end = 0
    for found in _SPAN.finditer(text):
        yield "text", text[end : found.start()]
        kind = str(found.lastgroup)
        yield "text" if kind == "literal" else kind, found[kind]
        end = found.end()
    yield "text", text[end:]


def _marked(text: str, in_table: bool = False) -> str:
    """Escape all Markdown and HTML but **bold** and `code`."""
    parts = []
    for kind, part in _spans(" ".join(text.split())):
        if kind == "code":  # a table's cells end at each bar, those in code too
            parts.append(f"`{part.replace('|', chr(92) + '|') if in_table else part}`")
        elif kind == "bold":
            parts.append(f"**{_marked(part, in_table)}**")
        else:
            parts.append(re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", part))
    return "".join(parts)


def _in_table(text: str) -> str:
    return _marked(text, in_table=True)


def _at_start(marked: str) -> str:
    """Escape what would begin a list, a rule or a heading."""
    return re.sub(r"^(?:([-+=])|(\d{1,9})([.)])(?=\s|$))", _escaped_start, marked)


def _escaped_start(found: re.Match[str]) -> str:
    return f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}"


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)

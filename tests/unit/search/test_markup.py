"""What users have named never becomes markup, in HTML or in Markdown, and tables keep their shape.

markdown-it-py, a CommonMark parser with GitHub's tables, is the oracle of Markdown.
"""

from __future__ import annotations

import html.parser
import re

import plotly.graph_objects as go
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from search.findings.graph_style import label
from search.findings.markup import (
    Block,
    Code,
    Folded,
    Graph,
    Heading,
    Items,
    Picture,
    Row,
    Table,
    Text,
    cell,
    literal,
    to_html,
    to_markdown,
)

HOSTILE = "<script>alert(1)</script> ](javascript:x) **b** `c` | & \\ <!-- ``` ~~~"
MARKDOWN = MarkdownIt("commonmark").enable("table")
BLOCKS = {"p", "ul", "ol", "li", "h2", "pre", "details", "summary"}
TAGS = BLOCKS | {"b", "strong", "code", "table", "thead", "tbody", "tr", "th", "td"}
NASTY = st.text(
    st.one_of(st.sampled_from(list("<>&|\\`*_[]()#~-+=!.1\"'\n\t :/@")), st.characters()),
    max_size=40,
).filter(lambda text: "\0" not in text)  # which parsers replace


class Parsed(html.parser.HTMLParser):
    """The tags of an HTML text and the words between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.tags.append("declaration")

    def handle_data(self, data: str) -> None:
        self.words += data


def squeezed(text: str) -> str:
    return " ".join(text.split())


def places(text: str) -> list[Block]:
    """Everywhere that a user's text can stand."""
    return [
        Heading(literal(text)),
        Text(literal(text)),
        Text(f"error: {literal(text)}"),
        Items([literal(text), f"**{literal(text)}**"]),
        Table((literal(text), "b"), [(literal(text), 1)]),
        Code(text),
        Folded(literal(text), [Code(text), Text(literal(text))]),
    ]


@given(NASTY)
@example(HOSTILE)
@example("**")
@example("a\n# b")
@example("1. x")
@example("---")
@example("`")
@example("\\")
@example("**\\*\\**")
@example("&lt;script&gt;")
def test_a_users_text_is_never_markup(text: str) -> None:
    for block in places(text):
        assert set(Parsed(to_html([block])).tags) <= TAGS | {"wbr"}, block
        assert set(Parsed(MARKDOWN.render(to_markdown([block]))).tags) <= TAGS, block


@given(NASTY)
@example(HOSTILE)
@example("1. x")
@example("- x")
@example("====")
@example("+")
def test_a_users_text_is_shown_as_it_is(text: str) -> None:
    for block in (Text(literal(text)), Heading(literal(text)), Items([literal(text)])):
        assert squeezed(Parsed(to_html([block])).words) == squeezed(text)
        rendered = Parsed(MARKDOWN.render(to_markdown([block])))
        assert squeezed(rendered.words) == squeezed(text)
        assert "ol" not in rendered.tags and rendered.tags.count("ul") <= 1


@given(NASTY)
@example("```")
@example("    ````\n<b>")
def test_code_is_verbatim(text: str) -> None:
    lines = text.splitlines()
    assert Parsed(to_html([Code(text)])).words == text
    after_a_list = Parsed(MARKDOWN.render(to_markdown([Items(["a"]), Code(text), Text("b")])))
    assert after_a_list.tags == ["ul", "li", "pre", "code", "p"]
    shown = after_a_list.words.removeprefix("\na\n\n").removesuffix("\nb\n")
    assert shown.splitlines() == lines or squeezed(shown) == squeezed(text)


@given(st.lists(st.tuples(NASTY, NASTY), min_size=1, max_size=4))
@example([("`a|b`", "|")])
@example([("\\", "\\|")])
def test_a_table_keeps_its_cells(rows: list[tuple[str, str]]) -> None:
    blocks = [Table(("one", "two"), rows)]  # not even literal
    for rendered in (MARKDOWN.render(to_markdown(blocks)), to_html(blocks)):
        tags = Parsed(rendered).tags
        assert tags.count("th") == 2 and tags.count("td") == 2 * len(rows)
        assert tags.count("tr") == len(rows) + 1


def test_our_own_bold_and_code_are_markup() -> None:
    blocks = [Text("**Best mIoU 0.5** of `loss.region_share`, **with `code` in it**, 2 ** 3 * 4")]
    expected = (
        "<p><b>Best mIoU 0.5</b> of <code>loss.region_share</code>, "
        "<b>with <code>code</code> in it</b>, 2 ** 3 * 4</p>"
    )
    assert to_html(blocks) == expected
    rendered = MARKDOWN.render(to_markdown(blocks)).strip()
    assert rendered.replace("strong>", "b>") == expected


def test_numbers_stand_at_the_right() -> None:
    table = Table(("name", "count", "value", "share", "mixed"), [("a", 1, "0.5000", "9%", 1)])
    table = Table(table.columns, [*table.rows, ("b", None, 0.25, None, "x")])
    assert to_markdown([table]).splitlines()[1] == "| --- | --: | --: | --: | --- |"
    assert to_html([table]).count('<td class="number">') == 6


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (True, "true"), (0.000123456, "0.0001235"), (7, "7"), ("x", "x")],
)
def test_cells_are_as_people_read_them(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_a_graphs_data_cannot_end_its_script() -> None:
    figure = go.Figure()
    figure.add_scatter(x=["</script><script>alert(1)</script>", HOSTILE], y=[1, 2], name=HOSTILE)
    html_text = to_html([Row([Graph("one", figure, HOSTILE, HOSTILE)])])
    assert html_text.count("<script") == 1 and html_text.count("</script") == 1
    assert "<!--" not in html_text
    assert to_markdown([Graph("one", figure)]) == "\n"


def test_labels_of_graphs_are_no_markup_and_short() -> None:
    assert label("<a href='https://x.example'>y</a>") == "&lt;a href='https://x.exam…"
    assert label("road & car") == "road &amp; car"


def test_a_picture_is_embedded() -> None:
    found = to_html([Picture('"><script>', b"\x89PNG")])
    assert 'src="data:image/png;base64,iVBORw=="' in found
    assert not re.search("<script", found)


def test_markdown_folds_and_html_does_not() -> None:
    blocks = [Folded("more <b>", [Text("inside")])]
    assert to_markdown(blocks) == (
        "<details><summary>more &lt;b&gt;</summary>\n\ninside\n\n</details>\n"
    )
    assert to_html(blocks).startswith("<details open>")

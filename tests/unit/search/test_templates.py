"""Pages escape what they are given, but for what is listed here, and miss no value silently."""

from __future__ import annotations

import re
from importlib.resources import files

import jinja2
import pytest

from search.templates import asset, render

PAGES = sorted(f.name for f in (files("search") / "templates").iterdir() if f.suffix == ".html")
LOGIN = {"style": "", "target": "/", "error": "", "visitor": None, "by_name": True}


@pytest.mark.parametrize("page", PAGES)
def test_a_value_that_is_not_given_is_an_error(page: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        render(page)


def test_a_users_text_is_escaped() -> None:
    page = render("login.html", **(LOGIN | {"target": '"><b>', "error": "<b>"}))
    assert "<b>" not in page
    assert 'value="&#34;&gt;&lt;b&gt;"' in page and ">&lt;b&gt;</p>" in page


def test_only_our_own_texts_are_not_escaped() -> None:
    safe = {(page, found) for page in PAGES for found in re.findall(r"(\S+) \| safe", asset(page))}
    assert safe == {
        ("login.html", "style"),
        ("report.html", "style"),
        ("report.html", "plotly"),
        ("report.html", "body"),  # blocks.html has made it
        ("report.html", "printing"),
        ("blocks.html", '".<wbr>"'),  # where a long name may be broken
        ("blocks.html", '"_<wbr>"'),
        ("study.html", "findings.decode()"),
        ("found.html", "note"),  # blocks.html has made it
        ("blocks.html", "block.drawing()"),  # Plotly escapes what would end its script
    }

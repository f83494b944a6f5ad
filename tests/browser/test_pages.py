"""segtune's own pages as a person sees them: they fit a phone, and bring themselves up to date."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import expect

from search.database.store import open_store
from search.studies.heartbeats import Registration
from tests.browser.test_dashboard import sign_in

NAME = "scripted-segmentation"
LOG = f"/studies/{NAME}/trials/0/log"


@pytest.mark.parametrize("width", [390, 1400])
def test_from_the_list_to_a_study_and_back(page: Any, site: Any, width: int) -> None:
    page.page.set_viewport_size({"width": width, "height": 800})
    for scheme in ("light", "dark"):
        page.page.emulate_media(color_scheme=scheme)
        if scheme == "light":
            sign_in(page, site, "/studies")
        for path in (f"/studies/{NAME}", LOG, "/workers", "/studies"):
            page.page.goto(site.url + path)
            wide = page.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, path  # what is wider scrolls in a part of its own
            page.screenshot(f"pages{path.replace('/', '-')}-{scheme}-{width}")
    page.page.get_by_role("link", name=NAME).click()
    expect(page.page.get_by_role("heading", level=1)).to_have_text(NAME)
    page.page.get_by_role("link", name="Curves and graphs").click()
    page.page.get_by_role("navigation", name="segtune").get_by_text("Studies").click()
    expect(page.page.get_by_role("heading", level=1)).to_have_text("Studies")
    assert page.errors == []
    assert all(url.startswith((site.url, "data:", "blob:")) for url in page.requests)


def test_axe_finds_no_barrier(page: Any, site: Any) -> None:
    page.page.goto(site.url + "/login")
    for scheme in ("light", "dark"):
        page.page.emulate_media(color_scheme=scheme)
        assert page.barriers() == []
    sign_in(page, site, "/studies")
    places = (
        "/studies",
        "/studies?state=ended&sort=-best&text=nothing",
        f"/studies/{NAME}",
        f"/studies/{NAME}?order=best",
        "/studies/nothing",
        LOG,
        LOG.replace("/0/", "/1/"),  # which is not there
        "/workers",
        "/logout",
    )
    for path in places:
        page.page.goto(site.url + path)
        for scheme in ("light", "dark"):
            for width in (390, 1400):
                page.page.emulate_media(color_scheme=scheme)
                page.page.set_viewport_size({"width": width, "height": 800})
                assert page.barriers() == [], (path, scheme, width)


def test_axe_would_find_a_barrier(page: Any) -> None:
    page.page.set_content("<html lang=en><title>x</title><main><h1>x</h1><input></main></html>")
    assert [one.partition(":")[0] for one in page.barriers()] == ["label"]


def test_a_page_brings_itself_up_to_date_and_keeps_the_focus(page: Any, site: Any) -> None:
    sign_in(page, site, "/studies")
    link = page.page.get_by_role("link", name=NAME)
    link.focus()
    with closing(open_store(site.environment["SEGTUNE_STORE"], create=False)) as store:
        crew = Registration(store, "elsewhere:1:00000000", "cuda:0")
        crew.enter()
        crew.works_on(NAME, 1)
        workers = page.page.get_by_role("row", name=NAME).get_by_role("cell").nth(6)
        expect(workers).to_have_text("1", timeout=60_000)
        expect(link).to_be_focused()
        crew.leave()
    expect(workers).to_have_text("0", timeout=60_000)
    assert page.errors == []


def test_a_log_is_shown_from_its_end_and_curves_say_what_they_show(page: Any, site: Any) -> None:
    sign_in(page, site, f"/studies/{NAME}")
    drawing = page.page.get_by_role("img", name="mIoU by epoch of 22 trials. The best is trial")
    expect(drawing).to_be_visible()
    page.page.get_by_role("link", name=f"Log of trial 0 of {NAME}", exact=True).click()
    expect(page.page.locator("#end")).to_be_in_viewport()
    lines = page.page.get_by_role("region", name="What it has printed")
    assert lines.evaluate("one => one.scrollTop + one.clientHeight > one.scrollHeight - 4")
    assert page.errors == []


def test_pictures_are_there_once_they_are_looked_at_and_nothing_jumps(page: Any, site: Any) -> None:
    sign_in(page, site, f"/studies/{NAME}")
    assert not [url for url in page.requests if "/artifacts/" in url]  # they are far below
    tall = page.page.evaluate("document.documentElement.scrollHeight")
    pictures = page.page.get_by_role("region", name="Pictures of the best trials")
    for image in pictures.get_by_role("img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("naturalWidth", 320)
    assert len([url for url in page.requests if "/artifacts/" in url]) == 6
    assert page.page.evaluate("document.documentElement.scrollHeight") == tall
    bars = page.page.get_by_role("img", name="Share of the differences in rank that each setting")
    expect(bars).to_be_visible()
    pictures.get_by_role("link", name="the best of its val images, a:").click()
    page.page.wait_for_url(re.compile("/artifacts/"))
    assert page.errors == []


def test_all_of_it_is_reached_without_a_script(chromium: Any, page: Any, site: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(f"{site.url}/studies")
    plain.get_by_label("Password").fill(site.password)
    plain.get_by_role("button", name="Sign in").click()
    plain.get_by_label("Text").fill("nothing like it")
    plain.get_by_role("button", name="Filter").click()
    plain.get_by_role("link", name="Show all").click()
    plain.get_by_role("columnheader").get_by_role("link", name="Best value").click()
    expect(plain.get_by_role("columnheader", name="Best value")).to_have_attribute(
        "aria-sort", "descending"
    )
    plain.get_by_role("link", name=NAME).click()
    plain.get_by_role("link", name="the best first").click()
    expect(plain.locator("tbody tr").first).to_be_visible()
    context.close()

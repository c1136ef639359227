"""The page of a report in a browser, on a phone and on a desk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from sentence_api.reports.pages import files
from tests.browser.visits import CONTRASTS, LEAST_CONTRAST
from tests.reports.scene import Scene

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a history with a restart, an overload and a gap."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    scene = Scene()
    scene.run(600)
    scene.restart(away=2)
    scene.run(300)
    scene.run(120, cpu=1.0, rate=50, refused=20, took=6.0, queue=0.95, memory=900 << 20)
    scene.restart(away=120)
    scene.run(300)
    path.write_text(files(scene.report())["report.html"], encoding="utf-8")
    return path


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, chromium: Browser, written: Path) -> Iterator[Page]:
    """Return the page on a phone, in each colour scheme."""
    context = chromium.new_context(viewport=PHONE, color_scheme=request.param, has_touch=True)
    opened = context.new_page()
    opened.goto(written.as_uri())
    yield opened
    context.close()


@pytest.mark.parametrize("viewport", [PHONE, {"width": 320, "height": 700}, DESK])
def test_nothing_is_wider_than_the_screen(page: Page, viewport: dict[str, int]) -> None:
    """The page does not scroll sideways; wide tables scroll within themselves."""
    page.set_viewport_size({"width": viewport["width"], "height": viewport["height"]})
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    wide = page.evaluate(
        """() => [...document.querySelectorAll("body *:not(.scroll *)")]
        .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
        .map((each) => each.outerHTML.slice(0, 80))"""
    )
    assert wide == []


def test_charts_are_legible_on_a_phone(page: Page) -> None:
    """Labels of the charts are at least 9 pixels high, and no label covers another."""
    boxes = page.evaluate(
        """() => [...document.querySelectorAll("svg")].map((svg) =>
        [...svg.querySelectorAll("text")].map((text) => {
          const { left, right, top, bottom } = text.getBoundingClientRect();
          return [left, right, top, bottom];
        }))"""
    )
    assert len(boxes) == 6
    for chart in boxes:
        assert min(bottom - top for _, _, top, bottom in chart) >= 9
        for index, (left, right, top, bottom) in enumerate(chart):
            for other in chart[index + 1 :]:
                apart = right < other[0] or other[1] < left or bottom <= other[2] or other[3] <= top
                assert apart, (chart[index], other)


def test_text_is_legible(page: Page) -> None:
    """Text has the contrast with its background that WCAG asks for."""
    found = page.evaluate(CONTRASTS)
    assert [each for each in found if each[1] < LEAST_CONTRAST] == []


def test_values_are_shown_on_hover(page: Page) -> None:
    """The element under the pointer is a column or a marker with a title, and lights up."""
    page.set_viewport_size({"width": DESK["width"], "height": DESK["height"]})
    chart = page.locator("svg").first
    chart.hover(position={"x": 300, "y": 60})
    under = page.evaluate(
        """() => [...document.querySelectorAll("svg rect:hover")].map((rect) =>
        [rect.querySelector("title")?.textContent, getComputedStyle(rect).fillOpacity])"""
    )
    assert len(under) == 1
    title, opacity = under[0]
    assert title.splitlines()[1].startswith("memory ")
    assert float(opacity) > 0

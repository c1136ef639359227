"""The page at `/` in a browser, against a real server.

Only `GET /status` is a recorded response, so that every state can be shown.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.visits import CONTRASTS, LEAST_CONTRAST, Status
from tests.browser.visits import RECORDED as RECORDED_FILE

pytestmark = pytest.mark.browser

RECORDED = json.loads(RECORDED_FILE.read_text(encoding="utf-8"))
TEXTS = ["How do I reset my password?", "I forgot my login", "<b>bold</b> & <img src=x>"]
UNKNOWN = "\u2013"
# The page asks every three seconds.
UPDATE_MS = 15_000


def compare(page: Page, texts: list[str]) -> None:
    """Fill in texts and send them."""
    page.get_by_label("Texts to compare").fill("\n".join(texts))
    page.get_by_role("button", name="Compare").click()


def cells(rows: Locator) -> list[list[str]]:
    """Return the text of every data cell, by row."""
    return [row.locator("td").all_inner_texts() for row in rows.all()]


def recorded(**changes: Any) -> str:
    """Return the recorded status with some values changed."""
    return json.dumps({**RECORDED, **changes})


def all_normal() -> list[dict[str, Any]]:
    """Return the recorded rows with every row normal."""
    return [{**row, "verdict": "normal", "advice": None} for row in RECORDED["rows"]]


def test_it_is_clean_and_stays_at_home(visit: Callable[..., Any], server: Any) -> None:
    """A whole visit leaves no error on the console, and sends requests to the server only."""
    visited = visit()
    expect(visited.page.locator("#sum tbody tr")).not_to_have_count(0)
    compare(visited.page, TEXTS)
    expect(visited.page.locator("#heat tbody tr")).to_have_count(3)
    assert visited.complaints == []
    paths = {url.removeprefix(server.url) for url in visited.requests}
    files = {"page.css", "page.js", "ask.js", "draw.js", "try.js"}
    assert paths - {"/page/icon.svg"} == {
        *("/", "/status", "/plan", "/query/batch"),
        *(f"/page/{name}" for name in files),
    }


@pytest.mark.parametrize(
    ("deed", "directive"),
    [
        ("document.head.append(style)", "style-src-elem"),
        ("document.body.setAttribute('style', 'color: red')", "style-src-attr"),
        ("document.body.setAttribute('onclick', 'alert()')", "require-trusted-types-for"),
        ("document.body.innerHTML = '<p>x'", "require-trusted-types-for"),
        ("image.src = 'http://127.0.0.1:9/'", "img-src"),
        ("fetch('http://127.0.0.1:9/').catch(() => 0)", "connect-src"),
    ],
)
def test_the_policy_is_in_force(deed: str, directive: str, visit: Callable[..., Any]) -> None:
    """The policy blocks forbidden content, and the test above would have seen a violation."""
    visited = visit()
    expect(visited.page.locator("#checks tbody tr")).not_to_have_count(0)
    assert visited.complaints == []
    violated = visited.page.evaluate(
        f"""() => new Promise((resolve) => {{
            const report = (event) => resolve(event.effectiveDirective);
            document.addEventListener("securitypolicyviolation", report);
            setTimeout(() => resolve("nothing"), 5000);
            const image = new Image();
            const style = document.createElement("style");
            style.append("body {{ color: red }}");
            try {{ {deed}; }} catch {{ /* some throw as well */ }}
        }})"""
    )
    assert violated == directive
    assert visited.complaints != []


def test_the_status(visit: Callable[..., Any]) -> None:
    """Verdict, advice, checks, workers and events are shown as the server reports them."""
    page = visit().page
    expect(page.locator("#verdict")).to_have_text(
        re.compile(r"Ready; warning: Memory\s*memory 74 % of 768 MiB: set WEB_CONCURRENCY=1")
    )
    expect(page).to_have_title("warning · sentence-api")
    expect(page.locator("#service")).to_contain_text("all-MiniLM-L6-v2 · 384 dimensions")
    shown = [
        [row.locator("th").inner_text(), *row.locator("td .text, td .verdict").all_inner_texts()]
        for row in page.locator("#checks tbody tr").all()
    ]
    assert shown == [[row["title"], row["text"], row["verdict"]] for row in RECORDED["rows"]]
    assert page.locator("#checks [data-name=memory] .limits").inner_text() == "70 / 85\u00a0%"
    assert cells(page.locator("#workers tbody tr")) == [
        ["4127", "1 d 2 h", "126\u00a0MiB", "42.3", "151\u00a0ms", "0"],
        ["5210", "38 min 11 s", "113\u00a0MiB", "39.2", "139\u00a0ms", "2"],
    ]
    # The headline figures are those of the table, over the same time, not the newest point.
    assert [figure.replace("\u00a0", " ") for figure in page.locator(".now").all_inner_texts()] == [
        *("81.5", "148 ms", "57.8 %", "74.1 %", "8.4 %")
    ]
    events = [item.inner_text() for item in page.locator("#events li span:last-child").all()]
    assert events == [event["text"] for event in RECORDED["events"]]
    times = page.locator("#events time").evaluate_all("all => all.map(each => each.dateTime)")
    assert times == [event["time"] for event in RECORDED["events"]]


def test_a_new_indicator_is_shown(visit: Callable[..., Any]) -> None:
    """The page needs no change for a row that it has never seen: text, gauge, bounds and advice."""
    toy = {"name": "toy", "title": "Toy", "value": 50.0, "unit": "%", "text": "50 % of 100 tokens"}
    toy |= {"warning": 20, "critical": 40, "verdict": "critical", "advice": "play"}
    status = Status(recorded(rows=[*all_normal(), toy], verdict="critical"))
    page = visit(status=status).page
    expect(page.locator("#verdict")).to_have_text(re.compile(r"Ready; critical: Toy\s*play"))
    row = page.locator("#checks [data-name=toy]")
    expect(row.locator("th")).to_have_text("Toy")
    assert row.locator(".text").inner_text() == "50 % of 100 tokens"
    assert row.locator(".limits").inner_text() == "20 / 40\u00a0%"
    assert row.locator(".verdict").inner_text() == "critical"
    assert [zone.get_attribute("x") for zone in row.locator(".zone").all()] == ["0", "40", "80"]


def test_gauges_and_charts(visit: Callable[..., Any]) -> None:
    """A gauge is as long as its value; a chart has its gaps, thresholds and a name."""
    page = visit().page
    gauge = page.locator("#checks [data-name=memory] .gauge")
    expect(gauge).to_have_count(1)
    width = float(gauge.locator(".fill").get_attribute("width") or 0)
    assert width == pytest.approx(74.1)
    zones = [zone.get_attribute("x") for zone in gauge.locator(".zone").all()]
    assert zones == ["0", "70", "85"]
    assert page.locator("#checks [data-name=drift] .gauge").count() == 0
    chart = page.get_by_role("img", name="Memory, last 10 min: now 74.1\u00a0%, peak 74.1\u00a0%")
    assert chart.locator(".line").count() == 2
    assert chart.locator(".limit").count() == 2
    times = [time - 600 * (place < 30) for place, time in enumerate(RECORDED["recent"]["times"])]
    page = visit(status=Status(recorded(recent={**RECORDED["recent"], "times": times}))).page
    chart = page.get_by_role("img", name="Memory, last 20 min")
    expect(chart.locator(".line")).to_have_count(3)


def test_the_status_is_kept_current(visit: Callable[..., Any]) -> None:
    """New figures appear without a reload; only a change of the verdict is announced."""
    visited = visit()
    page = visited.page
    expect(page.locator("#updated")).to_contain_text("07:00:00")
    page.evaluate(
        """() => {
            window.said = 0;
            new MutationObserver(() => { window.said += 1; })
                .observe(document.getElementById("verdict"), {childList: true, subtree: true});
        }"""
    )
    visited.status.body = recorded(time="2026-11-21T07:00:03+00:00", workers=[])
    visited.skip_pause()
    expect(page.locator("#updated")).to_contain_text("07:00:03", timeout=UPDATE_MS)
    assert page.locator("#workers tbody tr").count() == 0
    assert page.evaluate("window.said") == 0
    visited.status.body = recorded(verdict="normal", rows=all_normal())
    visited.skip_pause()
    expect(page.locator("#verdict")).to_have_text("Ready; every check is normal", timeout=UPDATE_MS)
    expect(page).to_have_title("sentence-api")
    assert page.evaluate("window.said") > 0


def test_unknown_figures(visit: Callable[..., Any]) -> None:
    """Figures that the server does not know yet are shown as unknown, never as zero."""
    blank = [{**row, "value": None, "text": None, "verdict": "unknown"} for row in all_normal()]
    body = recorded(
        verdict="unknown",
        state="starting",
        rows=blank,
        workers=[{**dict.fromkeys(RECORDED["workers"][0]), "slot": 0}],
        recent={name: [] for name in RECORDED["recent"]},
        events=[],
    )
    visited = visit(status=Status(body))
    page = visited.page
    expect(page.locator("#verdict")).to_contain_text("Starting: the model is loading; unknown: Re")
    assert cells(page.locator("#workers tbody tr")) == [[UNKNOWN] * 6]
    assert page.locator(".trends .now").all_inner_texts() == [UNKNOWN] * 5
    assert page.locator(".trends .span").all_inner_texts() == [f"{UNKNOWN}\npeak {UNKNOWN}"] * 5
    assert page.locator("#checks .gauge, .trends .line").count() == 0
    assert page.locator("#events").inner_text() == "none yet"
    assert visited.complaints == []


def test_the_plan(visit: Callable[..., Any], server: Any) -> None:
    """The plan is shown in a sentence, in figures, and line by line with its reasons."""
    page = visit().page
    told = httpx2.get(f"{server.url}/plan").json()
    expect(page.locator("#plan-summary")).to_contain_text(
        "2 workers with 1 thread each, as many as the CPUs allow."
    )
    expect(page.locator("#plan-figures")).to_contain_text("768\u00a0MiB")
    assert cells(page.locator("#sum tbody tr")) == [
        [step["reason"], step["value"]] for step in told["steps"]
    ]


def test_similarities(visit: Callable[..., Any], server: Any) -> None:
    """Three texts give a table of three by three with the cosines of the model's vectors."""
    page = visit().page
    compare(page, TEXTS)
    rows = page.locator("#heat tbody tr")
    expect(rows).to_have_count(3)
    answer = httpx2.post(f"{server.url}/query/batch", json={"questions": TEXTS}).json()
    vectors = np.array(answer["embeddings"])
    shown = np.array(cells(rows), dtype=float)
    assert shown.shape == (3, 3)
    np.testing.assert_allclose(shown, vectors @ vectors.T, atol=0.0051)
    heads = [row.locator("th").inner_text() for row in rows.all()]
    assert heads == [f"{number} {text}" for number, text in enumerate(TEXTS, 1)]
    expect(page.locator("#try-said")).to_contain_text(f"3 texts, {answer['tokens']} tokens")
    expect(page.locator("#try-said")).to_contain_text(f"Closest: 1 and 2, {shown[0, 1]:.2f}.")
    assert json.dumps(TEXTS[2]) in page.locator("#shell").text_content()


def test_the_heat_follows_the_number(visit: Callable[..., Any]) -> None:
    """The larger a similarity, the more its cell differs from the background."""
    page = visit().page
    compare(page, TEXTS)
    expect(page.locator("#heat tbody td")).to_have_count(9)
    painted = page.locator("#heat tbody td").evaluate_all(
        "all => all.map(each => [Number(each.title), getComputedStyle(each).backgroundColor])"
    )
    reds = [float(re.findall(r"[\d.]+", color)[0]) for _, color in sorted(painted)]
    assert reds == sorted(reds, reverse=True)
    assert reds[0] > reds[-1] + 0.3


def test_timing(visit: Callable[..., Any]) -> None:
    """The parts of the time are the server's, and add up to the measured total."""
    page = visit().page
    with page.expect_response("**/query/batch") as waited:
        compare(page, TEXTS)
    expect(page.locator("#timing dd")).to_have_count(5)
    facts = dict(
        zip(
            page.locator("#timing dt").all_inner_texts(),
            [float(text.split()[0]) for text in page.locator("#timing dd").all_inner_texts()],
            strict=True,
        )
    )
    told = re.findall(r"dur=([\d.]+)", waited.value.headers["server-timing"])
    seen = facts.pop("Seen from here")
    names = ["Splitting into tokens", "Waiting", "Model", "Network and the rest"]
    assert list(facts) == names
    assert list(facts.values())[:3] == [pytest.approx(float(ms), abs=0.06, rel=0.01) for ms in told]
    assert sum(facts.values()) == pytest.approx(seen, abs=1.1)


def focused(page: Page) -> str:
    """Return the focused element, after checking that its focus is visible."""
    name, outline = page.evaluate(
        """() => {
            const element = document.activeElement;
            return [element.id || element.textContent.trim() || element.ariaLabel,
                    getComputedStyle(element).outlineStyle];
        }"""
    )
    assert outline == "solid", name
    return name


def test_the_keyboard_alone(visit: Callable[..., Any]) -> None:
    """Every part is reached with Tab alone, in order, and texts are compared with Enter."""
    page = visit().page
    expect(page.locator("#sum tbody tr")).not_to_have_count(0)
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(focused(page))
        if reached[-1] == "texts":
            break
    assert reached[:3] == ["Status", "Plan", "Try it"]
    assert reached[-1] == "texts"
    assert len(reached) == len(set(reached))
    page.keyboard.press("Control+a")
    page.keyboard.type("cat\nkitten")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#heat tbody tr")).to_have_count(2)
    page.keyboard.press("Control+End")
    page.keyboard.type("\ndog")
    page.keyboard.press("Tab")
    assert focused(page) == "Compare"
    page.keyboard.press("Enter")
    expect(page.locator("#heat tbody tr")).to_have_count(3)
    assert page.locator("#heat tbody th").all_inner_texts() == ["1 cat", "2 kitten", "3 dog"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read(scheme: str, visit: Callable[..., Any], tmp_path: Path) -> None:
    """In light and dark, every text has enough contrast; a screenshot is taken.

    The pictures in docs/ are made with PAGE_PICTURES=docs and then: pngquant --ext .png --force 64.
    """
    page = visit(color_scheme=scheme, viewport={"width": 1200, "height": 900}).page
    expect(page.locator("#sum tbody tr")).not_to_have_count(0)
    expect(page.locator("#checks tbody tr")).not_to_have_count(0)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#heat tbody tr")).to_have_count(5)
    red = float(
        re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0]
    )
    assert (red > 200) if scheme == "light" else (red < 50)
    folder = Path(os.environ.get("PAGE_PICTURES", tmp_path))
    page.screenshot(path=folder / f"page-{scheme}.png", full_page=True)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [(text, ratio) for text, ratio in contrasts if ratio < LEAST_CONTRAST] == []


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone(width: int, visit: Callable[..., Any]) -> None:
    """On a narrow screen nothing makes the page scroll sideways."""
    page = visit(viewport={"width": width, "height": 700}, is_mobile=True).page
    expect(page.locator("#checks tbody tr")).not_to_have_count(0)
    compare(page, ["a long text " * 20, *(f"text {number}" for number in range(12))])
    expect(page.locator("#heat tbody tr")).to_have_count(13)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_server_that_does_not_answer(visit: Callable[..., Any]) -> None:
    """Without a server the last figures stay and are marked as old; then the page recovers."""
    visited = visit()
    page, trouble = visited.page, visited.page.locator("#trouble")
    expect(page.locator("#checks tbody tr")).not_to_have_count(0)
    expect(trouble).to_be_hidden()
    visited.status.code = None
    visited.skip_pause()
    expect(trouble).to_have_text(
        "The server cannot be reached. The figures below are the last known."
        " Trying again every 3 s.",
        timeout=UPDATE_MS,
    )
    expect(page.locator("#verdict")).to_have_text("No answer")
    expect(page).to_have_title("no answer · sentence-api")
    expect(page.locator("#figures")).to_be_visible()
    visited.status.code = 200
    visited.skip_pause()
    expect(trouble).to_be_hidden(timeout=UPDATE_MS)
    expect(page.locator("#verdict")).to_contain_text("Ready; warning: Memory")


def test_an_answer_it_cannot_show(visit: Callable[..., Any]) -> None:
    """A response of another shape or another service is reported; then the page recovers."""
    visited = visit()
    trouble = visited.page.locator("#trouble")
    expect(visited.page.locator("#checks tbody tr")).not_to_have_count(0)
    visited.status.body = '{"service": {}}'
    visited.skip_pause()
    expect(trouble).to_contain_text("This page cannot show the answer: ", timeout=UPDATE_MS)
    visited.status.body, visited.status.code = "<h1>Bad Gateway</h1>", 502
    visited.skip_pause()
    expect(trouble).to_contain_text(
        "something between here and the service may have answered", timeout=UPDATE_MS
    )
    visited.status.body, visited.status.code = recorded(), 200
    visited.skip_pause()
    expect(trouble).to_be_hidden(timeout=UPDATE_MS)


def refusal(code: str, message: str) -> str:
    """Return an error body in the API's form."""
    error = {"type": "x", "code": code, "message": message, "param": None, "request_id": "abc"}
    return json.dumps({"error": error})


def test_a_server_without_a_status(visit: Callable[..., Any]) -> None:
    """A server without `/status` is reported as such; its plan and the form still work."""
    body = refusal("not_found", "there is no such path")
    page = visit(status=Status(body, 404)).page
    expect(page.locator("#trouble")).to_have_text(
        "The server cannot answer: there is no such path. This server does not report its status."
        " The plan and trying it work all the same.HTTP 404 · not_found · request abc"
    )
    expect(page.locator("#figures")).to_be_hidden()
    expect(page.locator("#sum tbody tr")).not_to_have_count(0)
    compare(page, TEXTS)
    expect(page.locator("#heat tbody tr")).to_have_count(3)


def test_a_busy_server(visit: Callable[..., Any]) -> None:
    """A 429 shows that the server is busy and when to try again; then a retry works."""
    page = visit().page
    compare(page, TEXTS)
    expect(page.locator("#heat tbody tr")).to_have_count(3)
    page.route(
        "**/query/batch",
        lambda route: route.fulfill(
            status=429,
            headers={"Retry-After": "1", "Content-Type": "application/json"},
            body=refusal("queue_full", "the queue is full"),
        ),
    )
    compare(page, TEXTS[:2])
    expect(page.locator("#try-trouble")).to_have_text(
        "The server has more work than it can take: the queue is full. Try again in 1 s."
        "HTTP 429 · queue_full · request abc"
    )
    expect(page.locator("#try-result")).to_be_hidden()
    page.unroute("**/query/batch")
    compare(page, TEXTS[:2])
    expect(page.locator("#heat tbody tr")).to_have_count(2)
    expect(page.locator("#try-trouble")).to_be_hidden()


def test_what_a_real_server_refuses(visit: Callable[..., Any], serve: Callable[..., Any]) -> None:
    """A 422 is shown in the server's words; a server that is gone is reported too."""
    strict = serve(WEB_CONCURRENCY=1, SENTENCE_API_MAX_REQUEST_ITEMS=2, SENTENCE_API_KEEPALIVE=1)
    page = visit(url=strict.url).page
    compare(page, TEXTS)
    trouble = page.locator("#try-trouble")
    expect(trouble).to_contain_text(
        "The server does not accept this: 3 texts in one request, at most 2 are accepted;"
    )
    expect(trouble).to_contain_text("HTTP 422 · too_many_items · request ")
    strict.process.terminate()
    strict.process.wait(timeout=40)
    compare(page, TEXTS[:2])
    expect(trouble).to_have_text("The server cannot be reached.")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["", "  "], "Write at least one text."),
        (
            ["a"] * 25,
            "That is 25 texts. This table shows up to 24; POST /query/batch takes more.",
        ),
    ],
)
def test_what_the_page_refuses(texts: list[str], said: str, visit: Callable[..., Any]) -> None:
    """Empty input, or more texts than the table shows, is refused without a request."""
    visited = visit()
    compare(visited.page, texts)
    expect(visited.page.locator("#try-trouble")).to_have_text(said)
    assert not [url for url in visited.requests if url.endswith("/query/batch")]


def test_a_text_that_is_cut(visit: Callable[..., Any]) -> None:
    """A text that is too long for the model is named, and a single text has no closest text."""
    page = visit().page
    compare(page, ["word " * 400])
    expect(page.locator("#try-said")).to_contain_text(
        "Too long for the model, so only the beginning counts: 1."
    )
    assert "Closest" not in page.locator("#try-said").inner_text()

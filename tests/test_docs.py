"""Documentation, compared with the code and the commands' output."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import httpx2
import pytest

from benchmarks import memory, page
from benchmarks.readme import section
from benchmarks.record import newest
from sentence_api.cli.rendering import sizing_table
from sentence_api.cli.settings import settings_page
from sentence_api.engine.artifact import read_manifest
from sentence_api.engine.fidelity import MIN_COSINE
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import REQUEST_ITEMS
from sentence_api.resources.plan import Overrides
from sentence_api.settings import Settings
from tests.conftest import ROOT, Server

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_configuration_page_is_generated() -> None:
    """docs/configuration.md is the output of `python -m sentence_api settings`."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == settings_page()


def test_configuration_page_names_what_the_plan_decides() -> None:
    """A default is *plan* if the formula takes the setting, else *none*."""
    shown = dict(
        re.findall(r"^\| `SENTENCE_API_(\w+)` \|[^|]*\| \*(\w+)\* \|", settings_page(), re.M)
    )
    unset = {name for name, value in Settings() if value is None}
    planned = {field.name for field in fields(Overrides)}
    assert shown == {name.upper(): "plan" if name in planned else "none" for name in unset}
    assert shown["KEYS_FILE"] == "none"


def test_sizing_table_is_rendered_by_the_formula() -> None:
    """The README's table equals the formula's."""
    shown = re.search(r"<!-- sizing table: .* -->\n(.*)\n<!-- end -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == sizing_table()


def test_memory_contract_is_rendered_from_its_newest_result() -> None:
    """The README shows the newest run of `benchmarks memory`, and that run kept the contract."""
    name, record = newest("memory")
    assert record["broken"] == []
    assert section(README, memory.BLOCK) == memory.brief(record, name)


def test_comparison_is_rendered_from_its_newest_result() -> None:
    """The README shows the newest full run of `benchmarks run`."""
    name, record = newest("run")
    assert section(README, page.BLOCK) == page.brief(record, name)


def test_readme_names_the_request_cap() -> None:
    """The README's number of texts per request is the formula's."""
    assert f"up to {REQUEST_ITEMS} in one request" in README


def test_the_page_on_models_names_the_bound() -> None:
    """docs/models.md gives the engine's least cosine for an export."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert f"a cosine is below {MIN_COSINE}." in page


def test_reference_footprint_agrees_with_a_fresh_measurement(artifact) -> None:
    """The reference footprint of the table predicts two workers within 20 %."""
    measured = read_manifest(artifact).footprints["float32"]
    peaks = [f.shared_bytes + 2 * f.per_worker_bytes(1024) for f in (REFERENCE, measured)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.2)


def _readme_calls() -> list[tuple[str, dict[str, object], str]]:
    """Return path, body and shown response of each curl call in the README."""
    calls = re.findall(
        r"-d '(\{.*?\})'.*?localhost:5001(/\S+)\n```\n```\n(.*?)\n```", README, re.DOTALL
    )
    return [(path, json.loads(body), answer) for body, path, answer in calls]


def test_readme_calls_give_the_answers_shown(serve) -> None:
    """Each curl call of the README gets the response shown there, to two decimals."""
    server: Server = serve()
    calls = _readme_calls()
    assert [path for path, _, _ in calls] == ["/query", "/query/batch"]
    for path, body, shown in calls:
        answer = httpx2.post(server.url + path, json=body).json()
        vectors = [answer.pop("embedding")] if path == "/query" else answer.pop("embeddings")
        rest = re.sub(r'"embeddings?":\[.*\],"(?=dim|count)', '"', shown)
        assert json.loads(rest) == answer
        groups = re.findall(r"\[(-?\d[^\[\]]*),…\]", shown)
        for group, vector in zip(groups, vectors, strict=True):
            numbers = [float(number) for number in group.split(",")]
            assert vector[: len(numbers)] == pytest.approx(numbers, abs=0.01)

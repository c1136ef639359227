"""An engine that starts to give wrong vectors, in a real server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.system.wire import OPTIONS, eventually, metrics

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
# The production configuration, with an engine that fails if a word is in a text.
CONFIG = """
exec(compile(open({config!r}).read(), {config!r}, "exec"))
import numpy as np
from sentence_api.engine.openvino import OpenVinoEngine as _Engine
_forward, _broken = _Engine.forward, []
_ZEBRA, _YAK = 29145, 8038
def _faulty(self, input_ids, segments):
    vectors = _forward(self, input_ids, segments)
    texts = [(row, text) for row, line in enumerate(segments) for text in range(1, line.max() + 1)]
    for number, (row, text) in enumerate(texts):
        if (input_ids[row][segments[row] == text] == _ZEBRA).any():
            vectors[number] = np.nan
    if (input_ids == _YAK).any():
        _broken.append(1)
    return vectors * 0 if _broken else vectors
_Engine.forward = _faulty
"""


@pytest.fixture
def faulty(start: Callable[..., Any], tmp_path: Path) -> Any:
    """Return a server of one worker whose engine can be made to fail."""
    config = tmp_path / "faulty.conf.py"
    config.write_text(CONFIG.format(config=str(ROOT / "gunicorn-production.conf.py")))
    return start(config=str(config), WEB_CONCURRENCY=1, SENTENCE_API_CACHE_MB=4)


def ask(url: str, question: str) -> httpx2.Response:
    """Send one question on a new connection."""
    body = {"question": question}
    return httpx2.post(f"{url}/query", json=body, **OPTIONS)


def test_a_wrong_vector_is_an_error_for_its_own_request(faulty: Any) -> None:
    """Other requests are answered, /health reports three such passes, and no worker ends."""
    alone = ask(faulty.url, "a horse").json()["embedding"]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            questions = ["a zebra", *["a horse"] * 7]
            found = list(pool.map(lambda question: ask(faulty.url, question), questions))
            assert [each.status_code for each in found] == [500, *[200] * 7]
            assert found[0].json()["error"]["message"] == "the model failed on this request"
            assert all(
                each.json()["embedding"] == pytest.approx(alone, abs=0.01) for each in found[1:]
            )
    health = httpx2.get(f"{faulty.url}/health", trust_env=False)
    assert health.status_code == 503
    assert health.json()["status"] == "unhealthy"
    assert health.json()["model_error"] == "3 forward passes failed within 60 s"
    assert httpx2.get(f"{faulty.url}/health/ready", trust_env=False).status_code == 200
    assert not any("worker_exits" in name and value for name, value in metrics(faulty.url).items())


def test_a_worker_that_lost_its_canary_is_replaced(faulty: Any) -> None:
    """No client gets its vectors; the next worker is forked from the sound master."""
    (worker,) = faulty.workers()
    sound = ask(faulty.url, "a horse").json()["embedding"]
    assert ask(faulty.url, "a yak").status_code == 500
    assert eventually(lambda: faulty.workers() and worker not in faulty.workers(), 30)
    assert eventually(lambda: ask(faulty.url, "a horse").status_code == 200, 30)
    assert ask(faulty.url, "a horse").json()["embedding"] == pytest.approx(sound, abs=1e-6)
    assert metrics(faulty.url)['sentence_api_worker_exits_total{cause="crash"}'] == 1
    assert "no longer gives its reference vector" in faulty.log.read_text()

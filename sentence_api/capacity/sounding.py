"""A short load through the published port, for the summary of a deployment. Standard library only.

It says what order of speed to expect; `benchmarks/` measures.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from itertools import cycle
from urllib.parse import urlsplit

from sentence_api.keys import query_headers

CONNECTIONS = 8
SECONDS = 5.0
# Different ones: equal texts that wait together are computed once.
_QUESTIONS = 500
_BODIES = [json.dumps({"question": f"How far is {n} miles?"}) for n in range(_QUESTIONS)]
_OK = 200


def requests_per_second(url: str, key: str | None = None, seconds: float = SECONDS) -> float:
    """Return how many single questions a second the server answered over a few connections.

    Args:
        url: Where our own server answers on this machine.
        key: One of its API keys, if it asks for one.
        seconds: How long to ask.
    """
    answered = [0] * CONNECTIONS
    until = time.monotonic() + seconds

    def ask(slot: int) -> None:
        place = urlsplit(url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
        try:
            for body in cycle(_BODIES[slot:] + _BODIES[:slot]):
                if time.monotonic() > until:
                    break
                connection.request("POST", "/query", body, query_headers(key))
                response = connection.getresponse()
                response.read()
                answered[slot] += response.status == _OK
        except (OSError, http.client.HTTPException):
            pass  # what was answered counts; the smoke test has judged before
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(slot,)) for slot in range(CONNECTIONS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered) / (time.monotonic() - started)

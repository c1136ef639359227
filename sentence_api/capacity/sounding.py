"""Short load through the published port, for the summary of a deployment. Standard library only.

It gives the order of magnitude; `benchmarks/` measures.
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
# Different texts: duplicates that wait together are computed once.
_QUESTIONS = 500
_BODIES = [json.dumps({"question": f"How far is {n} miles?"}) for n in range(_QUESTIONS)]
_OK = 200


def requests_per_second(url: str, key: str | None = None, seconds: float = SECONDS) -> float:
    """Return the rate of single-text requests that the server answered over a few connections.

    Args:
        url: Address of our own server on this machine.
        key: One of its API keys, if it needs a key.
        seconds: Duration of the load.
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
            pass  # answered requests still count; the smoke test has passed before
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(slot,)) for slot in range(CONNECTIONS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered) / (time.monotonic() - started)

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sentence_api.deploy.smoke import smoke
from sentence_api.errors import DeploymentFailed

VECTOR = [0.6, 0.8]


class Handler(BaseHTTPRequestHandler):
    """A server that gives every text the same unit vector."""

    def do_POST(self) -> None:
        """Answer both query calls."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: dict[str, Any] = {"embedding": VECTOR, "dimensions": len(VECTOR)}
        if "questions" in asked:
            answer = {"embeddings": [VECTOR] * len(asked["questions"])}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Return the address of such a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("canary", [VECTOR, [0.60001, 0.79999]])
def test_the_canary_comes_out(canary: list[float], url: str) -> None:
    """A server that returns the canary's vector passes."""
    assert smoke(url, ("sing", canary)) == len(VECTOR)


@pytest.mark.parametrize(
    "canary", [[10.0, 0.8], [0.6, 100.0], [0.8, 0.6], [0.0, 0.0], [0.6], [0.6, 0.8, 0.0], []]
)
def test_a_wrong_canary(canary: list[float], url: str) -> None:
    """A vector of another direction is refused, even with large numbers."""
    with pytest.raises(DeploymentFailed, match="wrong reference vector"):
        smoke(url, ("sing", canary))

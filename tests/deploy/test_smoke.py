import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sentence_api.deploy.smoke import how_to, smoke
from sentence_api.errors import DeploymentFailed

VECTOR = [0.6, 0.8]
HEADERS: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    """A server that gives every text the same unit vector."""

    def do_POST(self) -> None:
        """Answer both query calls, and note the key."""
        HEADERS.append(self.headers["Authorization"])
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


def test_the_next_steps_work_as_they_are(url: str, tmp_path: Path) -> None:
    """The line to try sends a key of the file where one is needed, without showing it."""
    keys = tmp_path / "my keys"
    keys.write_text("# mine\n\nsecret-1\nsecret-2\n")
    post = "curl -X POST -H 'Content-Type: application/json'"
    question = '{"question":"What is machine learning?"}'
    for file, header in (
        (None, ""),
        (keys, f" -H \"Authorization: Bearer $(grep -m 1 '^[^#]' '{keys}')\""),
    ):
        lines = how_to(url, file).splitlines()
        assert lines == [
            "",
            f"  url   {url}",
            f"  try   {post}{header} -d '{question}' {url}/query",
            "  logs  ./deploy-production.sh logs",
            "  stop  ./deploy-production.sh down",
        ]
        line = lines[2].removeprefix("  try   ")
        answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout)["embedding"] == VECTOR
        assert HEADERS.pop() == (None if file is None else "Bearer secret-1")

"""A real server behind nginx and behind Caddy, both configured by docs/reverse-proxy.md."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx2
import psutil
import pytest

from sentence_api.http.exchange import _REQUEST_ID
from sentence_api.resources.formula import REQUEST_ITEMS
from sentence_api.resources.sizes import MIB
from sentence_api.server.draining import STOPPED
from sentence_api.settings import Settings
from tests.system.proxies import FIRST, NAME, SECOND, Caddy, Nginx, Proxy, blocks
from tests.system.proxy_clients import QUERY, Load, ask, connected, curl, received
from tests.system.wire import JSON, TIMEOUT_SECONDS, eventually, head, message, metrics

SETTINGS = Settings()
SERVER_SETTINGS = {
    "WEB_CONCURRENCY": 1,
    "SENTENCE_API_MAX_QUEUE_TOKENS": 1000,
    "SENTENCE_API_REQUEST_TIMEOUT": 1,
    "SENTENCE_API_BODY_TIMEOUT": 2,
}
# More tokens than the server computes by its deadline.
HUGE = {"questions": [f"{n} " + "one two three four five six " * 60 for n in range(REQUEST_ITEMS)]}
KINDS: list[type[Proxy]] = [Nginx, Caddy]


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    """Return a server of one worker with a short queue and short deadlines."""
    return serve(**SERVER_SETTINGS)


@pytest.fixture(scope="module")
def proxies(
    server: Any, default_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Proxy]]:
    """Return both proxies, in front of the same server; its second is the default one."""
    addresses = {
        on_page: real.url.removeprefix("http://")
        for on_page, real in ((FIRST, server), (SECOND, default_server))
    }
    started: list[Proxy] = []
    with ExitStack() as stack:
        for kind in KINDS:
            folder = tmp_path_factory.mktemp(kind.program)
            started.append(kind(folder, addresses))
            stack.callback(started[-1].stop)
        yield started


@pytest.fixture(params=range(len(KINDS)), ids=[kind.program for kind in KINDS])
def proxy(request: pytest.FixtureRequest, proxies: list[Proxy]) -> Proxy:
    """Return one proxy at a time."""
    return proxies[request.param]


@pytest.fixture
def client(proxy: Proxy) -> Iterator[httpx2.Client]:
    """Return a client of the proxy."""
    with proxy.client() as connected:
        yield connected


def numbers(block: str, *names: str) -> dict[str, str]:
    """Return the values of some directives, by name."""
    found = {name: re.findall(rf"^\s*{name} ([^;\n]+);?$", block, re.MULTILINE) for name in names}
    return {name: value for name, (value,) in found.items()}


def test_numbers_fit_the_settings() -> None:
    """The limits and timeouts of both configurations follow from the default settings."""
    body, largest = f"{SETTINGS.body_timeout:.0f}s", SETTINGS.max_body_bytes // MIB
    answer = f"{SETTINGS.request_timeout + SETTINGS.body_timeout:.0f}s"
    kept = f"{SETTINGS.keepalive - 1}s"
    assert SETTINGS.max_body_bytes == largest * MIB
    nginx = {
        **{"client_max_body_size": f"{largest}m", "client_body_buffer_size": f"{largest}m"},
        **dict.fromkeys(("client_body_timeout", "send_timeout", "proxy_send_timeout"), body),
        **{"proxy_read_timeout": answer, "keepalive_timeout": kept},
    }
    assert numbers(blocks("nginx")[0], *nginx) == nginx
    caddy = {"response_header_timeout": answer, "keepalive": kept}
    found = numbers(blocks("caddyfile")[0], *caddy, "read_body")
    assert int(found.pop("read_body").removesuffix("s")) > SETTINGS.body_timeout
    assert found == caddy
    # The proxy's own errors repeat an id that the server would accept, and no other.
    for language in ("nginx", "caddyfile"):
        assert f"~^{_REQUEST_ID.pattern}$" in blocks(language)[0]


def test_curl_by_http2(proxy: Proxy) -> None:
    """A client of HTTP/2 gets a vector; its request id is in the response and in the access log."""
    sent = ["--header", "X-Request-Id: trace:1", "--header", "Authorization: Bearer secret-key"]
    sent += ["--header", "Content-Type: application/json", "--data", json.dumps(QUERY)]
    head, _, body = curl(proxy, "/query", *sent).partition("\n\n")
    assert head.startswith("HTTP/2 200")
    assert "\nx-request-id: trace:1\n" in head + "\n"
    assert len(json.loads(body)["embedding"]) == 2
    assert eventually(lambda: "trace:1" in proxy.access_log.read_text())
    logged = proxy.access_log.read_text()
    assert "secret-key" not in logged
    assert "fox" not in logged


def test_plain_http_is_redirected(proxy: Proxy) -> None:
    """A request without TLS is sent to the same address with TLS, and keeps its method."""
    url = f"http://127.0.0.1:{proxy.plain_port}/query?a=b"
    answer = httpx2.post(url, headers={"Host": NAME}, json=QUERY, trust_env=False)
    assert answer.status_code == 308
    assert answer.headers["location"].replace(f":{proxy.port}", "") == f"https://{NAME}/query?a=b"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/query", json.dumps(QUERY)),
        ("/query", '{"question": 5}'),
        ("/query", "{"),
        ("/nope", "{}"),
        ("/query/batch", json.dumps({"questions": ["fox"] * (REQUEST_ITEMS + 1)})),
        ("/query/batch", json.dumps({"questions": ["red fox", "fox"] * (REQUEST_ITEMS // 2)})),
        ("/query", '{"question": "fox"}'.ljust(SETTINGS.max_body_bytes)),
    ],
    ids=["query", "invalid", "malformed", "unknown", "too many", "batch", "largest body"],
)
def test_responses_pass_unchanged(path: str, body: str, client: httpx2.Client, server: Any) -> None:
    """Status, body and request id are the server's own, up to the largest requests."""
    headers = {**JSON, "X-Request-Id": "same"}
    direct = httpx2.post(f"{server.url}{path}", content=body, headers=headers, trust_env=False)
    behind = client.post(path, content=body, headers=headers)
    kept = ("content-type", "x-request-id", "x-content-type-options")
    assert behind.status_code == direct.status_code
    assert [behind.headers[name] for name in kept] == [direct.headers[name] for name in kept]
    assert behind.content == direct.content


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_bodies(chunked: bool, client: httpx2.Client, server: Any) -> None:
    """One byte above the limit is 413 in the form of the server's errors."""
    body = b" " * (SETTINGS.max_body_bytes + 1)
    headers = {**JSON, "X-Request-Id": "large"}
    direct = httpx2.post(f"{server.url}/query", content=body, headers=headers, trust_env=False)
    behind = client.post("/query", content=iter([body]) if chunked else body, headers=headers)
    assert behind.status_code == direct.status_code == 413
    errors = [answer.json()["error"] for answer in (behind, direct)]
    assert [error.pop("message").startswith("the body ") for error in errors] == [True, True]
    assert errors[0] == errors[1]
    assert behind.headers["x-request-id"] == "large"
    # An id that the server would refuse is not repeated.
    behind = client.post("/query", content=body, headers={**JSON, "X-Request-Id": '"<a>"'})
    assert behind.json()["error"]["request_id"] == behind.headers["x-request-id"] != '"<a>"'


def test_nothing_is_written_to_disk(proxies: list[Proxy], server: Any) -> None:
    """The largest body and the largest response to a slow client stay in the memory of nginx."""
    nginx = proxies[0]
    with nginx.client() as client:
        largest = json.dumps(QUERY).ljust(SETTINGS.max_body_bytes)
        assert client.post("/query", content=largest, headers=JSON).status_code == 200
    answered = 'sentence_api_requests_total{route="/query/batch",status="200"}'
    before = metrics(server.url).get(answered, 0)
    with connected(nginx, receive_bytes=4096) as connection:
        batch = json.dumps({"questions": ["fox"] * REQUEST_ITEMS}).encode()
        connection.sendall(message("/query/batch", batch, Host=NAME))
        # The server is rid of its response before the client reads.
        assert eventually(lambda: metrics(server.url).get(answered, 0) == before + 1)
        status, body = received(connection)
    assert (status, len(body["embeddings"])) == (200, REQUEST_ITEMS)
    assert "temporary file" not in nginx.error_log.read_text()


def test_refusals_for_load(proxy: Proxy, client: httpx2.Client) -> None:
    """429 and 503 of the server reach the client with `Retry-After`."""
    seen: dict[str, httpx2.Response] = {}

    def large() -> httpx2.Response:
        with proxy.client() as other:
            return other.post("/query/batch", json=HUGE)

    with ThreadPoolExecutor(1) as pool:
        while "queue_full" not in seen:
            late = pool.submit(large)
            while not late.done():
                answer = client.post("/query", json=QUERY)
                if answer.status_code != 200:
                    seen[answer.json()["error"]["code"]] = answer
    assert seen["queue_full"].status_code == 429
    assert int(seen["queue_full"].headers["Retry-After"]) >= 1
    assert late.result().status_code == 503
    assert late.result().json()["error"]["code"] == "deadline_exceeded"
    assert int(late.result().headers["Retry-After"]) >= 1


def test_slow_bodies_get_the_servers_408(proxies: list[Proxy]) -> None:
    """Caddy passes a body on as it comes, and its longer timeout frees the client's connection."""
    timeout = f"read_body {numbers(blocks('caddyfile')[0], 'read_body')['read_body']}"
    longer = f"read_body {SERVER_SETTINGS['SENTENCE_API_BODY_TIMEOUT'] + 1}s"
    with proxies[1].changed({timeout: longer}), connected(proxies[1]) as connection:
        connection.sendall(head("/query", Host=NAME, Content_Length="100") + b"{")
        status, body = received(connection)
    assert (status, body["error"]["code"]) == (408, "slow_body")


def test_connections_are_kept(client: httpx2.Client, server: Any) -> None:
    """Requests share a connection to the server, which recognises their heads."""

    def connections() -> set[Any]:
        (worker,) = server.workers()
        found = psutil.Process(worker).net_connections("tcp")
        return {each.raddr for each in found if each.status == psutil.CONN_ESTABLISHED}

    known = "sentence_api_known_heads_total"
    client.post("/query", json=QUERY)
    before, hits = connections(), metrics(server.url)[known]
    for _ in range(20):
        assert client.post("/query", json=QUERY).status_code == 200
    assert connections() <= before
    assert metrics(server.url)[known] == hits + 20


def test_heads_do_not_depend_on_the_client(proxy: Proxy, server: Any) -> None:
    """The server recognises a head that it knows from a client at another address."""
    known = "sentence_api_known_heads_total"
    sent = ["--header", "Content-Type: application/json", "--data", json.dumps(QUERY)]
    curl(proxy, "/query", *sent, "--interface", "127.0.0.2")
    hits = metrics(server.url)[known]
    curl(proxy, "/query", *sent, "--interface", "127.0.0.3")
    assert metrics(server.url)[known] == hits + 1


@pytest.mark.parametrize(
    "path", ["/metrics", "//metrics", "/%6detrics", "/x/../metrics", "/metrics?a", "/./metrics"]
)
def test_metrics_are_private(path: str, proxy: Proxy) -> None:
    """No spelling of /metrics passes the proxy; the probes and the page do."""
    assert re.match(r"HTTP/2 [34]0", curl(proxy, path, "--path-as-is"))
    for public in ("/", "/health/live", "/health/ready"):
        assert curl(proxy, public).startswith("HTTP/2 200")


def snippets(language: str) -> list[str]:
    """Return what the page adds for two servers, and for a path."""
    _, two, below = blocks(language)
    return [two, below]


def two_servers(proxy: Proxy) -> dict[str, str]:
    """Return the page's change for a second server."""
    line = snippets(proxy.language)[0]
    first = next(each for each in proxy.block.splitlines(keepends=True) if FIRST in each)
    return {first: first + line if isinstance(proxy, Nginx) else line}


def below_a_path(proxy: Proxy) -> dict[str, str]:
    """Return the page's change for a path."""
    before = "    location / {\n" if isinstance(proxy, Nginx) else "\trespond /metrics 404\n"
    return {before: snippets(proxy.language)[1] + before}


def test_below_a_path(proxy: Proxy) -> None:
    """The page, every file it loads and the query calls work below a path, /metrics does not."""
    base = "/embeddings/"
    with proxy.changed(below_a_path(proxy)), proxy.client() as client:
        assert client.get("/embeddings").headers["location"].endswith(base)
        page = client.get(base)
        files = re.findall(r'(?:href|src)="(page/[^"]+)"', page.text)
        scripts = [client.get(base + name).text for name in files if name.endswith(".js")]
        files += [f"page/{name}" for text in scripts for name in re.findall(r'"\./(.+?)"', text)]
        assert len(files) > 4
        calls = [*files, "status", "plan", "health/ready", "query"]
        statuses = {
            name: client.request(
                *(("POST", base + name) if name == "query" else ("GET", base + name)),
                json=QUERY if name == "query" else None,
            ).status_code
            for name in calls
        }
        assert statuses == dict.fromkeys(calls, 200)
        assert client.get(base + "metrics").status_code == 404
        assert client.post("/query", json=QUERY).status_code == 200


def test_a_killed_worker_costs_no_request(proxies: list[Proxy], server: Any) -> None:
    """With two servers, nginx repeats the requests that die with a worker."""
    nginx = proxies[0]
    with nginx.changed(two_servers(nginx)), Load([nginx], 4) as load:
        load.wait_for(50)
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        load.wait_for(100)
    assert set(load.seen) == {200}, load.seen


def test_stopped_servers(proxies: list[Proxy], server: Any, serve: Callable[..., Any]) -> None:
    """One of two servers may stop under load; without any, clients get 503 until one is back."""
    port = int(server.url.rpartition(":")[2])
    nginx, caddy = proxies
    with (
        nginx.changed(two_servers(nginx)),
        caddy.changed(two_servers(caddy)),
        Load(proxies, 4) as load,
    ):
        load.wait_for(50)
        # The page's advice for Caddy, which cannot repeat a request with a body.
        with caddy.changed({FIRST: SECOND}):
            server.process.terminate()
            assert server.process.wait(timeout=TIMEOUT_SECONDS) == STOPPED
            load.wait_for(50)
            load.end()
    assert set(load.seen) == {200}, load.seen

    with ThreadPoolExecutor(len(proxies)) as pool:
        answers = list(pool.map(ask, proxies))
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert (error["type"], error["code"]) == ("server_error", "not_ready")
        assert error["request_id"] == answer.headers["x-request-id"] == "away"
    server.process = serve(port=port, **SERVER_SETTINGS).process
    for proxy in proxies:
        assert eventually(lambda proxy=proxy: ask(proxy).status_code == 200)

import pytest
from gunicorn.http.errors import InvalidHeader

from sentence_api.server.heads import check_head


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:5001", "a.b-c.example:", "sentence_api:5001", "10.0.0.1:80"),
        *("[::1]", "[::1]:5001", "[::ffff:10.0.0.1]", "x%C3%A9.example", "0.0.0.0=5000"),
    ],
)
def test_a_host(host: str) -> None:
    """A name or an address, with or without a port, is a valid host."""
    check_head((1, 1), {"HOST": host})
    check_head((1, 0), {"HOST": host})


@pytest.mark.parametrize(
    "host",
    [
        *("", "a,b", "a, b", "user@a", "user:pass@a:80", "a/b", "/", "http://a", "a:b", "a:80:80"),
        *("a b", "a?b", "a#b", "a\\b", "[::1", "::1", ":5001", "[a/b]", '"a"', "caf\u00e9"),
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (1, 1)])
def test_no_host(host: str, version: tuple[int, int]) -> None:
    """A list, userinfo, a path and other invalid hosts are refused."""
    with pytest.raises(InvalidHeader) as raised:
        check_head(version, {"HOST": host})
    assert str(raised.value) == "Invalid HTTP Header: 'HOST'"


def test_a_missing_host() -> None:
    """Only HTTP/1.0 may omit the host."""
    check_head((1, 0), {})
    with pytest.raises(InvalidHeader):
        check_head((1, 1), {"ACCEPT": "*/*"})


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket", "websocket/13"])
def test_a_web_socket(upgrade: str) -> None:
    """A WebSocket upgrade is refused."""
    with pytest.raises(InvalidHeader):
        check_head((1, 1), {"HOST": "a", "UPGRADE": upgrade})


@pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.0", ""])
def test_another_upgrade(upgrade: str) -> None:
    """Any other upgrade is an offer that may be ignored."""
    check_head((1, 1), {"HOST": "a", "UPGRADE": upgrade})

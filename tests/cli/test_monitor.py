"""`monitor`: a screen that fits, lines without a terminal, a server that goes away."""

from __future__ import annotations

import codecs
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from rich.console import Console

from sentence_api.__main__ import main
from sentence_api.cli import screen
from sentence_api.cli.monitor import Poll, line
from sentence_api.monitoring import formatting
from tests.conftest import ROOT, Server

RECORDED = json.loads((ROOT / "tests" / "recorded" / "status.json").read_text(encoding="utf-8"))
URL = "http://127.0.0.1:5001"
MONITOR = [sys.executable, "-m", "sentence_api", "monitor"]


def drawn(width: int, height: int, trouble: str | None = None, **changes: Any) -> list[str]:
    """Return the screen of the recorded status with some values changed, line by line."""
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    console.print(screen.frame({**RECORDED, **changes}, URL, width, height, trouble))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_small_terminal_shows_all() -> None:
    """80x24 holds every row, the charts, both workers and the newest events."""
    lines = drawn(80, 24)
    assert len(lines) == 24
    assert max(len(one.rstrip()) for one in lines) <= 80
    assert re.sub(" +", " ", lines[0]) == (
        "sentence-api 0.1.0 all-MiniLM-L6-v2 bfloat16 up 26 h 4 min 07:00:00 UTC"
    )
    assert [one[:12].strip() for one in lines[2:13]] == [row["title"] for row in RECORDED["rows"]]
    assert lines[3].split() == (
        ["Memory", "██████████────", "74", "%", "of", "768", "MiB", "70", "/", "85", "%", "warning"]
    )
    text = "\n".join(lines)
    assert "raise the memory limit\n to 1024 MiB." in text
    assert re.search(r"^ +1 +5210 +38 min 12 s +113 MiB +39.2 +139 ms +2 *$", text, re.MULTILINE)
    assert re.search(r"^06:21:54 +worker 1 crashed \(process 4130\) *$", text, re.MULTILINE)


@pytest.mark.parametrize(("width", "height"), [(40, 10), (60, 15), (80, 24), (100, 30), (200, 60)])
@pytest.mark.parametrize("workers", [0, 1, 16])
@pytest.mark.parametrize("trouble", [None, "connection refused"])
def test_every_terminal_is_kept_to(
    width: int, height: int, workers: int, trouble: str | None
) -> None:
    """A picture never exceeds its terminal, whatever the size, workers or verdicts."""
    lines = drawn(width, height, trouble, workers=RECORDED["workers"][:1] * workers)
    assert len(lines) <= height
    assert max(len(one.rstrip()) for one in lines) <= width
    assert any("no answer" in one for one in lines) is (trouble is not None)


def test_a_large_terminal_is_used() -> None:
    """With more room the charts grow, and every worker and event has a line."""
    workers = [{**RECORDED["workers"][0], "pid": 9000 + each} for each in range(8)]
    small, large = drawn(80, 24, workers=workers), drawn(120, 50, workers=workers)
    assert sum("█" in one for one in large) > sum("█" in one for one in small)
    assert "and 5 more" in "".join(small)
    assert all(any(f" {each['pid']} " in one for one in large) for each in workers)
    assert all(any(event["text"] in one for one in large) for event in RECORDED["events"])


def test_what_is_unknown_is_not_made_up() -> None:
    """Without requests or samples, or with an unreadable figure, nothing is invented."""
    rows = [
        {**row, "value": None, "verdict": "unknown", "text": "unknown"} for row in RECORDED["rows"]
    ]
    recent = {name: [] for name in RECORDED["recent"]}
    lines = drawn(80, 24, rows=rows, recent=recent, workers=[], events=[])
    assert "█" not in "".join(lines)
    assert lines[3].endswith("unknown   70 / 85 % unknown ")
    assert [one.split() for one in lines[14:18]] == [
        ["memory", "CPU"],
        ["-", "-"],
        ["requests/s", "p95"],
        ["-", "-"],
    ]


@pytest.mark.parametrize(
    ("values", "width", "height", "found"),
    [
        ([], 5, 1, [""]),
        ([0, 50, 100], 5, 1, ["▁▄█"]),
        ([0, None, 100], 3, 1, ["▁ █"]),
        ([1, 9, None, None, 100, 1], 3, 1, ["▁ █"]),
        ([100, 25], 2, 2, ["█ ", "█▄"]),
        ([200], 1, 1, ["█"]),
    ],
)
def test_bars(values: list[float | None], width: int, height: int, found: list[str]) -> None:
    """Zero is visible, a gap is empty, the maximum of a column counts, nothing exceeds the top."""
    assert formatting.bars(values, width, 100, height) == found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (320, "5 min 20 s"),
        (3600, "1 h"),
        (93_840, "26 h 4 min"),
        (86_400 * 3 + 7300, "3 d 2 h"),
    ],
)
def test_spans(value: float, text: str) -> None:
    """A duration is written in its two largest units."""
    assert formatting.span(value) == text


def test_the_rate_is_over_the_window_it_names() -> None:
    """Header and line show the rate over the window, not over the last seconds."""
    changes = {"requests_per_second": 177.0, "window_seconds": 41.2}
    assert "  177.0 requests/s, rates over 41 s" in drawn(80, 24, **changes)[1]
    assert "  177.0 requests/s  " in line(Poll({**RECORDED, **changes}, None))


def test_an_older_server_has_no_rate() -> None:
    """The status of a version without the rate is shown without it."""
    older = {name: value for name, value in RECORDED.items() if name != "requests_per_second"}
    assert "  - requests/s  " in line(Poll(older, None))
    console = Console(width=80, height=24, file=io.StringIO(), color_system=None)
    console.print(screen.frame(older, URL, 80, 24))
    assert "  - requests/s, rates over 60 s" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 workers"), (1, "1 worker"), (1234567, "1234567 workers")]
)
def test_counts(number: int, text: str) -> None:
    """A number stands with its noun in full, singular for one."""
    assert formatting.count(number, "worker") == text


def test_a_line() -> None:
    """Without a terminal, a poll is one line that a program can split."""
    assert line(Poll(RECORDED, None)) == (
        "2026-11-21T07:00:00+00:00 ready warning  memory 74.1 %  cpu 57.8 %  p95 148 ms"
        "  81.5 requests/s  queue 8.4 %  rejected 0 %  errors 0 %  restarts 1  oom_kills 0"
        "  ready 1/2"
    )
    assert line(Poll(RECORDED, "connection refused")).endswith(" no answer: connection refused")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--interval", "soon"], "'soon' is not between 0.5 and 3600 seconds"),
        (["--interval", "nan"], "'nan' is not between 0.5 and 3600 seconds"),
        (["--interval", "0"], "'0' is not between 0.5 and 3600 seconds"),
        (["--count", "0"], "'0' is not a number of looks; write for example 10"),
        (["--count", "-1"], "'-1' is not a number of looks; write for example 10"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid argument is refused with the valid values."""
    with pytest.raises(SystemExit) as ended:
        main(["monitor", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:5001"])
def test_no_address(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An address that cannot be requested at all ends the program at once."""
    assert main(["monitor", "--url", url]) == 3
    assert "is no address" in capsys.readouterr().err


def test_a_server_goes_and_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """`monitor` says how long the server has been away, and continues when it is back."""

    class Recorded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer with the recorded status, except the second time."""
            asked.append(self.path)
            if len(asked) == 2:
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(RECORDED).encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    asked: list[str] = []
    with HTTPServer(("127.0.0.1", 0), Recorded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert main(["monitor", "--url", url, "--interval", "0.5", "--count", "3"]) == 0
        server.shutdown()
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == third == line(Poll(RECORDED, None))
    assert second.endswith(" no answer: it closed the connection")


def test_lines_of_a_real_server(serve: Callable[..., Server]) -> None:
    """Without a terminal each poll of a real server is a line, and the count ends it."""
    server = serve(SENTENCE_API_CPUS=1)
    done = subprocess.run(
        [*MONITOR, "--url", server.url, "--interval", "0.5", "--count", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    pattern = (
        r"20\S+ ready \w+  memory [\d.]+ %  cpu [\d.]+ %  p95 -  0.0 requests/s  queue 0 %"
        r"  rejected 0 %  errors 0 %  restarts 0  oom_kills \d+  ready 1/1"
    )
    assert re.fullmatch(pattern, first)
    assert re.fullmatch(pattern, second)


def test_a_real_terminal(serve: Callable[..., Server]) -> None:
    """On a terminal of 80x24 it draws on the alternate screen, and Ctrl-C ends it quietly."""
    server = serve(SENTENCE_API_CPUS=1)
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}}
    # Background tests ignore SIGINT, and a child inherits that.
    ours = signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        [*MONITOR, "--url", server.url, "--interval", "0.5"],
        cwd=ROOT,
        env={**environment, "TERM": "xterm"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
    )
    signal.signal(signal.SIGINT, ours)
    os.close(inside)
    seen = ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    while seen.count("Drift") < 2:
        # A character may come in two pieces.
        seen += decoder.decode(os.read(terminal, 65536))
    process.send_signal(signal.SIGINT)
    try:
        while piece := os.read(terminal, 65536):
            seen += decoder.decode(piece)
    except OSError:  # the other end of the terminal is closed
        pass
    os.close(terminal)
    assert process.wait(timeout=20) == 0
    enter, leave = "\x1b[?1049h", "\x1b[?1049l"
    assert (seen.count(enter), seen.count(leave)) == (1, 1)
    pictures = seen[seen.index(enter) : seen.index(leave)].split("\x1b[H")
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", pictures[-1]).split("\r\n")
    assert len(last) <= 24
    assert max(len(one.rstrip()) for one in last) <= 80
    assert "Traceback" not in seen

"""Rotation of a log that a server holds open."""

from __future__ import annotations

from pathlib import Path

from sentence_api.resources.rotation import rotate


def test_a_long_log_is_moved(tmp_path: Path) -> None:
    """Older parts keep their order, the oldest goes, and a writer goes on in the emptied file."""
    log = tmp_path / "server.log"
    with log.open("a", encoding="utf-8") as writer:
        for number in range(4):
            writer.write(f"{number} and the rest\n")
            writer.flush()
            assert rotate(log, most_bytes=10, kept=2)
        writer.write("now\n")
    found = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert found == {
        "server.log": "now\n",
        "server.log.1": "3 and the rest\n",
        "server.log.2": "2 and the rest\n",
    }


def test_a_short_log_stays(tmp_path: Path) -> None:
    """A log below the size, or none, is left alone."""
    log = tmp_path / "server.log"
    assert not rotate(log, most_bytes=10)
    log.write_text("short\n", encoding="utf-8")
    assert not rotate(log, most_bytes=10)
    assert [path.name for path in tmp_path.iterdir()] == ["server.log"]

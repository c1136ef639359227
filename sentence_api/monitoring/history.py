"""History of a deployment: samples and events in one bounded SQLite file.

Samples are kept at their full rate for a day, then one per five minutes for two weeks. A connection
lasts for one call only, so none is open across a fork. Nothing waits for the disk: a power cut may
cost the last samples, and a damaged file is replaced by an empty one.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sentence_api.monitoring.sample import Sample
from sentence_api.resources.lock import FileLock
from sentence_api.resources.sizes import MIB

log = logging.getLogger(__name__)

FILE = "history.sqlite"
_LIVES = "lives.lock"
FULL_RATE_SECONDS = 24 * 3600.0
KEPT_SECONDS = 14 * 24 * 3600.0
THINNED_SECONDS = 300
# A sample of two workers takes 1 KiB: two weeks need some 13 MiB.
MAX_BYTES = 32 * MIB
# On a tmpfs the file counts as the service's memory; this holds some hours of samples.
MAX_BYTES_IN_MEMORY = 2 * MIB
_MAX_EVENTS = 5000
# Waiting for SQLite's lock blocks the event loop, so the timeout is short.
_LOCK_SECONDS = 0.2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples
    (time REAL PRIMARY KEY, started REAL NOT NULL, sample TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (time REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_time ON events (time);
CREATE TABLE IF NOT EXISTS server (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


_Statement = tuple[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Event:
    """Event of a server: its time, its kind and one sentence."""

    time: float
    kind: str
    text: str


class History:
    """History in one folder. Calls never raise: a server must not fail because of its history.

    Args:
        folder: Must exist.
        max_bytes: Maximum size of the file; the oldest samples are deleted first.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = folder / FILE
        self._max_bytes = max_bytes
        self._life = FileLock(self.path.with_name(_LIVES))
        self._troubled: set[str] = set()

    def lives_alone(self) -> bool:
        """Take a shared lock on this history; return whether no other server holds the lock.

        Called in the master: its workers inherit the lock, so it lasts as long as any process of
        the server.
        """
        try:
            return self._life.share()
        except OSError as exc:
            log.warning("cannot tell whether another server keeps this history: %s", exc)
            return False

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        values = (sample.time, sample.started, sample.model_dump_json(exclude_defaults=True))
        self._write(("INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", values))

    def note(self, kind: str, text: str, when: float | None = None) -> None:
        """Add an event with the current time, or the time `when`."""
        moment = time.time() if when is None else when
        self._write(("INSERT INTO events VALUES (?, ?, ?)", (moment, kind, text)))

    def describe(self, server: Mapping[str, Any]) -> None:
        """Replace the stored description of the server."""
        insert = "INSERT INTO server VALUES (?, ?)"
        rows = [(insert, (name, json.dumps(value))) for name, value in server.items()]
        self._write(("DELETE FROM server", ()), *rows)

    def description(self) -> dict[str, Any]:
        """Return the description of the last server; empty if there is none."""
        rows = self._read("SELECT name, value FROM server")
        return {name: json.loads(value) for name, value in rows}

    def samples(self, since: float, until: float = math.inf) -> list[Sample]:
        """Return the samples of a period, oldest first."""
        return list(self.each_sample(since, until))

    def each_sample(self, since: float, until: float = math.inf) -> Iterator[Sample]:
        """Yield the samples of a period, oldest first, parsed one at a time to save memory."""
        query = "SELECT sample FROM samples WHERE time BETWEEN ? AND ? ORDER BY time"
        for (text,) in self._read(query, since, until):
            if (sample := _sample(text)) is not None:
                yield sample

    def sample_at(self, moment: float, started: float | None = None) -> Sample | None:
        """Return the last sample at or before a time, of the server `started` then or of any."""
        rows = self._read(
            "SELECT sample FROM samples WHERE time <= ?1 AND (?2 IS NULL OR started = ?2)"
            " ORDER BY time DESC LIMIT 1",
            moment,
            started,
        )
        return _sample(rows[0][0]) if rows else None

    def events(self, since: float = 0.0, most: int = _MAX_EVENTS) -> list[Event]:
        """Return the newest events, newest first."""
        query = (
            "SELECT time, kind, text FROM events WHERE time >= ?"
            " ORDER BY time DESC, rowid DESC LIMIT ?"
        )
        return [Event(*row) for row in self._read(query, since, most)]

    def prune(self, now: float) -> None:
        """Thin out old samples, and delete more if the file exceeds its maximum."""
        day, end = now - FULL_RATE_SECONDS, now - KEPT_SECONDS
        self._write(
            ("DELETE FROM samples WHERE time < ?", (end,)),
            (
                "DELETE FROM samples WHERE time < ?1 AND time NOT IN (SELECT MIN(time)"
                " FROM samples WHERE time < ?1 GROUP BY CAST(time / ?2 AS INTEGER))",
                (day, THINNED_SECONDS),
            ),
            (
                "DELETE FROM events WHERE time < ? OR rowid NOT IN"
                " (SELECT rowid FROM events ORDER BY time DESC LIMIT ?)",
                (end, _MAX_EVENTS),
            ),
        )
        if self.used_bytes() > self._max_bytes:
            quarter = (
                "DELETE FROM samples WHERE time <= (SELECT time FROM samples ORDER BY time"
                " LIMIT 1 OFFSET (SELECT COUNT(*) / 4 FROM samples))"
            )
            self._write((quarter, ()))

    def used_bytes(self) -> int:
        """Return the size of the pages in use; SQLite reuses freed pages."""
        rows = self._read(
            "SELECT (page_count - freelist_count) * page_size"
            " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        )
        return int(rows[0][0]) if rows else 0

    def _read(self, query: str, *values: object) -> list[Any]:
        """Return the rows of a query; empty if the file cannot be read now."""
        return self._use("read", (query, values))

    def _write(self, *statements: _Statement) -> None:
        """Run statements in one transaction."""
        self._use("written", *statements)

    def _use(self, how: str, *statements: _Statement) -> list[Any]:
        """Run a transaction on a new connection, and return the rows of its last statement.

        An error is logged and gives no rows.
        """
        rows: list[Any] = []
        try:
            with closing(sqlite3.connect(self.path, timeout=_LOCK_SECONDS)) as connection:
                # Readers and the writer do not block each other, and no commit waits for the disk.
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = OFF")
                connection.executescript(_SCHEMA)
                with connection:
                    for query, values in statements:
                        rows = connection.execute(query, values).fetchall()
        except sqlite3.OperationalError as exc:
            self._note_trouble(how, exc)
            return []
        except sqlite3.DatabaseError as exc:
            log.warning("the history is damaged and begins anew: %s", exc)
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(FILE + suffix).unlink(missing_ok=True)
            return []
        self._note_trouble(how, None)
        return rows

    def _note_trouble(self, how: str, trouble: sqlite3.OperationalError | None) -> None:
        """Log an error when it begins and when it ends: a full disk lasts for many samples."""
        if trouble is not None and how not in self._troubled:
            self._troubled.add(how)
            log.warning("the history cannot be %s now: %s", how, trouble)
        elif trouble is None and how in self._troubled:
            self._troubled.remove(how)
            log.info("the history can be %s again", how)


def open_history(folder: Path, fallback: Path | None) -> History | None:
    """Return the history in `folder`, or in `fallback` if `folder` is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        if fallback is None:
            return None
        log.warning(
            "no history can be kept in %s (%s): keeping a short one in memory, until the stop",
            folder,
            exc.strerror,
        )
        return History(fallback, MAX_BYTES_IN_MEMORY)
    return History(folder)


def _sample(text: str) -> Sample | None:
    """Parse a stored sample; return None if another version stored other figures."""
    try:
        return Sample.model_validate_json(text)
    except ValidationError:
        return None

"""Monitoring of one server: its samples, events and status. One object, made before the fork."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sentence_api import __version__
from sentence_api.engine.artifact import Manifest
from sentence_api.monitoring.exposition import families
from sentence_api.monitoring.formatting import count
from sentence_api.monitoring.history import History, open_history
from sentence_api.monitoring.metrics import Metrics
from sentence_api.monitoring.observation import INCIDENT_SECONDS
from sentence_api.monitoring.recorder import Recorder
from sentence_api.monitoring.sampler import Sampler
from sentence_api.monitoring.settling import is_settling, window_begin
from sentence_api.monitoring.status import RECENT_SECONDS, StatusInputs, status
from sentence_api.monitoring.thresholds import thresholds_of
from sentence_api.resources.plan import Plan
from sentence_api.serving.lifecycle import State
from sentence_api.serving.scoreboard import Scoreboard
from sentence_api.settings import Settings

# A status costs some milliseconds; all open pages share it.
CACHE_SECONDS = 1.0
# More than a page shows: restarts before the last start of the server are counted from events.
_EVENTS_READ = 1000
_LOCK = "recording.lock"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Model that is served."""

    manifest: Manifest
    precision: str

    def as_dict(self) -> dict[str, Any]:
        """Return the description of the service for a status."""
        return {
            "version": __version__,
            "model": self.manifest.model,
            "engine": self.manifest.engine,
            "precision": self.precision,
            "dimensions": self.manifest.dimensions,
            "max_tokens": self.manifest.max_tokens,
        }


class Monitoring:
    """Samples, events and status of one server.

    Args:
        settings: Its settings.
        plan: Its plan.
        metrics: Metrics of its processes; `describe`, on the server as a whole, is set here.
        board: Scoreboard of its workers.
        directory: A folder that its processes share, or None for a single process.
        model: The model that is served.
        state: Returns the state of this process.

    Raises:
        InvalidSetting: The thresholds contradict each other.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        plan: Plan,
        metrics: Metrics,
        board: Scoreboard,
        directory: Path | None,
        model: ServedModel,
        state: Callable[[], State],
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._model = model
        self._state = state
        self._directory = directory
        self._thresholds = thresholds_of(settings)
        self._history: History | None = None
        if settings.history_seconds and directory is not None:
            self._history = open_history(settings.history, directory)
        self._observer = Sampler(settings, plan, metrics, board)
        self._cached: tuple[float, dict[str, Any]] | None = None
        metrics.describe = lambda: families(self._observer.take(), model.as_dict(), plan)

    def note(self, kind: str, text: str) -> None:
        """Add an event to the history, if there is a history."""
        if self._history is not None:
            self._history.note(kind, text)

    def server_starts(self) -> None:
        """Record the start, and a crash if the server before it ended without being stopped."""
        if self._history is None:
            return
        before = self._history.events(most=1)
        if self._history.lives_alone() and before and before[0].kind != "stop":
            self._history.note(
                "crash",
                "the server ended without being stopped: it was killed, or the machine went down",
                when=self._observer.first.started - 1e-3,
            )
        server = {
            "service": self._model.as_dict(),
            "plan": self._plan.as_dict(),
            "thresholds": asdict(self._thresholds),
            "window_seconds": self._settings.status_window,
            "settling_seconds": self._settings.settling_seconds,
        }
        # Stored as JSON, where a tuple is a list.
        again = "re" if json.loads(json.dumps(server)) == self._history.description() else ""
        self._history.describe(server)
        workers = count(self._plan.workers, "worker")
        self.note("start", f"version {__version__} {again}starts with {workers}")

    def start_recording(self) -> None:
        """Start recording samples; called in each worker."""
        if self._history is not None and self._directory is not None:
            lock, every = self._directory / _LOCK, self._settings.history_seconds
            log_file = self._settings.log_file
            Recorder(self._observer.take, self._history, lock, every, log_file).start()

    def status(self) -> dict[str, Any]:
        """Return the status for `GET /status`, at most `CACHE_SECONDS` old."""
        now = time.monotonic()
        if self._cached is None or now - self._cached[0] > CACHE_SECONDS:
            self._cached = (now, self._status())
        return self._cached[1]

    def _status(self) -> dict[str, Any]:
        sample, first, history = self._observer.take(), self._observer.first, self._history
        settling = self._settings.settling_seconds
        older = hour = first
        if history is not None:
            begin = window_begin(sample, self._settings.status_window, settling)
            older = history.sample_at(begin, sample.started) or first
            hour = history.sample_at(sample.time - INCIDENT_SECONDS, sample.started) or first
        facts = StatusInputs(
            state=_STATES.get(self._state(), self._state()),
            newer=sample,
            older=older,
            hour=hour,
            recent=history.samples(sample.time - RECENT_SECONDS) if history else [],
            events=history.events(most=_EVENTS_READ) if history else [],
            is_settling=is_settling(sample, settling),
        )
        return status(self._model.as_dict(), facts, self._plan, self._thresholds)


# A client only needs to know that the server answers.
_STATES = {State.HEALTHY: "ready"}

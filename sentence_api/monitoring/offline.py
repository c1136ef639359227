"""Status of a server that does not respond, from its history and the kernel."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from sentence_api import __version__
from sentence_api.errors import StartupError
from sentence_api.monitoring import advice, indicators
from sentence_api.monitoring.history import FILE, History
from sentence_api.monitoring.indicator import Basis
from sentence_api.monitoring.judgement import Row, judge
from sentence_api.monitoring.observation import INCIDENT_SECONDS, Incidents
from sentence_api.monitoring.rates import window
from sentence_api.monitoring.sample import UNPLANNED, Sample
from sentence_api.monitoring.status import RECENT_SECONDS, StatusInputs, document
from sentence_api.monitoring.thresholds import Verdict, thresholds_of
from sentence_api.planning import plan_for
from sentence_api.resources.cgroup import read_cgroup_memory
from sentence_api.resources.formula import make_plan
from sentence_api.resources.host import read_host
from sentence_api.resources.plan import Machine, Plan
from sentence_api.resources.sizes import GIB
from sentence_api.settings import Settings, read_settings

STATE = "unhealthy"
_MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - where a server without a folder keeps its history


def status(url: str, reason: str) -> dict[str, Any]:
    """Return a status in the form of `GET /status`, with critical readiness.

    Raises:
        StartupError: The settings are invalid.
    """
    settings = read_settings(os.environ)
    now = time.time()
    history = find_history(settings.history)
    events = history.events() if history else []
    kept = history.sample_at(now) if history else None
    plan = _plan(settings)
    newer, is_live = _with_memory(kept or _blank(now, plan))
    older = _older(history, newer, settings.status_window)
    figures = window(older, newer)
    lost = Counter(
        event.kind
        for event in events
        if event.kind in UNPLANNED and event.time >= now - INCIDENT_SECONDS
    )
    incidents = Incidents(dict(lost), lost["oom"])
    rows = judge(figures, incidents, plan, thresholds_of(settings), STATE)
    # The last hour is known without a server.
    still_true = indicators.names(Basis.HOUR) | ({"memory"} if is_live else set())
    rows = [
        _readiness(row, url, reason)
        if row.name == "readiness"
        else _as_known(row, None if row.name in still_true else newer.time, kept is not None)
        for row in rows
    ]
    facts = StatusInputs(
        state=STATE,
        newer=newer,
        older=older,
        hour=older,
        recent=history.samples(newer.time - RECENT_SECONDS) if history else [],
        events=events,
    )
    service = {"version": __version__, "model": settings.model, "engine": settings.engine}
    found = document(service, facts, plan, figures, rows)
    if kept is None:
        found["service"]["started"] = None
    return found


def find_history(folder: Path) -> History | None:
    """Return the history in `folder`, or the newest history that a server keeps in memory."""
    if (folder / FILE).exists():
        return History(folder)
    found = sorted(
        _MEMORY_DISK.glob(f"sentence-api-*/{FILE}"), key=lambda path: path.stat().st_mtime
    )
    return History(found[-1].parent) if found else None


def _plan(settings: Settings) -> Plan:
    """Return the plan, or a placeholder if no plan can be made.

    Asking OpenVINO for this CPU's precision would take 60 MiB of a container that may be full, so
    float32 is assumed, which needs the most memory.
    """
    try:
        return plan_for(settings.model_copy(update={"precision": "float32"}))
    except StartupError:
        return make_plan(Machine(1, 4 * GIB))


def _blank(now: float, plan: Plan) -> Sample:
    """Return a sample without figures."""
    host = read_host()
    return Sample(
        time=now,
        started=now,
        memory_limit_bytes=plan.memory_limit_bytes,
        cpu_limit=host.cpus,
        planned=plan.workers,
    )


def _with_memory(sample: Sample) -> tuple[Sample, bool]:
    """Return the sample with the container's current memory, and whether there is a container."""
    memory = read_host().container_memory(read_cgroup_memory())
    if memory is None:
        return sample, False
    used, limit = memory
    return sample.model_copy(update={"memory_bytes": used, "memory_limit_bytes": limit}), True


def _older(history: History | None, newer: Sample, seconds: float) -> Sample:
    """Return the oldest sample of the window that ends with `newer`, or `newer` itself."""
    if history is None:
        return newer
    lived = [
        sample
        for sample in history.samples(newer.time - seconds, newer.time)
        if sample.started == newer.started
    ]
    return lived[0] if lived else newer


def _readiness(row: Row, url: str, reason: str) -> Row:
    return replace(
        row,
        value=0,
        text=reason,
        verdict=Verdict.CRITICAL,
        advice=f"nothing serves at {url} ({reason}): read the reason in {advice.LOGS}, start it"
        " with ./deploy-production.sh",
    )


def _as_known(row: Row, seen: float | None, is_kept: bool) -> Row:
    """Return a row with its last known value and an unknown verdict; as it is if `seen` is None."""
    if seen is None:
        return row
    then = time.strftime("%H:%M:%S", time.localtime(seen))
    text = f"{row.text} at {then}" if is_kept else "unknown"
    value = row.value if is_kept else None
    return replace(row, value=value, text=text, verdict=Verdict.UNKNOWN, advice=None)

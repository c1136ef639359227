"""Timeline of a server: its samples as figures, judged as `check` would have judged them. Pure.

A moment has two windows. Its figures are over the time since the previous sample, so that a peak
stays in its place. Its verdicts are over the window of `GET /status`, so that both agree.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sentence_api.monitoring import indicators
from sentence_api.monitoring.history import Event
from sentence_api.monitoring.indicator import Indicator
from sentence_api.monitoring.judgement import Row, judge
from sentence_api.monitoring.observation import INCIDENT_SECONDS, Incidents
from sentence_api.monitoring.rates import LEAST_SECONDS, Figures, window
from sentence_api.monitoring.sample import UNPLANNED, Sample
from sentence_api.monitoring.settling import is_settling, window_begin
from sentence_api.monitoring.thresholds import Thresholds, Verdict
from sentence_api.resources.plan import Plan

# No server ran in a gap longer than this, and longer than this multiple of the usual interval.
_AWAY_SECONDS = 60.0
_AWAY_DISTANCES = 6
# A start this soon after a stop makes both a restart. A longer absence was missed by somebody, even
# if the stop was asked for.
_RESTART_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """Server with its plan and thresholds.

    Attributes:
        service: Description of the service, as in a status.
        plan: The plan of the server.
        thresholds: The thresholds of the server.
        window_seconds: Window of the rates in a status.
        settling_seconds: Time after a start that no verdict is on.
    """

    service: Mapping[str, object]
    plan: Plan
    thresholds: Thresholds
    window_seconds: float
    settling_seconds: float


@dataclass(frozen=True, slots=True)
class Moment:
    """Sample in the timeline.

    Attributes:
        time: Time of the sample.
        figures: Figures of the time since the previous sample.
        values: Value of each row that `check` would have shown.
        verdicts: Verdict of each row.
        is_settling: Whether the server had just started.
    """

    time: float
    figures: Figures
    values: Mapping[str, float | None]
    verdicts: Mapping[str, Verdict]
    is_settling: bool

    @property
    def begun(self) -> float:
        """Time of the previous sample."""
        return self.time - self.figures.seconds


@dataclass(frozen=True, slots=True)
class Absence:
    """Period without a server.

    Attributes:
        since: Its beginning.
        until: Its end.
        is_over: Whether a server came back.
        is_restart: Whether the server was stopped and soon started again: no incident.
    """

    since: float
    until: float
    is_over: bool
    is_restart: bool = False


@dataclass(slots=True)
class Timeline:
    """Timeline of a period.

    Attributes:
        moments: Oldest first.
        absences: Oldest first.
        worst: The worst row of each name, with its time.
        peak_private_bytes: Private memory of the largest worker.
    """

    moments: list[Moment] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    worst: dict[str, tuple[float, Row]] = field(default_factory=dict)
    peak_private_bytes: int | None = None

    @property
    def missed(self) -> list[Absence]:
        """Absences that were no restarts."""
        return [each for each in self.absences if not each.is_restart]

    @property
    def settled(self) -> list[Moment]:
        """Moments in which load is judged."""
        return [each for each in self.moments if not each.is_settling]

    def seconds(self, name: str, verdict: Verdict) -> float:
        """Return the seconds for which a row had a verdict."""
        found = sum(each.figures.seconds for each in self.moments if each.verdicts[name] is verdict)
        if name == "readiness" and verdict is Verdict.CRITICAL:
            found += sum(absence.until - absence.since for absence in self.missed)
        return found


def follow(
    samples: Iterable[Sample],
    events: Sequence[Event],
    server: Server,
    since: float,
    until: float,
) -> Timeline:
    """Return the timeline of a period.

    Args:
        samples: Oldest first, from an hour before `since`: restarts are counted over an hour.
        events: In any order, from an hour before `since`.
        server: The server with its plan and thresholds.
        since: Start of the period.
        until: End of the period.
    """
    timeline = Timeline()
    hour = _Hour(events)
    lives: dict[float, deque[Sample]] = {}
    last: Sample | None = None
    for sample in samples:
        life = lives.setdefault(sample.started, deque())
        before = life[-1] if life else None
        first_known = since - INCIDENT_SECONDS <= sample.started < sample.time
        if before is None and (last is not None or first_known):
            before = _at_start(last or sample, sample)
            if last is not None and sample.time >= since and before.time > last.time:
                timeline.absences.append(_absence(events, last, before.time, since))
        last = sample
        if before is not None and sample.time - before.time < LEAST_SECONDS:
            # The next window begins where this one does.
            if not life:
                life.append(before)
            continue
        if before is not None:
            hour.count(before, sample)
            begin = window_begin(sample, server.window_seconds, server.settling_seconds)
            while len(life) > 1 and life[1].time <= begin:
                life.popleft()
            if sample.time >= since:
                settling = is_settling(sample, server.settling_seconds)
                judged = window(life[0] if life else before, sample)
                rows = judge(
                    judged,
                    hour.incidents(sample),
                    server.plan,
                    server.thresholds,
                    "ready" if judged.ready or settling else "unhealthy",
                    is_settling=settling,
                )
                _keep(timeline, sample, window(before, sample), rows, settling)
        life.append(sample)
    if last is not None:
        usual = timeline.moments[-1].figures.seconds if timeline.moments else 0.0
        if until - last.time > max(_AWAY_SECONDS, _AWAY_DISTANCES * usual):
            timeline.absences.append(Absence(max(last.time, since), until, is_over=False))
    return timeline


def _absence(events: Sequence[Event], last: Sample, begun: float, since: float) -> Absence:
    """Return the absence between a server's last sample and the start of the next server."""
    ends = [
        event
        for event in events
        if event.kind in {*UNPLANNED, "stop"} and last.started < event.time <= begun
    ]
    end = max(ends, key=lambda event: event.time, default=None)
    stopped = end.time if end is not None and end.kind == "stop" else None
    return Absence(
        since=max(since, last.time, stopped or 0.0),
        until=begun,
        is_over=True,
        is_restart=stopped is not None and begun - stopped <= _RESTART_SECONDS,
    )


def _at_start(known: Sample, first: Sample) -> Sample:
    """Return the baseline of a server's first sample, whose own counters begin at zero.

    Args:
        known: The previous sample or `first` itself: the kernel's counters survive a restart.
        first: The first sample after the start.
    """
    begun = min(first.started, first.time - 1e-3)
    earlier = begun if known is first else max(known.time, begun)
    return known.model_copy(update={"time": earlier, "started": first.started - 1})


def _keep(
    timeline: Timeline, sample: Sample, figures: Figures, rows: Sequence[Row], settling: bool
) -> None:
    timeline.moments.append(
        Moment(
            time=sample.time,
            figures=figures,
            values={row.name: row.value for row in rows},
            verdicts={row.name: row.verdict for row in rows},
            is_settling=settling,
        )
    )
    for indicator, row in zip(indicators.INDICATORS, rows, strict=True):
        known = timeline.worst.get(row.name)
        if known is None or _badness(indicator, row) > _badness(indicator, known[1]):
            timeline.worst[row.name] = (sample.time, row)
    private = [each.private_bytes for each in sample.workers if each.private_bytes is not None]
    timeline.peak_private_bytes = max([*private, timeline.peak_private_bytes or 0]) or None


def _badness(indicator: Indicator, row: Row) -> tuple[bool, bool, int, float]:
    """Return what a worse row has more of; any known value is worse than an unknown one.

    A row that is not judged gives way to any other.
    """
    value = row.value or 0.0
    return (
        row.is_judged,
        row.verdict is not Verdict.UNKNOWN,
        row.verdict.severity,
        -value if indicator.lower_is_worse else value,
    )


class _Hour:
    """Unplanned restarts and kills of the last hour, at any time of the timeline."""

    def __init__(self, events: Sequence[Event]) -> None:
        grave = sorted((each for each in events if each.kind in UNPLANNED), key=lambda e: e.time)
        self._times = [event.time for event in grave]
        self._kinds = [event.kind for event in grave]
        self._kills: deque[tuple[float, int]] = deque()

    def count(self, before: Sample, sample: Sample) -> None:
        """Add the kills that the kernel counted between two samples."""
        killed = window(before, sample).oom_kills
        if killed:
            self._kills.append((sample.time, killed))

    def incidents(self, sample: Sample) -> Incidents:
        """Return the incidents of the hour before a sample."""
        since = sample.time - INCIDENT_SECONDS
        first, end = bisect_left(self._times, since), bisect_right(self._times, sample.time)
        restarts = Counter(self._kinds[first:end])
        while self._kills and self._kills[0][0] < since:
            self._kills.popleft()
        # The master counts killed workers too, even if the kernel's counter is reset.
        kills = max(sum(count for _, count in self._kills), restarts["oom"])
        return Incidents(dict(restarts), None if sample.oom_kills is None and not kills else kills)

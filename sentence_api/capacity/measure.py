"""Measurement of `python -m sentence_api bench`: the capacity of the running deployment.

It loads the server fully for half a minute. The generator takes CPU from the same machine, and
inside a container from the same limits, so capacity is calculated from the server's CPU time.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sentence_api.capacity.load import LoadResult, Pace, post, steady
from sentence_api.capacity.plan import Cost, Latency, Measurement
from sentence_api.client import Client
from sentence_api.errors import DeploymentFailed, NotMeasured
from sentence_api.keys import query_headers
from sentence_api.resources.host import processor, read_host
from sentence_api.resources.sizes import format_size

FILE = "bench.json"
# In tokens, approximately, with the two that most models add to a text; the server counts.
LENGTHS = (7, 30, 120)
LATENCY_LENGTH = 30
SHARES = (0.3, 0.5, 0.7, 0.85)
SECONDS = 30.0
# Parts of SECONDS: warm-up of each length, full load of each length, steady load of each share.
_WARM, _FULL, _PACED = 1 / 30, 4 / 30, 3.5 / 30
# Enough to fill the passes of every worker.
_CONNECTIONS_OF_WORKER, _MOST_CONNECTIONS = 64, 256
_REQUESTS = 500
# With more than this share of other clients' requests the figures are those of a mixture.
_OTHERS_SHARE = 0.02
# Common English words that are one token each to nearly every tokenizer.
_WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world")


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of the server since its start."""

    cpu_seconds: float
    requests: float
    tokens: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Finding:
    """Remark on a measurement: one sentence, and whether it is a fault."""

    text: str
    is_fault: bool


class Server:
    """Deployment under test.

    Args:
        url: Its address.
        key: One of its API keys, if it needs a key.

    Raises:
        DeploymentFailed: The server does not respond, or is not ready.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        self._headers = query_headers(key)
        self.status = json.loads(self._get("/status"))
        if self.status.get("state") != "ready":
            raise DeploymentFailed(f"the server at {url} is not ready; next: ask it with check")

    def requests(self, tokens: int, seed: int) -> list[bytes]:
        """Return requests for different texts of about `tokens` tokens each."""
        choose = random.Random(seed)  # noqa: S311 - repeatable, not secret
        texts = (" ".join(choose.choices(_WORDS, k=tokens - 2)) for _ in range(_REQUESTS))
        return [
            post(self.url, "/query", json.dumps({"question": text}).encode(), self._headers)
            for text in texts
        ]

    def read(self) -> Counters:
        """Return the server's counters."""
        text = self._get("/metrics")
        return Counters(
            cpu_seconds=_metric(text, "sentence_api_cpu_seconds_total"),
            requests=_metric(text, "sentence_api_requests_total", 'route="/query'),
            tokens=_metric(text, "sentence_api_tokens_total"),
            memory_bytes=_metric(text, "sentence_api_memory_working_set_bytes"),
        )

    def cores(self) -> float:
        """Return the CPUs that the server can keep busy."""
        plan = self.status["plan"]
        limit = _metric(self._get("/metrics"), "sentence_api_cpu_limit_cores")
        return min(limit, float(plan["workers"] * plan["threads"]))

    def _get(self, path: str) -> str:
        try:
            with Client(self.url) as client:
                return client.ask(path).decode()
        except (OSError, ValueError) as exc:
            raise DeploymentFailed(
                f"no answer from {self.url}{path}: {exc}; next: ./deploy-production.sh status"
            ) from exc


def _metric(text: str, name: str, label: str = "") -> float:
    """Return the sum of a metric over its series whose labels contain `label`."""
    lines = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in lines if label in labels)


def measure(
    server: Server, seconds: float, say: Callable[[str], None]
) -> tuple[Measurement, list[Finding]]:
    """Load a server fully with texts of several lengths, then partly, and judge it by its plan.

    Args:
        server: The server.
        seconds: Total duration.
        say: Shows progress.

    Raises:
        DeploymentFailed: The server refuses every request.
    """
    plan, service = server.status["plan"], server.status["service"]
    cores = server.cores()
    say(
        f"loading {server.url} fully for {seconds:.0f} s: {service['model']}"
        f" {service['precision']}, {plan['workers']} workers"
    )
    pace = Pace(server.url, min(_MOST_CONNECTIONS, _CONNECTIONS_OF_WORKER * plan["workers"]))
    costs, latencies = [], []
    runs: list[tuple[LoadResult, Counters, Counters]] = []
    for length in LENGTHS:
        requests = server.requests(length, seed=length)
        _accepted(pace.saturate(requests, _WARM * seconds))
        runs.append(_counted(server, partial(pace.saturate, requests, _FULL * seconds)))
        costs.append(_cost(*runs[-1]))
        say(f"  {costs[-1].tokens:3.0f} tokens: {1 / costs[-1].cpu_seconds:.0f} requests/s a core")
    chosen = costs[LENGTHS.index(LATENCY_LENGTH)]
    requests = server.requests(LATENCY_LENGTH, seed=0)
    for share in SHARES:
        due = list(
            steady(share * cores / chosen.cpu_seconds, _PACED * seconds, seed=round(100 * share))
        )
        runs.append(_counted(server, partial(pace.at, requests, _PACED * seconds, iter(due))))
        latencies.append(_latency(share, runs[-1][0]))
        say(
            f"  {share:.0%} of that, {chosen.tokens:.0f} tokens: 95 % within"
            f" {1000 * latencies[-1].p95:.0f} ms"
        )
    pace.close()
    measured = Measurement(
        time=time.time(),
        version=service["version"],
        model=service["model"],
        precision=service["precision"],
        processor=processor(),
        workers=plan["workers"],
        cores=cores,
        costs=tuple(costs),
        latency_tokens=chosen.tokens,
        latencies=tuple(latencies),
    )
    return measured, judge(plan, runs)


def _accepted(answers: LoadResult) -> None:
    """Refuse a measurement in which no request succeeded."""
    if not answers.latencies:
        keys = (
            "; set SENTENCE_API_KEYS_FILE to the server's"
            if "401" in (answers.refusal or "")
            else ""
        )
        raise DeploymentFailed(f"the server answers no question: {answers.refusal}{keys}")


def _counted(
    server: Server, load: Callable[[], LoadResult]
) -> tuple[LoadResult, Counters, Counters]:
    """Run a load between two readings, and take its own CPU time off the server's."""
    before, own = server.read(), time.process_time()
    answers = load()
    own = time.process_time() - own
    after = server.read()
    if counts_us():
        after = Counters(after.cpu_seconds - own, after.requests, after.tokens, after.memory_bytes)
    return answers, before, after


def counts_us() -> bool:
    """Return whether the server's figures are of a control group that includes this process."""
    return read_host().is_limited


def _cost(answers: LoadResult, before: Counters, after: Counters) -> Cost:
    _accepted(answers)
    answered = after.requests - before.requests
    return Cost(
        tokens=(after.tokens - before.tokens) / answered,
        cpu_seconds=(after.cpu_seconds - before.cpu_seconds) / answered,
    )


def _latency(share: float, answers: LoadResult) -> Latency:
    _accepted(answers)
    return Latency(share=share, **{f"p{each}": answers.percentile(each) for each in (50, 95, 99)})


def judge(
    plan: dict[str, Any], runs: Iterable[tuple[LoadResult, Counters, Counters]]
) -> list[Finding]:
    """Compare the measured figures with the plan. Pure."""
    every = list(runs)
    peak = max(after.memory_bytes for _, _, after in every)
    planned, limit = plan["predicted_peak_bytes"], plan["memory_limit_bytes"]
    findings = [
        Finding(
            f"memory reached {format_size(round(peak))} of {format_size(planned)} predicted, the"
            f" limit is {format_size(limit)}",
            is_fault=peak > planned,
        )
    ]
    if failures := sum(answers.failures for answers, _, _ in every):
        reason = next(filter(None, (answers.refusal for answers, _, _ in every)), "no answer")
        findings.append(Finding(f"{failures} requests failed, as {reason}", is_fault=True))
    sent = sum(len(answers.latencies) + answers.failures for answers, _, _ in every)
    counted = sum(after.requests - before.requests for _, before, after in every)
    if counted > sent * (1 + _OTHERS_SHARE):
        findings.append(
            Finding(
                f"others sent {counted - sent:.0f} requests meanwhile, so these are figures of a"
                " mixture; run it again when nobody asks",
                is_fault=False,
            )
        )
    return findings


def kept(folder: Path) -> Measurement:
    """Return the last measurement.

    Raises:
        NotMeasured: There is no measurement, or none of this version.
    """
    path = folder / FILE
    again = "next: python -m sentence_api bench, half a minute beside the running server"
    try:
        return Measurement.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise NotMeasured(f"nothing is measured yet ({path}); {again}") from exc
    except ValidationError as exc:
        raise NotMeasured(f"{path} is not of this version; {again}") from exc

"""Rounds of measurements: in each round every contestant takes its turn at each load."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.answers import Vectors, fault, least_cosine, sample
from benchmarks.beside import small_beside_largest
from benchmarks.contestants import Contestant
from benchmarks.counters import Counters, pass_tokens
from benchmarks.limit import Limit, Shapes
from benchmarks.load import Load, bodies, drive, driver
from benchmarks.paced import drive_paced
from benchmarks.running import Alone, DidNotStart, Running, Weighing
from benchmarks.workloads import Workload

PACED_SHARE = 0.7
PACED_CONNECTIONS = 64
TWO_CORE_LOADS = (("q7", 64), ("q30", 64), ("mixed", 64))
# Slow servers are driven longer, up to this factor, until this many responses came.
_LONGEST, _ENOUGH = 2, 40
# A rate that every contestant reaches, for guessing how long a response takes.
_SLOW_FLOPS = 60e9
_WARM_SECONDS, _WARM_CONNECTIONS = 2, 8
# The first worker answers before the other workers are up.
_UP_SECONDS = 1
# The limit is the mean over all passes; a few hundred texts are enough for a pass.
_LIMIT_TEXTS, _LIMIT_TOKENS = 128, 4096


class Gone(Exception):
    """A contestant no longer answers."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The extent of a run.

    Attributes:
        rounds: Number of rounds.
        seconds: Duration of each load.
        loads: Workloads and connections, in the order of the run.
        paced: Contestants and workloads of the load at a share of the capacity.
        beside: Contestants of the small queries beside the largest batches.
        two_cores: Contestants that also run on two cores.
        one_core, load_core, both: Cores in taskset's form: of a contestant, of its load, of a
            contestant on two cores, whose load runs on `load_core_of_both`.
    """

    rounds: int
    seconds: int
    loads: Sequence[tuple[str, int]]
    paced: Sequence[tuple[str, str]]
    beside: frozenset[str]
    two_cores: frozenset[str]
    one_core: str
    load_core: str
    both: str
    load_core_of_both: str


class Bench:
    """A run. Its results are in `record`, by kind, as rows ready for JSON.

    Args:
        scope: Extent of the run.
        contestants: The contestants by name.
        limits: Makes the limit of a precision, given cores.
        workloads: All workloads by name.
        check: Texts to send alone, texts to send together, and their reference vectors.
        say: Shows progress.
    """

    def __init__(
        self,
        scope: Scope,
        contestants: Sequence[Contestant],
        *,
        limits: Mapping[str, Callable[[str], Limit]],
        workloads: dict[str, Workload],
        check: tuple[list[str], list[str], Vectors],
        say: Callable[[str], None],
    ) -> None:
        self._scope = scope
        self._contestants = list(contestants)
        self._limits = limits
        self._workloads = workloads
        self._check = check
        self._say = say
        self._shapes: dict[tuple[str, str], Shapes] = {}
        self._alone: dict[str, float] = {}
        self._round = 0
        self._cores = 1
        self.struck: dict[str, str] = {}
        kinds = ("loads", "limits", "paced", "beside", "starts", "memory", "outside", "passes")
        self.record: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (*kinds, "checks")}

    def run(self) -> None:
        """Measure everything."""
        for number in range(self._scope.rounds):
            self._round = number
            self._say(f"round {number + 1} of {self._scope.rounds}")
            self._one_core()
            self._two_cores()

    def _note(self, kind: str, **row: Any) -> None:
        self.record[kind].append({"round": self._round, "cores": self._cores, **row})

    def _one_core(self) -> None:
        """Measure on one core: all contestants are up, and one computes at a time."""
        self._cores = 1
        scope = self._scope
        with ExitStack() as stack:
            limits = self._start_limits(stack, scope.one_core)
            up: dict[str, Running] = {}
            for contestant in self._turns(0):
                self._try(contestant, partial(self._start, up, contestant, stack))
            for turn, (workload, connections) in enumerate(scope.loads):
                if not any(done == workload for done, _ in scope.loads[:turn]):
                    self._limit(limits, self._workloads[workload])
                for contestant in self._turns(turn):
                    if contestant.name in up and contestant.takes(workload, connections):
                        self._try(
                            contestant,
                            partial(
                                self._load,
                                up,
                                contestant.name,
                                workload,
                                connections,
                                scope.load_core,
                            ),
                        )
            for name, workload in scope.paced:
                if name in up:
                    self._try(up[name].contestant, partial(self._paced, up, name, workload))
            if scope.beside:
                self._beside(up, limits)

    def _beside(self, up: dict[str, Running], limits: dict[str, Limit]) -> None:
        """Measure small queries while two clients send the largest batches."""
        for contestant in self._turns(0):
            # It takes long, and gives the same result each time for contestants without protection.
            first_or_ours = self._round == 0 or contestant.name.startswith("ours")
            if contestant.name in self._scope.beside & up.keys() and first_or_ours:
                self._try(contestant, partial(self._beside_one, up, contestant.name))
        for name, running in up.items():
            if name.startswith("ours"):
                tokens = pass_tokens(running.url)
                limit = limits[running.contestant.precision]
                width = max(map(max, self._workloads["largest"].lengths))
                shape = [(max(1, tokens // width), width)]
                milliseconds = 1000 / limit.rate(shape, 1, 1.0)
                self._note("passes", contestant=name, tokens=tokens, milliseconds=milliseconds)

    def _two_cores(self) -> None:
        """Measure on two cores: one contestant is up at a time, as no core is left to idle on."""
        self._cores = 2
        scope = self._scope
        if not scope.two_cores:
            return
        with ExitStack() as stack:
            limits = self._start_limits(stack, scope.both)
            for workload, _ in TWO_CORE_LOADS:
                self._limit(limits, self._workloads[workload])
        for contestant in self._turns(0):
            if contestant.name in scope.two_cores:
                with ExitStack() as stack:
                    self._try(contestant, partial(self._on_two, contestant, stack))

    def _on_two(self, contestant: Contestant, stack: ExitStack) -> None:
        up: dict[str, Running] = {}
        cores = self._scope.load_core_of_both
        self._start(up, contestant, stack)
        for workload, connections in TWO_CORE_LOADS:
            self._load(up, contestant.name, workload, connections, cores)
        if contestant.name.startswith("ours"):
            self._beside_one(up, contestant.name)

    def _turns(self, turn: int) -> Iterator[Contestant]:
        """Yield the remaining contestants; the first contestant rotates."""
        left = [each for each in self._contestants if each.name not in self.struck]
        begin = (turn + self._round) % max(1, len(left))
        yield from (*left[begin:], *left[:begin])

    def _try(self, contestant: Contestant, measure: Callable[[], None]) -> None:
        """Measure; a contestant that fails is disqualified, and the run continues."""
        try:
            measure()
        except (DidNotStart, Gone, OSError, subprocess.CalledProcessError) as exc:
            said = getattr(exc, "stderr", None) or str(exc)
            self.struck.setdefault(contestant.name, said.strip().splitlines()[-1])
            self._say(f"  {contestant.name} is out: {self.struck[contestant.name]}")

    def _start(self, up: dict[str, Running], contestant: Contestant, stack: ExitStack) -> None:
        """Start a contestant, warm it, and compare its answers while it is busy."""
        name = contestant.name
        cores = self._scope.one_core if self._cores == 1 else self._scope.both
        running = Running(contestant, cores)
        up[name] = running
        # The contestant that runs under this name at the end: it may have been restarted.
        stack.callback(lambda: up[name].stop())  # noqa: PLW0108
        time.sleep(_UP_SECONDS)
        self._note(
            "starts", contestant=name, seconds=running.ready_seconds, ready_bytes=running.pss()
        )
        singles, batch, expected = self._check
        with self._background(running, "mixed", _WARM_CONNECTIONS, _WARM_SECONDS):
            cosine = least_cosine(sample(running, singles, batch), expected)
        self._note("checks", contestant=name, cosine=cosine, texts=len(expected))
        self._say(f"  {name}: ready in {running.ready_seconds:.1f} s, cosine {cosine:.6f}")
        if reason := fault(contestant, cosine):
            raise Gone(reason)
        self._settle(up, name)
        up[name].resume()
        started = time.monotonic()
        sample(up[name], [], batch[:1])
        self._alone[name] = time.monotonic() - started
        up[name].pause()

    @contextmanager
    def _background(
        self, running: Running, workload: str, connections: int, seconds: float
    ) -> Iterator[None]:
        """Keep a contestant busy with another load, and wait for the end of that load."""
        path, asked = self._requests(running.contestant, workload)
        with bodies(path, asked) as file:
            command = driver(running.url, file, connections, seconds, self._scope.load_core)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            try:
                yield
            finally:
                process.wait()

    def _requests(self, contestant: Contestant, workload: str) -> tuple[str, list[Any]]:
        asked = [contestant.ask(texts) for texts in self._workloads[workload].requests]
        return asked[0][0], [body for _, body in asked]

    def _load(
        self, up: dict[str, Running], name: str, workload: str, connections: int, cores: str
    ) -> None:
        """Drive one contestant with one load."""
        running = up[name]
        running.resume()
        is_ours = name.startswith("ours")
        path, asked = self._requests(running.contestant, workload)
        seconds = self._seconds(name, workload)
        before = Counters.read(running) if is_ours else None
        alone = Alone(running)
        with Weighing(running) as weighing:
            load = drive(
                running.url,
                path,
                asked,
                connections=connections,
                seconds=seconds,
                cores=cores,
                traced=self._workloads[workload].traced,
            )
        others = alone.others()
        after = Counters.read(running) if is_ours else None
        key = {"contestant": name, "workload": workload, "connections": connections}
        self._say(_line(key, load))
        heads = {"known_heads": [before.known_heads, after.known_heads]} if before and after else {}
        self._note("loads", **key, others=others, **heads, **load.record())
        self._note("memory", **key, peak_bytes=weighing.peak_bytes)
        if before and after and load.requests:
            outside = after.outside_milliseconds(before, load.requests)
            self._note("outside", **key, milliseconds=outside)
        self._settle(up, name)

    def _seconds(self, name: str, workload: str) -> float:
        """Return how long to drive a contestant: longer if its responses take long."""
        seconds = self._scope.seconds
        guessed = self._alone[name] + self._workloads[workload].flops / _SLOW_FLOPS
        return min(max(seconds, _ENOUGH * guessed), _LONGEST * seconds)

    def _paced(self, up: dict[str, Running], name: str, workload: str) -> None:
        """Send requests at a share of the capacity that was just measured."""
        running = up[name]
        capacity = [
            row["rate"]
            for row in self.record["loads"]
            if (row["contestant"], row["workload"], row["connections"])
            == (name, workload, PACED_CONNECTIONS)
        ][-1]
        running.resume()
        path, asked = self._requests(running.contestant, workload)
        rate = PACED_SHARE * capacity
        seconds = self._seconds(name, workload) * 2
        core = self._scope.load_core
        load = drive_paced(
            running.url, path, asked, rate=rate, seconds=seconds, cores=core, seed=self._round
        )
        key = {"contestant": name, "workload": workload}
        self._say(_line({**key, "connections": f"{rate:.0f}/s"}, load))
        self._note("paced", **key, asked_rate=rate, **load.record())
        self._settle(up, name)

    def _beside_one(self, up: dict[str, Running], name: str) -> None:
        running = up[name]
        running.resume()
        with Weighing(running) as weighing:
            load = small_beside_largest(
                running.url,
                self._requests(running.contestant, "q7"),
                self._requests(running.contestant, "largest"),
                self._scope.load_core if self._cores == 1 else self._scope.load_core_of_both,
            )
        key = {"contestant": name, "workload": "q7 beside largest", "connections": 4}
        self._say(_line(key, load))
        self._note("beside", **key, **load.record())
        self._note("memory", **key, peak_bytes=weighing.peak_bytes)
        self._settle(up, name)

    def _settle(self, up: dict[str, Running], name: str) -> None:
        """Leave no work for the next turn; restart a contestant that does not come to rest."""
        running = up[name]
        if not running.settle():
            running.stop()
            up[name] = running = Running(running.contestant, running.cores)
            self._note("starts", contestant=name, seconds=running.ready_seconds)
        self._note("memory", contestant=name, workload="", idle_bytes=running.pss())
        running.pause()

    def _start_limits(self, stack: ExitStack, cores: str) -> dict[str, Limit]:
        limits = {precision: make(cores) for precision, make in self._limits.items()}
        for limit in limits.values():
            stack.callback(limit.stop)
        return limits

    def _limit(self, limits: dict[str, Limit], workload: Workload) -> None:
        """Measure the limit for one workload in each precision."""
        lengths = some_lengths(workload)
        for precision, limit in limits.items():
            key = (precision, workload.name)
            if key not in self._shapes:
                self._shapes[key] = limit.ideal(lengths)
            shapes = self._shapes[key]
            rate = limit.rate(shapes, len(lengths), self._scope.seconds) / workload.batch
            self._say(f"  limit {precision} {workload.name}: {rate:.1f} requests/s")
            self._note(
                "limits", precision=precision, workload=workload.name, rate=rate, shapes=shapes[:8]
            )


def some_lengths(workload: Workload) -> list[int]:
    """Return token counts that represent a workload: evenly spaced among all, sorted."""
    every = sorted(length for each in workload.lengths for length in each)
    mean = sum(every) / len(every)
    wanted = max(1, min(_LIMIT_TEXTS, len(every), round(_LIMIT_TOKENS / mean)))
    return [every[int((index + 0.5) * len(every) / wanted)] for index in range(wanted)]


def _line(key: dict[str, Any], load: Load) -> str:
    """Return a load as a line of progress."""
    failed = f", {load.failures} failed" if load.failures else ""
    return (
        f"  {key['contestant']:17} {key['workload']:9} {key['connections']:>6}:"
        f" {load.rate:8.1f} requests/s, {load.p50:8.1f} / {load.p99:8.1f} ms{failed}"
    )

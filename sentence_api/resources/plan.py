"""Plan: the machine it is made for, the numbers a person sets, and the result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from sentence_api.resources.sizes import MIB


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine to plan for.

    Attributes:
        cpus: CPUs the process may use, in units of one CPU.
        memory_bytes: RAM, or the container's limit when `contained`.
        contained: Whether the figures are limits set for this service alone, so that nothing more
            is reserved for other programs.
    """

    cpus: float
    memory_bytes: int
    contained: bool = False


@dataclass(frozen=True, slots=True)
class Overrides:
    """Numbers that a person set; None leaves them to the formula."""

    workers: int | None = None
    max_workers: int | None = None
    threads: int | None = None
    max_batch_items: int | None = None
    max_batch_tokens: int | None = None
    max_request_items: int | None = None
    max_concurrent_requests: int | None = None
    max_queue_tokens: int | None = None
    max_body_bytes: int | None = None
    cache_mb: int | None = None

    @property
    def cache_bytes(self) -> int:
        """Capacity of a worker's cache of recent texts."""
        return (self.cache_mb or 0) * MIB


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the calculation, for `--explain`: its name, its reason and its value."""

    name: str
    reason: str
    value: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan by which one machine serves one model.

    Attributes:
        workers: Processes.
        threads: Inference threads in each.
        max_batch_items: Texts per forward pass.
        max_batch_tokens: Padded tokens per forward pass.
        max_request_items: Texts per HTTP request.
        max_queue_tokens: Tokens that may wait in one worker.
        max_concurrent_requests: Open connections per worker.
        request_bytes: Memory that the requests of one worker may hold together.
        cache_bytes: Capacity of one worker's cache of recent texts.
        memory_limit_bytes: Limit for the whole service.
        cpu_limit: CPUs for the whole service.
        recycle_watermark_bytes: Private memory at which a worker retires.
        predicted_peak_bytes: The largest working set of the whole service.
        bound_by: Limit that set the number of workers: `cpus`, `memory` or `setting`.
        steps: The calculation, step by step.
    """

    workers: int
    threads: int
    max_batch_items: int
    max_batch_tokens: int
    max_request_items: int
    max_queue_tokens: int
    max_concurrent_requests: int
    request_bytes: int
    memory_limit_bytes: int
    cpu_limit: float
    recycle_watermark_bytes: int
    predicted_peak_bytes: int
    bound_by: str
    cache_bytes: int = 0
    steps: tuple[Step, ...] = field(default=(), compare=False)

    def as_dict(self) -> dict[str, int | float | str]:
        """Return every figure but the steps, ready for JSON."""
        figures = asdict(self)
        del figures["steps"]
        return figures

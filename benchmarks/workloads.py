"""Workloads, and which of them a run has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.texts import TextSource, log_normal

# all-MiniLM-L6-v2: twice the weights of a layer per token, and attention over the others.
_LAYERS, _WIDTH, _INNER = 6, 384, 1536
# Enough that a cache holds no text when it comes again.
_SINGLES, _PASSAGES, _BATCHES, _LARGEST_BATCHES = 1000, 200, 40, 4
_MEDIAN, _SIGMA, _LEAST, _MOST = 30, 0.8, 4, 256
LARGEST_ITEMS = 256

# As "mixed", with heads that change, like those of clients that trace their requests.
CHANGING_HEADS = "changing-heads"
HEADS_CLIENTS = 20

_EVERY = (1, 4, 16, 64, 256)
# Workloads and connections of a full and of a quick run, in their order.
LOADS = tuple(
    (name, connections)
    for name, every in {
        "q7": _EVERY,
        "q30": _EVERY,
        "mixed": (*_EVERY, HEADS_CLIENTS),
        CHANGING_HEADS: (HEADS_CLIENTS,),
        "passages": (1, 16),
        "batch4": (4,),
        "batch32": (4,),
        "batch64": (4,),
    }.items()
    for connections in every
)
QUICK_LOADS = tuple((name, connections) for name in ("q7", "q30") for connections in (1, 64))


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of one kind.

    Attributes:
        name: Name in a result.
        title: Name for people.
        lengths: Tokens of each text of each request.
        requests: The texts of each request, in the order in which they are sent.
        traced: Whether each request has a `traceparent` header of its own, so that no head repeats.
    """

    name: str
    title: str
    lengths: list[list[int]]
    requests: list[list[str]]
    traced: bool = False

    @property
    def batch(self) -> int:
        """Texts of a request."""
        return len(self.requests[0])

    @property
    def tokens(self) -> float:
        """Tokens of a request, in the mean."""
        return sum(map(sum, self.lengths)) / len(self.lengths)

    @property
    def flops(self) -> float:
        """Useful floating-point operations of a request, in the mean."""
        return sum(sum(map(text_flops, each)) for each in self.lengths) / len(self.lengths)


def text_flops(tokens: int) -> float:
    """Return what one forward pass over a text computes, without padding."""
    weights = 4 * _WIDTH**2 + 2 * _WIDTH * _INNER
    return _LAYERS * (2 * tokens * weights + 4 * tokens**2 * _WIDTH)


def make_workloads(tokenizer: Path) -> dict[str, Workload]:
    """Return every workload by name; the texts are the same in every run."""
    source = TextSource(tokenizer)
    mixed = log_normal(_SINGLES, _MEDIAN, _SIGMA, _LEAST, _MOST)
    kinds: dict[str, tuple[str, list[list[int]]]] = {
        "q7": ("7-token questions", [[7]] * _SINGLES),
        "q30": ("30-token questions", [[30]] * _SINGLES),
        "mixed": (
            f"mixed lengths (log-normal around {_MEDIAN}, {_LEAST} to {_MOST} tokens)",
            [[length] for length in mixed],
        ),
        "passages": ("256-token passages", [[256]] * _PASSAGES),
        **{
            f"batch{size}": (f"batches of {size}, 30 tokens", [[30] * size] * _BATCHES)
            for size in (4, 32, 64)
        },
        "largest": (
            f"batches of {LARGEST_ITEMS}, 256 tokens",
            [[256] * LARGEST_ITEMS] * _LARGEST_BATCHES,
        ),
    }
    made = {
        name: Workload(name, title, lengths, [source.texts(each) for each in lengths])
        for name, (title, lengths) in kinds.items()
    }
    title = "mixed lengths, changing heads (a traceparent header in each)"
    return made | {
        CHANGING_HEADS: replace(made["mixed"], name=CHANGING_HEADS, title=title, traced=True)
    }

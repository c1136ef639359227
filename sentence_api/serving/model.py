"""SentenceModel: text in, vectors out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import gevent
import numpy as np
from numpy.typing import NDArray

from sentence_api.engine.artifact import Manifest
from sentence_api.engine.fidelity import MIN_COSINE
from sentence_api.engine.interface import Vectors
from sentence_api.engine.loader import LoadedModel, load_model
from sentence_api.engine.tokenizer import Tokens
from sentence_api.engine.warmup import warm_up
from sentence_api.errors import CanaryFailed, InvalidValue, NotReady, TextTooLong
from sentence_api.serving.batcher import Batcher, Pass
from sentence_api.serving.cache import EmbeddingCache, Entry
from sentence_api.serving.job import Job
from sentence_api.serving.queue import Caps, Queue

log = logging.getLogger(__name__)

# Prose has three to five characters per token, Chinese about one.
_CHARACTERS_PER_TOKEN = 8
_Known = TypeVar("_Known")
_TINY = np.finfo(np.float32).tiny


class Embeddings(NamedTuple):
    """Vectors of some texts.

    Attributes:
        vectors: float32, shape (texts, dimensions), in input order.
        tokens: Tokens the model read, over all texts.
        truncated: Indices of the texts that were cut.
        tokenize_seconds: Time spent on tokenizing.
        queue_seconds: Time waited for the first forward pass.
        inference_seconds: Time of the forward passes.
    """

    vectors: NDArray[np.float32]
    tokens: int
    truncated: tuple[int, ...]
    tokenize_seconds: float
    queue_seconds: float
    inference_seconds: float


class SentenceModel:
    """A model in one process: `load` once, `start` in each process that encodes, then `encode`.

    Loading before a fork shares the weights between the processes. Not thread-safe; many greenlets
    may encode at once, and their texts share forward passes.

    Args:
        artifact: Folder made by `python -m sentence_api export`.
        precision: `float32` or `bfloat16`.
        threads: Inference threads.
        caps: Bounds of forward passes and queue.
        on_pass: Called after each forward pass.
        on_fault: Called after each pass that failed or gave a wrong vector; the argument says
            whether the engine still reproduces the reference vector.
        recent: Cache of the vectors of recent texts, or None.

    Attributes:
        recent: The cache, or None.
    """

    def __init__(
        self,
        artifact: Path,
        precision: str,
        threads: int,
        caps: Caps,
        on_pass: Callable[[Pass], None] = lambda _: None,
        *,
        on_fault: Callable[[bool], None] = lambda _: None,
        recent: EmbeddingCache | None = None,
    ) -> None:
        self.artifact = artifact
        self.precision = precision
        self.load_seconds = 0.0
        self.recent = recent
        self._threads = threads
        self._caps = caps
        self._on_pass = on_pass
        self._on_fault = on_fault
        self._model: LoadedModel | None = None
        self._batcher: Batcher | None = None

    @property
    def manifest(self) -> Manifest:
        """Manifest of the loaded artifact.

        Raises:
            NotReady: Nothing is loaded.
        """
        return self._loaded().manifest

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait for a forward pass."""
        return self._batcher.queue.waiting_tokens if self._batcher else 0

    def retry_after(self, tokens: float) -> int:
        """Return the seconds after which a refused request of this size may retry."""
        return self._batcher.queue.retry_after(tokens) if self._batcher else 1

    def load(self) -> None:
        """Verify and load the artifact, and warm up if a fork can inherit the warm state.

        Raises:
            ArtifactInvalid: A file is missing, altered, not listed or a pickle.
        """
        started = time.monotonic()
        model = load_model(self.artifact, self.precision, self._threads)
        if model.engine.forks_warm:
            warm_up(model.engine)
        self._model = model
        self.load_seconds = time.monotonic() - started
        log.info("loaded %s in %.2f s", model.manifest.model, self.load_seconds)

    def start(self) -> None:
        """Warm up, check the reference vector, and begin to accept work.

        Raises:
            CanaryFailed: The vector differs from the source model's.
            NotReady: Nothing is loaded.
        """
        model = self._loaded()
        if not model.engine.forks_warm:
            warm_up(model.engine)
        cosine = model.canary_cosine()
        if not cosine >= MIN_COSINE:
            raise CanaryFailed(
                f"the model gives a wrong reference vector (cosine {cosine:.4f} instead of 1);"
                " export it again"
            )
        self._batcher = Batcher(
            model.engine,
            self._caps,
            self._on_pass,
            dimensions=model.manifest.dimensions,
            proves=self._prove,
        )

    def encode(
        self,
        texts: Sequence[str],
        *,
        normalize: bool = True,
        input_type: Literal["query", "document"] | None = None,
        dimensions: int | None = None,
        truncate: bool = True,
        deadline: float | None = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> Embeddings:
        """Return one vector per text, in order.

        Args:
            texts: At least one text.
            normalize: Scale each vector to length 1.
            input_type: Put the model's own prompt for this type before each text.
            dimensions: Keep this many leading dimensions; cut before normalising.
            truncate: Cut texts beyond the model's maximum; False refuses them.
            deadline: `time.monotonic()` after which the work is dropped.
            is_gone: Returns whether the client has left.

        Raises:
            InvalidValue: `dimensions` is more than the model has.
            TextTooLong: A text is too long and `truncate` is False.
            NotReady: `start` has not succeeded.
            ServiceError: Any error of `Batcher.submit`.
        """
        if dimensions is not None and not 1 <= dimensions <= self.manifest.dimensions:
            raise InvalidValue(
                f"dimensions must be from 1 to {self.manifest.dimensions}",
                param="dimensions",
            )
        started = time.monotonic()
        # It may be unloaded while this request is tokenized.
        batcher = self._batcher
        if batcher is None:
            raise NotReady("the model is not ready")
        prompt = self.manifest.prompts.get(input_type or self.manifest.default_prompt or "", "")
        found = {} if self.recent is None else self.recent.find(prompt, texts)
        missing = [text for i, text in enumerate(texts) if i not in found] if found else texts
        tokens = self._tokenize(missing, prompt, batcher.queue, deadline) if missing else []
        lengths: Sequence[Tokens | Entry] = tokens
        if found:
            lengths = _in_order(found, tokens, len(texts))
        truncated = tuple(i for i, text in enumerate(lengths) if text.full_length > text.read)
        if truncated and not truncate:
            self._refuse_long(lengths[truncated[0]], truncated[0])
        tokenized = time.monotonic()
        job = None
        if missing or not found:
            job = batcher.submit([text.ids for text in tokens], deadline, is_gone)
            self._keep(prompt, missing, tokens, job)
        vectors = _vectors(found, job, len(texts))
        if dimensions is not None:
            vectors = np.ascontiguousarray(vectors[:, :dimensions])
        return Embeddings(
            vectors=_normalized(vectors) if normalize else vectors,
            tokens=sum(text.read for text in lengths),
            truncated=truncated,
            tokenize_seconds=tokenized - started,
            queue_seconds=job.queue_seconds if job else 0.0,
            inference_seconds=job.inference_seconds if job else 0.0,
        )

    def unload(self) -> None:
        """Stop taking work and free the model's memory."""
        if self._batcher is not None:
            self._batcher.close()
        if self.recent is not None:
            self.recent.clear()
        self._batcher = None
        self._model = None

    def _loaded(self) -> LoadedModel:
        """Return the model that `load` loaded."""
        if self._model is None:
            raise NotReady("the model is not loaded")
        return self._model

    def _prove(self) -> bool:
        """Return whether the engine reproduces the reference vector, and call `on_fault`."""
        try:
            holds = self._loaded().canary_cosine() >= MIN_COSINE
        except Exception:
            log.exception("the reference text failed")
            holds = False
        self._on_fault(holds)
        return holds

    def _least_tokens(self, texts: Sequence[str]) -> int:
        """Return a lower bound of the texts' tokens, unless all their words are very long."""
        longest = self.manifest.max_tokens
        return sum(min(longest, len(text) // _CHARACTERS_PER_TOKEN) for text in texts)

    def _tokenize(
        self, texts: Sequence[str], prompt: str, queue: Queue, deadline: float | None
    ) -> list[Tokens]:
        """Tokenize, yielding to the event loop between pieces of the work.

        Room in the queue is held meanwhile: tokenizing a large batch takes longer than refusing it,
        and small requests that came in between would have it refused again and again.
        """
        tokenizer = self._loaded().tokenizer
        with queue.held(self._least_tokens(texts), deadline):
            return tokenizer.encode(texts, prompt, lambda: gevent.sleep(0))

    def _keep(self, prompt: str, texts: Sequence[str], tokens: Sequence[Tokens], job: Job) -> None:
        """Cache the vectors computed for these texts, if there is a cache and they are trusted."""
        if self.recent is None or job.vectors is None or not job.is_trusted:
            return
        for text, length, vector in zip(texts, tokens, job.vectors, strict=True):
            kept = Entry(vector, length.read, length.full_length, length.is_exact)
            self.recent.keep(prompt + text, kept)

    def _refuse_long(self, text: Tokens | Entry, index: int) -> None:
        """Raise `TextTooLong` for a text that would have to be cut."""
        longest = self.manifest.max_tokens
        count = "" if text.is_exact else "at least "
        reason = f"has {count}{text.full_length} tokens, the model reads {longest}"
        if text.full_length <= longest:
            tokenizer = self._loaded().tokenizer
            reason = f"has more than the {tokenizer.most_characters} characters that are looked at"
        raise TextTooLong(f"text {index} {reason}; shorten it or leave truncate on", index=index)


def _in_order(found: Mapping[int, _Known], rest: Iterable[_Known], count: int) -> list[_Known]:
    """Return the found values at their indices, and the rest in order between them."""
    others = iter(rest)
    return [found[index] if index in found else next(others) for index in range(count)]


def _vectors(found: Mapping[int, Entry], job: Job | None, count: int) -> Vectors:
    """Return the vectors of a request, from the cache and from its job."""
    computed = job.vectors if job else ()
    assert computed is not None  # noqa: S101 - a job without error has all its vectors
    if not found:
        return np.asarray(computed)
    return np.array(_in_order({i: kept.vector for i, kept in found.items()}, computed, count))


def _normalized(vectors: Vectors) -> Vectors:
    """Return the rows scaled to length 1; a row of zeros stays as it is."""
    lengths = np.sqrt(np.vecdot(vectors, vectors))
    scaled: Vectors = vectors / np.maximum(lengths, _TINY)[:, np.newaxis]
    return scaled

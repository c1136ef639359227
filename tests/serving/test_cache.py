import gc
import sys
from collections import OrderedDict
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentence_api.resources.sizes import KIB, MIB
from sentence_api.serving.cache import ENTRY_BYTES, EmbeddingCache, Entry

DIMENSIONS = 8
# All lengths, some not ASCII, some too long for the smaller caches; more than any cache holds.
TEXTS = ["", *(f"{i}" + "é機x"[i % 3] * (i % 11) * (i % 13) for i in range(250)), "x" * 1500]


def kept(seed: int = 0) -> Entry:
    """Return an entry."""
    vector = np.arange(seed, seed + DIMENSIONS, dtype=np.float32)
    return Entry(vector, 3 + seed, 5 + seed, is_exact=seed % 2 == 0)


def cost(text: str) -> int:
    """Return the counted size of an entry."""
    return sys.getsizeof(text) + DIMENSIONS * 4 + ENTRY_BYTES


def same(first: Entry, second: Entry) -> bool:
    """Tell whether two entries are equal."""
    return first[1:] == second[1:] and bool((first.vector == second.vector).all())


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 128 * KIB))
def test_a_bounded_list_of_the_latest(seed: int, limit: int) -> None:
    """The cache equals a bounded list of the latest entries and never exceeds its bytes."""
    random = Random(seed)
    # Some texts are requested more often than others.
    steps = [(random.random() < 0.3, TEXTS[int(252 * random.random() ** 2)]) for _ in range(400)]
    recent = EmbeddingCache(limit)
    model: OrderedDict[str, Entry] = OrderedDict()
    hits = misses = held = 0
    for step, (is_asked, text) in enumerate(steps):
        if is_asked:
            found = recent.find("", [text])
            assert set(found) == ({0} if text in model else set())
            if found:
                hits += 1
                assert same(found[0], model[text])
                model.move_to_end(text)
            else:
                misses += 1
        else:
            recent.keep(text, kept(step))
            if text not in model and cost(text) <= limit // 64:
                model[text] = kept(step)
                held += cost(text)
                while held > limit:
                    held -= cost(next(iter(model)))
                    model.popitem(last=False)
        assert len(recent) == len(model)
        assert recent.held_bytes == held <= limit
    assert recent.take_counts() == (hits, misses)
    assert recent.take_counts() == (0, 0)


def test_found_by_prompt_and_place() -> None:
    """A text is found under the prompt it was read with, at its position in a request."""
    recent = EmbeddingCache(MIB)
    recent.keep("find: fox", kept(1))
    recent.keep("dog", kept(2))
    asked = ["dog", "fox", "dog"]
    assert set(recent.find("", asked)) == {0, 2}
    assert set(recent.find("find: ", asked)) == {1}
    assert same(recent.find("find: ", asked)[1], kept(1))
    assert recent.take_counts() == (4, 5)


def test_the_least_recently_used_goes_first() -> None:
    """Eviction removes the least recently used text first."""
    recent = EmbeddingCache(64 * cost("00"))
    names = [f"{number:02}" for number in range(65)]
    for name in names[:64]:
        recent.keep(name, kept())
    recent.find("", [names[0]])
    recent.keep(names[64], kept())
    assert sorted(recent.find("", names)) == [0, *range(2, 65)]


def test_a_long_text_is_not_kept() -> None:
    """An entry larger than a 64th of the cache is not kept and evicts nothing."""
    recent = EmbeddingCache(64 * cost("x" * 1000))
    recent.keep("x" * 1001, kept())
    assert len(recent) == 0
    recent.keep("x" * 1000, kept())
    assert recent.held_bytes == cost("x" * 1000)


def test_vectors_are_copies() -> None:
    """Neither the giver nor the receiver of a vector can change the cached vector."""
    recent = EmbeddingCache(MIB)
    given_vector = np.ones((4, DIMENSIONS), dtype=np.float32)
    recent.keep("fox", Entry(given_vector[1], 3, 3, is_exact=True))
    given_vector[:] = 7
    got = recent.find("", ["fox"])[0].vector
    np.testing.assert_array_equal(got, np.ones(DIMENSIONS))
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 7


def test_the_collector_follows_no_entry() -> None:
    """Cached entries add no objects for the garbage collector."""
    recent = EmbeddingCache(16 * MIB)
    recent.find("", ["before"])
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1000):
        recent.keep(f"text {number}", kept())
    assert len(recent) == 1000
    assert len(gc.get_objects()) - before < 100


def test_cleared() -> None:
    """A cleared cache finds nothing and has size 0."""
    recent = EmbeddingCache(MIB)
    recent.keep("fox", kept())
    recent.clear()
    assert (len(recent), recent.held_bytes, recent.find("", ["fox"])) == (0, 0, {})

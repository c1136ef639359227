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
# Of all lengths, some not ASCII, some too long for the smaller caches; more than fit any.
TEXTS = ["", *(f"{i}" + "é機x"[i % 3] * (i % 11) * (i % 13) for i in range(250)), "x" * 1500]


def kept(seed: int = 0) -> Entry:
    """Return what is known of some text."""
    vector = np.arange(seed, seed + DIMENSIONS, dtype=np.float32)
    return Entry(vector, 3 + seed, 5 + seed, is_exact=seed % 2 == 0)


def cost(text: str) -> int:
    """Return what an entry counts."""
    return sys.getsizeof(text) + DIMENSIONS * 4 + ENTRY_BYTES


def same(first: Entry, second: Entry) -> bool:
    """Tell whether two entries say the same."""
    return first[1:] == second[1:] and bool((first.vector == second.vector).all())


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 128 * KIB))
def test_a_bounded_list_of_the_latest(seed: int, limit: int) -> None:
    """It holds what a plain list of the latest would, never more bytes, and tells them apart."""
    random = Random(seed)
    # Some texts are asked for more than others.
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
    """A text is known behind the prompt that it was read with, and by its place in a request."""
    recent = EmbeddingCache(MIB)
    recent.keep("find: fox", kept(1))
    recent.keep("dog", kept(2))
    asked = ["dog", "fox", "dog"]
    assert set(recent.find("", asked)) == {0, 2}
    assert set(recent.find("find: ", asked)) == {1}
    assert same(recent.find("find: ", asked)[1], kept(1))
    assert recent.take_counts() == (4, 5)


def test_the_least_recently_used_goes_first() -> None:
    """A text that was asked for again stays; one that came before it and was not is dropped."""
    recent = EmbeddingCache(64 * cost("00"))
    names = [f"{number:02}" for number in range(65)]
    for name in names[:64]:
        recent.keep(name, kept())
    recent.find("", [names[0]])
    recent.keep(names[64], kept())
    assert sorted(recent.find("", names)) == [0, *range(2, 65)]


def test_a_long_text_is_not_kept() -> None:
    """One text takes a 64th of the room at most, and pushes nothing out when it is larger."""
    recent = EmbeddingCache(64 * cost("x" * 1000))
    recent.keep("x" * 1001, kept())
    assert len(recent) == 0
    recent.keep("x" * 1000, kept())
    assert recent.held_bytes == cost("x" * 1000)


def test_vectors_are_copies() -> None:
    """Neither who gave a vector nor who got it can change what is kept."""
    recent = EmbeddingCache(MIB)
    given_vector = np.ones((4, DIMENSIONS), dtype=np.float32)
    recent.keep("fox", Entry(given_vector[1], 3, 3, is_exact=True))
    given_vector[:] = 7
    got = recent.find("", ["fox"])[0].vector
    np.testing.assert_array_equal(got, np.ones(DIMENSIONS))
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 7


def test_the_collector_follows_no_entry() -> None:
    """However much is kept, a collection has no more to walk over."""
    recent = EmbeddingCache(16 * MIB)
    recent.find("", ["before"])
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1000):
        recent.keep(f"text {number}", kept())
    assert len(recent) == 1000
    assert len(gc.get_objects()) - before < 100


def test_cleared() -> None:
    """What is dropped is found no more and counts no more."""
    recent = EmbeddingCache(MIB)
    recent.keep("fox", kept())
    recent.clear()
    assert (len(recent), recent.held_bytes, recent.find("", ["fox"])) == (0, 0, {})

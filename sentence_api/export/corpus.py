"""Varied texts to compare an artifact with its source: many lengths, many scripts."""

from __future__ import annotations

import random

TEXTS = 240

# ruff: noqa: RUF001 - characters that look alike are the point
# A few phrases per script, chosen because tokenizers treat them differently.
_PHRASES = (
    "What is machine learning?",
    "The quick brown fox jumps over the lazy dog, twice.",
    "Refunds are processed within 14 business days of receipt.",
    "Wie wird das Wetter am Wochenende in Zürich?",
    "¿Dónde está la biblioteca más cercana, por favor?",
    "L'été dernier, nous avons visité le château de Chenonceau.",
    "Какая сегодня погода в Москве и что надеть?",
    "Πού βρίσκεται το πλησιέστερο φαρμακείο;",
    "ما هي عاصمة فرنسا وكم عدد سكانها؟",
    "מה השעה עכשיו בירושלים?",
    "मशीन लर्निंग क्या है और यह कैसे काम करता है?",
    "การเรียนรู้ของเครื่องคืออะไร",
    "机器学习是什么？它和统计学有什么区别？",
    "機械学習とは何ですか。例を挙げてください。",
    "기계 학습이란 무엇이며 어디에 쓰입니까?",
    "def add(a: int, b: int) -> int:\n    return a + b  # O(1)",
    "SELECT name, COUNT(*) FROM orders GROUP BY name HAVING COUNT(*) > 3;",
    "3.14159 2,718,281 1e-9 0xDEADBEEF 192.0.2.17 2026-11-21T09:30:00Z",
    "🙂 emoji, ligatures ﬁ ﬂ, accents é ü ñ, and a zero\u200bwidth space",
    "ALL CAPS, MiXeD cAsE and snake_case_identifiers-with-dashes",
)


def varied_texts(max_tokens: int) -> list[str]:
    """Return `TEXTS` texts from one word to beyond `max_tokens` tokens, the same every time."""
    choose = random.Random(20260101)  # noqa: S311 - repeatable, not secret
    # Texts beyond 512 tokens show nothing new but cost seconds each, so few are longer.
    common = min(max_tokens, 512)
    longest = [max_tokens + 50, max_tokens]
    texts = [*_PHRASES, "a", "?", "機", "Ja.", "OK"]
    while len(texts) < TEXTS:
        words_wanted = longest.pop() if longest else int(common ** choose.random()) + 1
        texts.append(_text(choose, words_wanted))
    return texts


def _text(choose: random.Random, words_wanted: int) -> str:
    """Return phrases strung together and cut to `words_wanted` words."""
    words: list[str] = []
    while len(words) < words_wanted:
        words += choose.choice(_PHRASES).split()
    return " ".join(words[:words_wanted])

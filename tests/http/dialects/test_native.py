import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict

from sentence_api.errors import InvalidValue, MalformedJson, ServiceError, TooManyItems
from sentence_api.http.dialect import Limits
from sentence_api.http.dialects.native import parse_batch, parse_query

LIMITS = Limits(max_items=3)
OPTIONS = {
    "normalize": True,
    "input_type": None,
    "dimensions": None,
    "encoding_format": "float",
    "truncate": True,
}
ROOT = Path(__file__).parents[3]
WORDS = "the user's own words"


def encoded(body: dict[str, Any]) -> bytes:
    """Return a request body."""
    return json.dumps(body).encode()


def refusal(body: bytes, max_items: int | None = None) -> tuple[type, str, str | None]:
    """Return class, message and field of the error for a body; `max_items` selects a batch."""
    with pytest.raises(ServiceError) as caught:
        if max_items is None:
            parse_query(body, LIMITS)
        else:
            parse_batch(body, Limits(max_items))
    return type(caught.value), caught.value.message, caught.value.param


def test_a_query_with_defaults() -> None:
    """A query needs only a question."""
    assert asdict(parse_query(b'{"question":"Why?"}', LIMITS)) == {"question": "Why?", **OPTIONS}


def test_a_batch_with_defaults() -> None:
    """A batch needs only questions, which stay in order, duplicates included."""
    body = b'{"questions":["b","a","b"]}'
    assert asdict(parse_batch(body, LIMITS)) == {"questions": ["b", "a", "b"], **OPTIONS}


def test_every_option() -> None:
    """Both calls take the same options."""
    options = {
        "normalize": False,
        "input_type": "document",
        "dimensions": 1,
        "encoding_format": "base64",
        "truncate": False,
    }
    query = parse_query(encoded({"question": "a", **options}), LIMITS)
    batch = parse_batch(encoded({"questions": ["a"], **options}), LIMITS)
    assert asdict(query) == {"question": "a", **options}
    assert asdict(batch) == {"questions": ["a"], **options}


@pytest.mark.parametrize("text", ["a", " a ", "\u3042", "\n?\n", "\u200b", "\U0001f642", "a\0b"])
def test_texts_are_taken_as_they_are(text: str) -> None:
    """Any script, control characters and outer blanks reach the model unchanged."""
    assert parse_query(encoded({"question": text}), LIMITS).question == text
    unescaped = json.dumps({"question": text}, ensure_ascii=False).encode()
    assert parse_query(unescaped, LIMITS).question == text


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(b'{"question":"a"', id="unclosed"),
        pytest.param(b'{"question":"a"} x', id="trailing"),
        pytest.param(b"{'question':'a'}", id="single quotes"),
        pytest.param(b'{"question":"\xff"}', id="not UTF-8"),
        pytest.param('{"question":"é"}'.encode("latin-1"), id="Latin 1"),
        pytest.param('{"question":"a"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"question":"\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"question":"a\nb"}', id="raw line break"),
    ],
)
def test_malformed_json(body: bytes) -> None:
    """Malformed JSON or invalid UTF-8 is not reported as an invalid value, for both calls."""
    batch = body.replace(b'"question":"', b'"questions":["')
    if batch != body:
        batch = b'"]'.join(batch.rsplit(b'"', 1))
    for each, max_items in ((body, None), (batch, 10)):
        kind, message, param = refusal(each, max_items)
        assert (kind, param) == (MalformedJson, None)
        assert message.startswith("the body is not valid JSON: ")
        assert "\n" not in message


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "question is missing", "question"),
        ({"question": None}, "question must be a string", "question"),
        ({"question": 5}, "question must be a string", "question"),
        ({"question": ["a"]}, "question must be a string", "question"),
        ({"question": ""}, "question must not be empty", "question"),
        ({"question": " \n\t\u3000"}, "question must not be blank", "question"),
        (
            {"question": "a", "normalise": True},
            "normalise is not a field of this call",
            "normalise",
        ),
        ({"question": "a", "questions": []}, "questions is not a field of this call", "questions"),
        ({"question": "a", "normalize": 1}, "normalize must be true or false", "normalize"),
        ({"question": "a", "normalize": "true"}, "normalize must be true or false", "normalize"),
        ({"question": "a", "truncate": None}, "truncate must be true or false", "truncate"),
        ({"question": "a", "dimensions": "1"}, "dimensions must be a whole number", "dimensions"),
        ({"question": "a", "dimensions": 1.5}, "dimensions must be a whole number", "dimensions"),
        ({"question": "a", "dimensions": True}, "dimensions must be a whole number", "dimensions"),
        (
            {"question": "a", "dimensions": 0},
            "dimensions must be at least 1",
            "dimensions",
        ),
        (
            {"question": "a", "input_type": "passage"},
            "input_type must be 'query' or 'document'",
            "input_type",
        ),
        (
            {"question": "a", "encoding_format": "int8"},
            "encoding_format must be 'float' or 'base64'",
            "encoding_format",
        ),
    ],
)
def test_an_invalid_query(body: dict[str, Any], message: str, param: str) -> None:
    """The first invalid field is named with its valid form; nothing is converted or ignored."""
    assert refusal(encoded(body)) == (InvalidValue, message, param)


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "questions is missing", "questions"),
        ({"questions": "a"}, "questions must be a list", "questions"),
        ({"questions": {"0": "a"}}, "questions must be a list", "questions"),
        ({"questions": []}, "questions must not be empty", "questions"),
        ({"questions": ["a", 1, None]}, "questions.1 must be a string", "questions.1"),
        ({"questions": ["a", "b", ""]}, "questions.2 must not be empty", "questions.2"),
        ({"questions": ["a", " ", ""]}, "questions.1 must not be blank", "questions.1"),
        ({"questions": [["a"]]}, "questions.0 must be a string", "questions.0"),
        ({"questions": ["a"], "model": "x"}, "model is not a field of this call", "model"),
    ],
)
def test_an_invalid_batch(body: dict[str, Any], message: str, param: str) -> None:
    """The index of the first invalid text is named."""
    assert refusal(encoded(body), 10) == (InvalidValue, message, param)


REPEATED = [b"1", b'""', b"null", b"[]", b"{}", b'"a"', b'{"":1}', b"[" * 99 + b"]" * 99]


def peak_growth(body: str) -> tuple[int, float]:
    """Return the bytes and seconds of parsing in a separate process.

    Args:
        body: A Python expression over `many`, which repeats an item up to 2 MB.
    """
    program = f"""
import re, sys, time
from pathlib import Path
from sentence_api.errors import ServiceError
from sentence_api.http.dialect import Limits
from sentence_api.http.dialects.native import parse_batch
def many(start, item, end):
    return start + b",".join([item] * (2_000_000 // (len(item) + 1))) + end
def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
body = {body}
Path("/proc/self/clear_refs").write_text("5")
before = kib("VmRSS")
started = time.perf_counter()
try:
    parse_batch(body, Limits(256))
except ServiceError:
    pass
print((kib("VmHWM") - before) * 1024, time.perf_counter() - started)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    size, seconds = done.stdout.split()
    return int(size), float(seconds)


@pytest.mark.parametrize(
    "body",
    [
        *[f"""many(b'{{"questions":[', {item!r}, b']}}')""" for item in REPEATED],
        """many(b'{"questions":["a"],"x":[', b'[]', b']}')""",
        """b'{"questions":["a"],' + b','.join(b'"%d":1' % i for i in range(200_000)) + b'}'""",
        """many(b'{', b'"questions":["a"]', b'}')""",
        """b'{"questions":' + b'[' * 2_000_000""",
    ],
)
def test_an_invalid_body_of_two_megabytes_is_refused_cheaply(body: str) -> None:
    """The first fault ends the parsing, with memory of a few times the body and little time."""
    size, seconds = peak_growth(body)
    assert size < 12 << 20
    assert seconds < 0.25


@pytest.mark.parametrize(
    "body",
    [
        b'{"%s":"a","%s":"b"}',
        b'{"normalize":true,"%s":"a","normalize":true}',
        b'{"%s":"a: b \\" c:","\\u0071uestion":"a"}',
    ],
)
def test_a_field_that_stands_twice(body: bytes) -> None:
    """A duplicate field is refused: a proxy may read the first value and this server the last."""
    expected = (MalformedJson, "the body names a field twice", None)
    assert refusal(body.replace(b"%s", b"question")) == expected
    batch = body.replace(b"%s", b"questions").replace(b"0071uestion", b"0071uestions")
    for text in (b'"a: b \\" c:"', b'"a"', b'"b"'):
        batch = batch.replace(b":" + text, b":[" + text + b"]")
    assert refusal(batch, 10) == expected


@pytest.mark.parametrize("text", ['a "quoted" word', "a: b", '{"question": "a", "question": "b"}'])
def test_quotes_and_colons_within_texts(text: str) -> None:
    """Texts that look like JSON are texts."""
    query = encoded({"question": text, "normalize": False, "dimensions": 3})
    assert parse_query(query, LIMITS).question == text
    batch = encoded({"questions": [text] * 256, "encoding_format": "base64", "truncate": True})
    assert parse_batch(batch, Limits(256)).questions == [text] * 256


@pytest.mark.parametrize("body", [b"[]", b'"question"', b"1", b"null", b"true"])
def test_a_body_that_is_no_object(body: bytes) -> None:
    """JSON other than an object is an invalid value without a field."""
    for max_items in (None, 10):
        assert refusal(body, max_items) == (InvalidValue, "the body must be an object", None)


def test_too_many_texts() -> None:
    """A request may have as many texts as the plan says and no more."""
    body = encoded({"questions": ["a"] * 4})
    assert len(parse_batch(body, Limits(4)).questions) == 4
    message = "4 texts in one request, at most 3 are accepted; send several requests"
    assert refusal(body, 3) == (TooManyItems, message, "questions")


def test_far_too_many_texts() -> None:
    """A body of certainly far too many texts is refused with a lower bound of their number."""
    body = encoded({"questions": ["a"] * 1000})
    message = "at least 993 texts in one request, at most 3 are accepted; send several requests"
    assert refusal(body, 3) == (TooManyItems, message, "questions")


@pytest.mark.parametrize(
    "body",
    [
        b'{"question":"%s"',
        b'{"question":["%s"]}',
        b'{"question":{"%s":1}}',
        b'{"question":"a","normalize":"%s"}',
        b'{"question":"a","input_type":"%s"}',
        b'{"question":"a","dimensions":"%s"}',
        b'{"question":"a","encoding_format":"%s"}',
        b'"%s"',
        b"%s",
    ],
)
def test_the_input_is_never_echoed(body: bytes) -> None:
    """No error repeats the user's input."""
    for max_items in (None, 10):
        _, message, param = refusal(body % WORDS.encode(), max_items)
        assert WORDS not in f"{message} {param}"


def test_an_unknown_field_is_named_briefly() -> None:
    """The name of an unknown field is repeated, but shortened."""
    _, message, param = refusal(encoded({"question": "a", "x" * 100_000: 1}))
    assert len(f"{message} {param}") < 1000

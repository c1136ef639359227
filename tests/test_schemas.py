import json
from typing import Any

import pytest

from sentence_api.errors import InvalidValue, MalformedJson, ServiceError, TooManyItems
from sentence_api.http.schemas import parse_batch, parse_query

OPTIONS = {
    "normalize": True,
    "input_type": None,
    "dimensions": None,
    "encoding_format": "float",
    "truncate": True,
}
WORDS = "the user's own words"


def encoded(body: dict[str, Any]) -> bytes:
    """Return a request body."""
    return json.dumps(body).encode()


def refusal(body: bytes, max_items: int | None = None) -> tuple[type, str, str | None]:
    """Return class, message and field of the error for a body; a batch if `max_items` is given."""
    with pytest.raises(ServiceError) as caught:
        if max_items is None:
            parse_query(body)
        else:
            parse_batch(body, max_items)
    return type(caught.value), caught.value.message, caught.value.param


def test_a_query_with_defaults() -> None:
    """A question alone is enough."""
    assert parse_query(b'{"question":"Why?"}').model_dump() == {"question": "Why?", **OPTIONS}


def test_a_batch_with_defaults() -> None:
    """Questions alone are enough, and stay in order, repeated or not."""
    body = b'{"questions":["b","a","b"]}'
    assert parse_batch(body, 3).model_dump() == {"questions": ["b", "a", "b"], **OPTIONS}


def test_every_option() -> None:
    """Both calls take the same options."""
    options = {
        "normalize": False,
        "input_type": "document",
        "dimensions": 1,
        "encoding_format": "base64",
        "truncate": False,
    }
    query = parse_query(encoded({"question": "a", **options}))
    batch = parse_batch(encoded({"questions": ["a"], **options}), 1)
    assert query.model_dump() == {"question": "a", **options}
    assert batch.model_dump() == {"questions": ["a"], **options}


@pytest.mark.parametrize("text", ["a", " a ", "\u3042", "\n?\n", "\u200b", "\U0001f642", "a\0b"])
def test_texts_are_taken_as_they_are(text: str) -> None:
    """Any script, control characters and outer blanks reach the model unchanged."""
    assert parse_query(encoded({"question": text})).question == text
    assert parse_query(json.dumps({"question": text}, ensure_ascii=False).encode()).question == text


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
        pytest.param(b'{"question":' + b"[" * 10_000, id="deep"),
    ],
)
def test_malformed_json(body: bytes) -> None:
    """What is not JSON in UTF-8 is told from a wrong value, for both calls."""
    for max_items in (None, 10):
        kind, message, param = refusal(body, max_items)
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
            "dimensions input should be greater than or equal to 1",
            "dimensions",
        ),
        (
            {"question": "a", "input_type": "passage"},
            "input_type input should be 'query' or 'document'",
            "input_type",
        ),
        (
            {"question": "a", "encoding_format": "int8"},
            "encoding_format input should be 'float' or 'base64'",
            "encoding_format",
        ),
    ],
)
def test_an_invalid_query(body: dict[str, Any], message: str, param: str) -> None:
    """The first field at fault is named, with what it must be; nothing is converted or ignored."""
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
    """The index of the first text at fault is named."""
    assert refusal(encoded(body), 10) == (InvalidValue, message, param)


@pytest.mark.parametrize("body", [b"[]", b'"question"', b"1", b"null", b"true"])
def test_a_body_that_is_no_object(body: bytes) -> None:
    """JSON of another kind is an invalid value without a field."""
    for max_items in (None, 10):
        assert refusal(body, max_items) == (InvalidValue, "the body must be an object", None)


def test_too_many_texts() -> None:
    """A request may hold as many texts as the plan says and not one more."""
    body = encoded({"questions": ["a"] * 4})
    assert len(parse_batch(body, 4).questions) == 4
    message = "4 texts in one request, at most 3 are accepted; send several requests"
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
    """No error repeats what the user wrote."""
    for max_items in (None, 10):
        _, message, param = refusal(body % WORDS.encode(), max_items)
        assert WORDS not in f"{message} {param}"


def test_an_unknown_field_is_named_briefly() -> None:
    """The name of an unknown field may be repeated, but not a body's worth of it."""
    _, message, param = refusal(encoded({"question": "a", "x" * 100_000: 1}))
    assert len(f"{message} {param}") < 1000

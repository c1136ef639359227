"""Native dialect: `POST /query` and `POST /query/batch`.

Bodies are validated while they are parsed, so that the first fault ends the parsing. A validator
that parses first and collects every error made 800 MiB of a body of 2 MB
(docs/adr/0019-bodies-in-one-pass.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from sentence_api.engine.artifact import Manifest
from sentence_api.errors import InvalidValue, MalformedJson, ServiceError, TooManyItems
from sentence_api.http.dialect import (
    Dialect,
    EncodingFormat,
    InputType,
    Limits,
    Refusal,
    encoded_vector,
)
from sentence_api.serving.model import Embeddings


class Options(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options that both query calls accept beside their texts."""

    normalize: bool = True
    input_type: InputType | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: EncodingFormat = "float"
    truncate: bool = True


class Query(Options, frozen=True, kw_only=True):
    """Body of `POST /query`."""

    question: str

    @property
    def texts(self) -> Sequence[str]:
        """The one text."""
        return [self.question]

    def field_of(self, index: int) -> str:
        """Return the field that holds a text."""
        return "question"


class BatchQuery(Options, frozen=True, kw_only=True):
    """Body of `POST /query/batch`; `parse_batch` checks the number of texts."""

    questions: Annotated[list[str], Meta(min_length=1)]

    @property
    def texts(self) -> Sequence[str]:
        """The texts in order."""
        return self.questions

    def field_of(self, index: int) -> str:
        """Return the field that holds a text."""
        return f"questions.{index}"


Body = TypeVar("Body", bound=Options)
_QUERY = msgspec.json.Decoder(Query)
_BATCH = msgspec.json.Decoder(BatchQuery)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.S)
# Strings in a body beside its texts: the names of all fields, and two values.
_OTHER_STRINGS = len(BatchQuery.__struct_fields__) + 2
# From this multiple of the allowed number on, texts are not parsed to be counted.
_FAR_TOO_MANY = 8


def parse_query(body: bytes, _limits: Limits) -> Query:
    """Return the validated body of `POST /query`.

    Raises:
        MalformedJson: It is not JSON, or names a field twice.
        InvalidValue: A field is missing, unknown, of the wrong type or out of range.
    """
    query = _decode(_QUERY, body)
    if _is_blank(query.question):
        raise _blank(query.question, "question")
    return query


def parse_batch(body: bytes, limits: Limits) -> BatchQuery:
    """Return the validated body of `POST /query/batch`.

    Raises:
        MalformedJson: It is not JSON, or names a field twice.
        InvalidValue: A field is missing, unknown, of the wrong type or out of range.
        TooManyItems: It holds more than `limits.max_items` texts.
    """
    max_items = limits.max_items
    # Half a million one-letter texts would take 40 MiB and 0.2 s. Every string has an opening
    # quote with no backslash before it, and at most one more such quote.
    least = (body.count(b'"') - body.count(b'\\"')) // 2 - _OTHER_STRINGS
    if least > _FAR_TOO_MANY * max_items:
        raise _too_many(f"at least {least}", max_items)
    query = _decode(_BATCH, body)
    if len(query.questions) > max_items:
        raise _too_many(str(len(query.questions)), max_items)
    for index, text in enumerate(query.questions):
        if _is_blank(text):
            raise _blank(text, f"questions.{index}")
    return query


def _decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """Decode a body; the first fault, whatever follows it, ends it."""
    try:
        query = decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _refusal(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        reason = str(exc).removeprefix("JSON is malformed: ").lower()
        if isinstance(exc, UnicodeDecodeError):
            reason = "it is not UTF-8"
        raise MalformedJson(f"the body is not valid JSON: {reason}") from exc
    # In a body of these shapes each colon outside of strings belongs to a field.
    colons = body.count(b":")
    if colons > 1 and _STRING.sub(b"", body).count(b":") > len(_FIELDS.decode(body)):
        raise MalformedJson("the body names a field twice")
    return query


def _too_many(count: str, max_items: int) -> TooManyItems:
    """Return the refusal of a request of too many texts."""
    return TooManyItems(
        f"{count} texts in one request, at most {max_items} are accepted; send several requests",
        param="questions",
    )


def _is_blank(text: str) -> bool:
    """Return whether a text holds nothing to embed."""
    return not text or text.isspace()


def _blank(text: str, param: str) -> InvalidValue:
    """Return the refusal of a blank text."""
    return InvalidValue(f"{param} must not be {'blank' if text else 'empty'}", param=param)


_PARAM_CHARACTERS = 100
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.S)
_FIELD_REASONS = {
    "missing required": "is missing",
    "contains unknown": "is not a field of this call",
}
_PLACE = re.compile(r"(.*) - at `\$\.(.*)`", re.S)
# msgspec's messages by their beginnings, and ours.
_REASONS = {
    "Expected `array` of length": "must not be empty",
    "Expected `int` >= 1": "must be at least 1",
    "Expected `str | null`": "must be a string",
    "Expected `str`": "must be a string",
    "Expected `bool`": "must be true or false",
    "Expected `int | null`": "must be a whole number",
    "Expected `array`": "must be a list",
    "Integer value out of range": "is out of range",
}
_CHOICES = {"input_type": InputType, "encoding_format": EncodingFormat}


def _refusal(message: str) -> ServiceError:
    """Turn msgspec's message into ours, which never repeats the input."""
    of_field = _FIELD.fullmatch(message)
    if of_field:
        # The name of an unknown field is the client's, and can be a body long.
        param = of_field[2][:_PARAM_CHARACTERS]
        return InvalidValue(f"{param} {_FIELD_REASONS[of_field[1]]}", param=param)
    placed = _PLACE.fullmatch(message)
    if placed is None:
        return InvalidValue("the body must be an object")
    param = placed[2].replace("[", ".").replace("]", "")
    if message.startswith("Invalid enum value"):
        reason = "must be " + " or ".join(map(repr, get_args(_CHOICES[param])))
    else:
        found = (ours for theirs, ours in _REASONS.items() if message.startswith(theirs))
        reason = next(found, "is invalid")
    return InvalidValue(f"{param} {reason}", param=param)


def render_query(query: Query, encoded: Embeddings, manifest: Manifest) -> dict[str, Any]:
    """Return the body of a response to `POST /query`."""
    return {
        "embedding": encoded_vector(encoded.vectors[0], query.encoding_format),
        "dimensions": encoded.vectors.shape[1],
        "model": manifest.model,
        "tokens": encoded.tokens,
        "truncated": bool(encoded.truncated),
    }


def render_batch(query: BatchQuery, encoded: Embeddings, manifest: Manifest) -> dict[str, Any]:
    """Return the body of a response to `POST /query/batch`."""
    return {
        "embeddings": [encoded_vector(each, query.encoding_format) for each in encoded.vectors],
        "count": len(encoded.vectors),
        "dimensions": encoded.vectors.shape[1],
        "model": manifest.model,
        "tokens": encoded.tokens,
        "truncated": encoded.truncated,
    }


def render_error(refusal: Refusal) -> dict[str, Any]:
    """Return the body of an error; routes without a dialect use it too."""
    return {
        "error": {
            "type": refusal.type,
            "code": refusal.code,
            "message": refusal.message,
            "param": refusal.param,
            "request_id": refusal.request_id,
        }
    }


QUERY = Dialect("/query", parse_query, render_query, render_error)
QUERY_BATCH = Dialect("/query/batch", parse_batch, render_batch, render_error)

"""The request bodies: validated straight from the bytes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sentence_api.errors import InvalidValue, MalformedJson, ServiceError, TooManyItems

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]


class Options(BaseModel):
    """What both query calls accept beside their texts."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    normalize: bool = True
    input_type: Literal["query", "document"] | None = None
    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float", "base64"] = "float"
    truncate: bool = True


class Query(Options):
    """Body of `POST /query`."""

    question: Text

    def field_of(self, index: int) -> str:
        """Return the field that holds a text."""
        return "question"


class BatchQuery(Options):
    """Body of `POST /query/batch`; `parse_batch` checks the number of texts."""

    questions: Annotated[list[Text], Field(min_length=1)]

    def field_of(self, index: int) -> str:
        """Return the field that holds a text."""
        return f"questions.{index}"


def parse_query(body: bytes) -> Query:
    """Return the validated body of `POST /query`.

    Raises:
        MalformedJson: It is not JSON.
        InvalidValue: A field is missing, unknown, of the wrong type or out of range.
    """
    try:
        return Query.model_validate_json(body)
    except ValidationError as exc:
        raise _refusal(exc) from exc


def parse_batch(body: bytes, max_items: int) -> BatchQuery:
    """Return the validated body of `POST /query/batch`.

    Raises:
        MalformedJson: It is not JSON.
        InvalidValue: A field is missing, unknown, of the wrong type or out of range.
        TooManyItems: It holds more than `max_items` texts.
    """
    try:
        query = BatchQuery.model_validate_json(body)
    except ValidationError as exc:
        raise _refusal(exc) from exc
    if len(query.questions) > max_items:
        raise TooManyItems(
            f"{len(query.questions)} texts in one request, at most {max_items} are accepted;"
            " send several requests",
            param="questions",
        )
    return query


_PARAM_CHARACTERS = 100
_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "is not a field of this call",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must not be blank",
}


def _refusal(exc: ValidationError) -> ServiceError:
    """Turn the first validation error into ours, never echoing the input."""
    error = exc.errors(include_url=False, include_input=False, include_context=True)[0]
    if error["type"] == "json_invalid":
        return MalformedJson(f"the body is not valid JSON: {error['ctx']['error']}")
    # The name of an unknown field is the client's, and can be a body long.
    param = ".".join(str(part) for part in error["loc"])[:_PARAM_CHARACTERS] or None
    reason = _MESSAGES.get(error["type"], error["msg"][:1].lower() + error["msg"][1:])
    return InvalidValue(f"{param or 'the body'} {reason}", param=param)

"""Responses: JSON by orjson, which renders float32 arrays without a copy into lists."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
import orjson
from flask import Response
from numpy.typing import NDArray


def json_response(body: Any, status: int = 200) -> Response:
    """Return `body` as a JSON response; it may hold numpy arrays."""
    return Response(
        orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE),
        status,
        content_type="application/json",
    )


def rendered(vector: NDArray[np.float32], encoding: Literal["float", "base64"]) -> Any:
    """Return a vector as the client asked for it: numbers, or little-endian float32 in base64."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
    return vector

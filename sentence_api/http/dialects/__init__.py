"""Table of dialects: everything that depends on the paths of embedding requests derives from it."""

from __future__ import annotations

from typing import Any

from sentence_api.http.dialect import Dialect
from sentence_api.http.dialects import native

DIALECTS: tuple[Dialect[Any], ...] = (
    native.QUERY,
    native.QUERY_BATCH,
)

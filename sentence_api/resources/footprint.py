"""What a model costs in memory.

Measured when the model is exported (`engine/probe.py`) and kept in its manifest. The reference
below stands in for the bundled model until it has been exported on this machine, and is what the
sizing table of the README is rendered from; a test compares it with a fresh measurement.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sentence_api.resources.sizes import KIB, MIB


class Footprint(BaseModel):
    """Memory of one model in one precision, in bytes.

    Attributes:
        base_bytes: The master with the model loaded: one copy, shared by all workers.
        worker_bytes: Private to each worker after its warm-up, before any large batch.
        token_bytes: What a worker grows by per padded token of its largest forward pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_bytes: int = Field(gt=0)
    worker_bytes: int = Field(gt=0)
    token_bytes: int = Field(gt=0)

    def per_worker_bytes(self, batch_tokens: int) -> int:
        """Return one worker's private memory when its passes hold up to `batch_tokens`."""
        return self.worker_bytes + self.token_bytes * batch_tokens


# all-MiniLM-L6-v2 in float32 on an EPYC without AVX-512, rounded up; bfloat16 needs less.
REFERENCE = Footprint(
    base_bytes=256 * MIB,
    worker_bytes=20 * MIB,
    token_bytes=28 * KIB,
)

"""Footprint: the memory that a model costs.

Measured when the model is exported (`export/probe.py`) and kept in its manifest. The reference
below stands in for the bundled model until it has been exported on this machine. The sizing table
of the README is rendered from it; a test compares it with a fresh measurement.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sentence_api.resources.sizes import KIB, MIB

# Program files in continued use count as active once memory is short: 13 MiB of 91 in a container
# of 512 MiB under full load, 7 MiB in a container with room to spare.
ACTIVE_FILE_SHARE = 0.14


class Footprint(BaseModel):
    """Memory of one model in one precision, in bytes.

    Attributes:
        base_bytes: The master with the model loaded: one copy, shared by all workers.
        file_bytes: Pages of program files that the master maps besides. The kernel counts most of
            them as inactive and reads them again at need, so only `ACTIVE_FILE_SHARE` of them is
            part of the working set; serving without room for them would be slow. An older artifact
            counts them in its base.
        worker_bytes: Private to each worker after its warm-up, before any large batch.
        token_bytes: Growth of a worker per padded token of its largest forward pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_bytes: int = Field(gt=0)
    file_bytes: int = Field(0, ge=0)
    worker_bytes: int = Field(gt=0)
    token_bytes: int = Field(gt=0)

    @property
    def resident_bytes(self) -> int:
        """Working set of the memory that all workers share."""
        return self.base_bytes + int(ACTIVE_FILE_SHARE * self.file_bytes)

    @property
    def shared_bytes(self) -> int:
        """Memory that is needed once, for any number of workers."""
        return self.base_bytes + self.file_bytes

    def per_worker_bytes(self, batch_tokens: int) -> int:
        """Return one worker's private memory when its passes hold up to `batch_tokens`."""
        return self.worker_bytes + self.token_bytes * batch_tokens


# all-MiniLM-L6-v2 in float32 on an EPYC without AVX-512, rounded up; bfloat16 needs less.
REFERENCE = Footprint(
    base_bytes=168 * MIB,
    file_bytes=88 * MIB,
    worker_bytes=28 * MIB,
    token_bytes=28 * KIB,
)

"""How close to the source model is close enough. Standard library only: the host tests with it."""

from __future__ import annotations

# Least cosine with the source model's vector that is served without being asked for.
MIN_COSINE = 0.999

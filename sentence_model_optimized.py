"""Public face of the model: text in, vectors out."""

from sentence_api.serving.model import Embeddings, SentenceModel

__all__ = ["Embeddings", "SentenceModel"]

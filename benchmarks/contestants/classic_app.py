"""The classic recipe: the server that most people write first, and many put into production.

Settings: CLASSIC_MODEL is the model's folder; CLASSIC_COLLECT=0 leaves out the forced collection.
"""

from __future__ import annotations

import gc
import os

import torch
from flask import Flask, Response, jsonify, request
from sentence_transformers import SentenceTransformer

torch.set_num_threads(2)
app = Flask(__name__)
model = SentenceTransformer(os.environ["CLASSIC_MODEL"], device="cpu")
collects = os.environ.get("CLASSIC_COLLECT") != "0"


@app.post("/query")
def query() -> Response:
    """Embed one text."""
    return jsonify(embedding=_encode([request.get_json()["question"]])[0])


@app.post("/query/batch")
def query_batch() -> Response:
    """Embed several texts."""
    return jsonify(embeddings=_encode(request.get_json()["questions"]))


@app.get("/health")
def health() -> Response:
    """Say that the model is loaded."""
    return jsonify(status="healthy")


def _encode(texts: list[str]) -> list[list[float]]:
    vectors: list[list[float]] = model.encode(texts, batch_size=4, show_progress_bar=False).tolist()
    return vectors


@app.after_request
def collect(response: Response) -> Response:
    """Free memory, as the recipe does."""
    if collects:
        gc.collect()
    return response

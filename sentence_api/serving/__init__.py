"""Batching, load state and memory of a serving process."""

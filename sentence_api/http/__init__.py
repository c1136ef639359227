"""The HTTP contract: schemas, errors and routes."""

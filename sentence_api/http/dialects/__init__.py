"""Dialects: request and response formats of the API, one file each."""

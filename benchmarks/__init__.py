"""Runnable measurements of the server, with dated results."""

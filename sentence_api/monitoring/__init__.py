"""Monitoring: metrics, history and status of a server."""

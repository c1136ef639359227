"""Monitoring: what a server counts, keeps and judges."""

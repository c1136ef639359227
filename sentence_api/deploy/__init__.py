"""Deployment from the host, with containers or without. Standard library only, but `local`."""

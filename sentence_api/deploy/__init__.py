"""Deployment from the host, with or without containers. Standard library only, except `local`."""

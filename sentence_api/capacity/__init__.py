"""Capacity: a load, what a server does under it, and what a load needs."""

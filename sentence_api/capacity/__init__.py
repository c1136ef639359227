"""Capacity: load generator, measurement and planner."""

"""Generations to one row per case."""

"""Composition, run and shutdown of a server."""

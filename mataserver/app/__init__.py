"""Composes a server, runs it and ends it."""

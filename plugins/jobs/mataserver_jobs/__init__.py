"""Durable jobs: work that takes minutes, shows how far it is, and survives its server."""

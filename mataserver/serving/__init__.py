"""Registered models in memory: loaded, held, asked, evicted. Policy, and no way to a client."""

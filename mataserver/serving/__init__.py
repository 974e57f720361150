"""Registered models in memory: load, dispatch, evict. Policy only, no protocol."""

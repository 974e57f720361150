"""Engines: run a model in a process or a thread, behind one small worker protocol."""

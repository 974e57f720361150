"""Engines: where a model runs. One small protocol, a process and a thread behind it."""

"""Warnings about requests that are answered all the same."""

from __future__ import annotations

from aiohttp import web

HEADER = "X-Warning"
WARNING: web.RequestKey[str] = web.RequestKey("warning", str)
"""The warning, which the answer carries unless it is an error, and the log."""


def warn(request: web.Request, sentence: str) -> None:
    """Warn the sender of a request; "" is no warning."""
    if sentence:
        request[WARNING] = sentence

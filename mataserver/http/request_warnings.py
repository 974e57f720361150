"""Warnings about requests that are answered all the same: in the answer's header, and the log."""

from __future__ import annotations

import logging

from aiohttp import web

from mataserver.logs import RateLimitedLog

HEADER = "X-Warning"
WARNING: web.RequestKey[str] = web.RequestKey("warning", str)
"""The warning, which the answer carries unless it is an error."""

_log = RateLimitedLog(logging.getLogger("mataserver.http"))


def warn(request: web.Request, sentence: str) -> None:
    """Tell a request's sender, and the log at most once per second; "" is no warning."""
    if sentence:
        request[WARNING] = sentence
        _log.warn(HEADER, f"{request.method} {request.rel_url.raw_path}: {sentence}")

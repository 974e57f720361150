"""aiohttp's sessions to servers: they keep no cookies and follow no redirects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from types import SimpleNamespace


class RedirectedError(aiohttp.ClientError):
    """A server that redirects: where to was checked by nobody."""


def client_session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """Return a session. ``RedirectedError`` is raised for a redirect.

    aiohttp can be told for each request, but not for a WebSocket, and follows redirects by itself.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_refuse)
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), connector=connector, trace_configs=[trace]
    )


async def _refuse(
    _session: aiohttp.ClientSession,
    _context: SimpleNamespace,
    redirect: aiohttp.TraceRequestRedirectParams,
) -> None:
    redirect.response.close()
    raise RedirectedError("the server redirects")

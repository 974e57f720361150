"""Which of the requests that aiohttp parses are answered at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import HttpVersion10, HttpVersion11, hdrs

if TYPE_CHECKING:
    from aiohttp import web

_VERSIONS = frozenset({HttpVersion10, HttpVersion11})
"""The supported HTTP versions. The parser also accepts HTTP/0.9, whose requests have no headers,
and a line that says HTTP/2.0."""


def is_valid(request: web.Request) -> bool:
    """Whether a request that was parsed is one that every HTTP reader understands alike.

    The version of one that is not is set to the one that its answer has.
    """
    if request._version not in _VERSIONS:  # noqa: SLF001 - the public one would be kept
        request._version = HttpVersion11  # noqa: SLF001 - aiohttp repeats it in the answer
        return False
    # RFC 9112, section 6.1: an HTTP/1.0 proxy does not know chunks, so framing may be ambiguous.
    # And the parser ignores what is before the chunks, as in "gzip, chunked".
    coding = request.headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None and (request.version == HttpVersion10 or coding.lower() != "chunked"):
        return False
    # Request targets have no fragment: a proxy in front might have judged a different path.
    return "#" not in request.raw_path

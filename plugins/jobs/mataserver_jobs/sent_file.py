"""A job's file as an answer."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from mataserver import Body

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aiohttp.abc import AbstractStreamWriter

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.IGNORECASE)
"""One range with its first and last byte, or with how many of the last ones."""


def also_of_file(*content_types: str) -> dict[int, tuple[Body, ...]]:
    """Return what a route that sends files answers beside a whole one, for ``Route.also``.

    A range of it; that it is still the file with that ``ETag``, or is not; that it has no such
    range.
    """
    return {206: tuple(map(Body, content_types)), 304: (), 412: (), 416: ()}


class SentFile(web.FileResponse):
    """A file, or the ``Range`` of it that is asked for; ``If-Range`` may hold its ``ETag``.

    aiohttp knows a date there alone: of a file that changed since, whoever goes on with a download
    would be sent the rest of another one (RFC 9110, 13.1.5).
    """

    def __init__(self, path: Path, headers: Mapping[str, str]) -> None:
        super().__init__(path, headers=headers)
        self._file = path

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it."""
        asked = _range_of(request)
        if asked is not None and not await self._unchanged(request):
            asked = None
        if request.headers.get(hdrs.RANGE) != asked:
            headers = request.headers.copy()
            headers.popall(hdrs.RANGE, None)
            if asked is not None:
                headers[hdrs.RANGE] = asked
            request = request.clone(headers=headers)
        return await super().prepare(request)

    async def _unchanged(self, request: web.BaseRequest) -> bool:
        """Whether the file is still the one that ``If-Range`` names, where it names one."""
        known = request.headers.get(hdrs.IF_RANGE)
        if known is None or request.if_range is not None:  # a date is for aiohttp to compare
            return True
        try:
            stat = await asyncio.to_thread(self._file.stat)
        except OSError:
            return False
        return known == f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'  # as aiohttp makes it


def _range_of(request: web.BaseRequest) -> str | None:
    """Return the range that is asked for as aiohttp answers it rightly; None for the whole.

    Who asks in a unit or a form that is not understood gets the whole, as does who asks for several
    ranges or by another method than GET (RFC 9110, 14.2); aiohttp would answer them with 416.
    """
    asked = request.headers.getall(hdrs.RANGE, [])
    found = _RANGE.fullmatch(asked[0].strip()) if len(asked) == 1 else None
    if request.method != hdrs.METH_GET or found is None:
        return None
    first, last, tail = found.groups()
    if tail is not None:  # no file has the none of its last bytes, which aiohttp takes for all
        return f"bytes=-{int(tail)}" if int(tail) else f"bytes={sys.maxsize}-"
    return None if last and int(last) < int(first) else f"bytes={first}-{last}"

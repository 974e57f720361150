"""A job's file as an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from mataserver import Body

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aiohttp.abc import AbstractStreamWriter


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
        if hdrs.RANGE in request.headers and not await self._unchanged(request):
            headers = request.headers.copy()
            del headers[hdrs.RANGE]
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

"""Routes for a folder of package data: pages, scripts, pictures, with ETag and a strict policy."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from mataserver.errors import NotFound
from mataserver.service import Route

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

POLICY = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'"
"""Content-Security-Policy: what a page may load is the server's own."""
_INDEX = "index.html"


def static(prefix: str, package: str, folder: str, *, policy: str = POLICY) -> tuple[Route, ...]:
    """Return routes that serve ``folder`` of a package's data below ``prefix``, to everybody.

    ``prefix/`` is its ``index.html``. Answers have an ``ETag``; an unchanged file is 304.
    """
    files = _Files(resources.files(package).joinpath(folder), policy)
    path = prefix.rstrip("/")
    return tuple(
        Route(method, f"{path}/{name}", files.get, public=True, documented=False)
        for name in ("", "{file:.+}")
        for method in ("GET", "HEAD")
    )


class _Files:
    def __init__(self, root: Traversable, policy: str) -> None:
        self._root = root
        self._policy = policy
        self._read: dict[str, tuple[bytes, str]] = {}

    async def get(self, request: web.Request) -> web.Response:
        name = request.match_info.get("file", _INDEX)
        data, tag = self._file(name)
        headers = {
            hdrs.ETAG: tag,
            hdrs.CACHE_CONTROL: "no-cache",  # asked again each time, and mostly answered 304
            "Content-Security-Policy": self._policy,
            "X-Content-Type-Options": "nosniff",
        }
        if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
            return web.Response(status=304, headers=headers)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        charset = "utf-8" if kind.startswith("text/") else None
        return web.Response(body=data, content_type=kind, charset=charset, headers=headers)

    def _file(self, name: str) -> tuple[bytes, str]:
        """Return a file and its tag, read once. Raises ``NotFound``."""
        if name not in self._read:
            parts = name.split("/")
            if any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts):
                raise NotFound("Not found")
            path = self._root.joinpath(*parts)
            if not path.is_file():
                raise NotFound("Not found")
            data = path.read_bytes()
            self._read[name] = (data, f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        return self._read[name]

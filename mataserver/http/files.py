"""Routes for a folder of package data: pages, scripts, pictures, with ETag and a strict CSP."""

from __future__ import annotations

import asyncio
import contextvars
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from mataserver.contract.routes import Route
from mataserver.errors import NotFound
from mataserver.http.accept_header import accepts_gzip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

POLICY = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'"
"""Content-Security-Policy: a page may load only the server's own resources."""
_INDEX = "index.html"
_TYPES = mimetypes.MimeTypes()
"""Python's own table and these: with ``nosniff`` a wrong entry of the system's breaks a page."""
for _suffix, _type in {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}.items():
    _TYPES.add_type(_type, _suffix)


def static(
    prefix: str,
    package: str,
    folder: str,
    *,
    policy: str = POLICY,
    made: Mapping[str, Callable[[], bytes]] | None = None,
) -> tuple[Route, ...]:
    """Return public routes that serve ``folder`` of a package's data below ``prefix``.

    ``prefix/`` is its ``index.html``. Answers have an ``ETag``; an unchanged file is 304. Files are
    compressed if that is worthwhile and the client accepts gzip. ``made`` has what returns the
    bytes of files that are not as they lie in the folder, or not there; it is called once, in a
    thread.
    """
    files = PackageFiles(package, folder, policy, made)
    path = prefix.rstrip("/")
    return tuple(
        Route(method, f"{path}/{name}", files.get, public=True, documented=False)
        for name in ("", "{file:.+}")
        for method in ("GET", "HEAD")
    )


@dataclass(frozen=True, slots=True)
class _File:
    """A file's contents; ``compressed`` is empty if compression saves less than a tenth."""

    data: bytes
    compressed: bytes
    tag: str

    @classmethod
    def of(cls, read: Callable[[], bytes]) -> _File:
        """Read and compress a file once for all requests."""
        data = read()
        compressed = gzip.compress(data, mtime=0)
        is_smaller = len(compressed) < 0.9 * len(data)
        return cls(data, compressed if is_smaller else b"", hashlib.sha256(data).hexdigest()[:16])


class PackageFiles:
    """The files of a folder of package data, each read once; see ``static``."""

    def __init__(
        self,
        package: str,
        folder: str,
        policy: str,
        made: Mapping[str, Callable[[], bytes]] | None = None,
    ) -> None:
        self._root = resources.files(package).joinpath(folder)
        self._made = made or {}
        self._policy = policy
        self._files: dict[str, asyncio.Task[_File]] = {}

    async def get(self, request: web.Request) -> web.Response:
        """Answer with the file that the path names. Raises ``NotFound``."""
        return await self.respond(request, request.match_info.get("file", _INDEX))

    async def respond(self, request: web.Request, name: str) -> web.Response:
        """Answer with a file. Raises ``NotFound``."""
        file = await self._load(name)
        accepted = request.headers.get(hdrs.ACCEPT_ENCODING, "")
        compressed = bool(file.compressed) and accepts_gzip(accepted)
        tag = f"{file.tag}{'-gzip' if compressed else ''}"  # each representation has its own
        headers = {
            hdrs.ETAG: f'"{tag}"',
            hdrs.CACHE_CONTROL: "no-cache",  # revalidated each time, mostly with a 304
            hdrs.VARY: hdrs.ACCEPT_ENCODING,
            "Content-Security-Policy": self._policy,
            "X-Content-Type-Options": "nosniff",
        }
        if tag in {each.value for each in request.if_none_match or ()}:
            return web.Response(status=304, headers=headers)
        if compressed:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        kind = _TYPES.guess_type(name)[0] or "application/octet-stream"
        charset = "utf-8" if kind.startswith("text/") else None
        body = file.compressed if compressed else file.data
        return web.Response(body=body, content_type=kind, charset=charset, headers=headers)

    async def _load(self, name: str) -> _File:
        """Return a file, read once for all who ask. Raises ``NotFound``."""
        task = self._files.get(name)
        if task is None:
            # In a thread: compressing a megabyte takes as long as several inferences.
            work = asyncio.to_thread(_File.of, self._source(name))
            # The task is kept: not with the context of whoever asked first.
            context = contextvars.Context()
            task = self._files[name] = asyncio.create_task(work, context=context)
            task.add_done_callback(lambda done: self._forget_failed(name, done))
        return await asyncio.shield(task)  # who leaves ends it for nobody else

    def _forget_failed(self, name: str, task: asyncio.Task[_File]) -> None:
        if task.cancelled() or task.exception() is not None:
            del self._files[name]

    def _source(self, name: str) -> Callable[[], bytes]:
        """Return what returns a file's bytes. Raises ``NotFound``."""
        if name in self._made:
            return self._made[name]
        parts = name.split("/")
        if any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts):
            raise NotFound("Not found")
        path = self._root.joinpath(*parts)
        if not path.is_file():
            raise NotFound("Not found")
        return path.read_bytes

"""The sources of a session's video: a download, base64 in the request, a file of the server."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver import BadRequest, InvalidParams, Policy, Unavailable, decode_base64

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from aiohttp import web

    from mataserver import Context
    from mataserver_sam.video_requests import StartRequest

MAX_REDIRECTS = 5


class VideoSources:
    """Provides the file of a request's video, and removes temporary files."""

    def __init__(self, ctx: Context) -> None:
        settings = ctx.settings
        self._run_blocking = ctx.run_blocking
        self._folder = ctx.data_dir / "sam" / "videos"
        self._roots: list[str] = settings.video_roots
        self._max_bytes = round(settings.max_video_mb * 1e6)
        self._outbound = ctx.http.outbound
        self._save = ctx.http.save_body
        self._policy = Policy(
            "video_url",
            max_bytes=self._max_bytes,
            timeout=settings.download_timeout_s,
            redirects=MAX_REDIRECTS,
            private=settings.allow_private_addresses,
        )

    @contextlib.asynccontextmanager
    async def file(self, asked: StartRequest) -> AsyncIterator[Path]:
        """Provide the file of a video until the context ends.

        Raises ``BadRequest`` for a video that cannot be fetched or is too large, ``Unavailable``
        when it cannot be stored.
        """
        if asked.video_path is not None:
            yield await self._run_blocking(resolve_allowed, asked.video_path, self._roots)
            return
        target = await self._run_blocking(self._new_file)
        try:
            if asked.video_url is not None:
                await self._download(asked.video_url, target)
            else:
                await self._run_blocking(self._write, asked.video_base64 or "", target)
            yield target
        finally:
            target.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def upload(self, request: web.Request) -> AsyncIterator[Path]:
        """Provide the file of the video in a request's body or form, until the context ends.

        Raises as ``ctx.http.save_body``, ``BadRequest`` for an empty body, and ``InvalidParams``
        for a field beside the file that is not empty.
        """
        folder = await self._run_blocking(self._new_folder)
        try:
            saved = await self._save(request, folder / "video")
            # The session would open without what was asked for; an empty field asks for nothing.
            for name in (name for name, text in saved.fields.items() if text):
                meant = "; write it into the query" if name == "session_id" else ""
                raise InvalidParams(f"{name[:64]}: unknown field of the form{meant}")
            if not saved.size:
                raise BadRequest("The video is empty")
            yield folder / "video"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _download(self, url: str, target: Path) -> None:
        async with self._outbound("GET", url, self._policy) as answer:
            if answer.status != 200:
                raise BadRequest(f"video_url: the server answered {answer.status}")
            await answer.save(target)

    def remove_leftovers(self) -> None:
        """Remove the files that a killed server left behind."""
        for file in self._folder.glob("*-*"):
            owner = file.name.partition("-")[0]
            if owner == str(os.getpid()) or not Path("/proc", owner).exists():
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)

    def _new_folder(self) -> Path:
        """Create an empty folder that only this user can read: an upload has a temporary part."""
        folder = self._folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise Unavailable("The video cannot be stored") from error
        return folder

    def _new_file(self) -> Path:
        """Create an empty file that only this user can read, named after the process id."""
        file = self._folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.touch(mode=0o600, exist_ok=False)
        except OSError as error:
            raise Unavailable("The video cannot be stored") from error
        return file

    def _write(self, text: str, target: Path) -> None:
        data = decode_base64(text, "video_base64")
        if len(data) > self._max_bytes:
            limit = self._max_bytes / 1e6
            raise BadRequest(f"video_base64: the video is larger than {limit:g} MB")
        try:
            target.write_bytes(data)
        except OSError as error:
            raise Unavailable("The video cannot be stored") from error


def resolve_allowed(path: str, roots: Iterable[str]) -> Path:
    """Return the file of ``path``, with every symbolic link resolved.

    Raises ``BadRequest`` unless that is a regular file under one of ``roots``; the error does not
    reveal whether files elsewhere exist.
    """
    refused = BadRequest(
        "video_path: there is no such file in the directories that plugins.sam.video_roots names"
    )
    try:
        real = Path(path).resolve(strict=True)
        regular = real.is_file()
    except (OSError, ValueError, RuntimeError):
        raise refused from None
    if not (regular and any(real.is_relative_to(Path(root).resolve()) for root in roots)):
        raise refused
    return real

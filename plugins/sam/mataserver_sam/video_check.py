"""Checks a video before the model is loaded for it: nobody waits minutes to learn that it is none.

FFmpeg reads the file in a child process, as it otherwise does in the model's: a crash, or a file
that takes all memory, harms neither the server nor other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mataserver import BadRequest, Unavailable
from mataserver_sam.limits import Limits

if TYPE_CHECKING:
    from mataserver import Context

TIMEOUT = 60.0
"""The seconds after which the check is given up: the model's process then decides."""


class VideoCheck:
    """Checks files in a child of the server."""

    def __init__(self, ctx: Context) -> None:
        self._log = ctx.log
        self._run = ctx.run_process
        settings = ctx.settings
        self._limits = Limits(
            settings.max_frames, settings.max_video_seconds, ctx.server.max_pixels
        )

    async def check(self, path: Path) -> None:
        """Raise ``BadRequest`` for a file that the model's process would refuse.

        Does nothing if the child fails or takes too long.
        """
        problem: str | None = None
        limits = msgspec.json.encode(self._limits).decode()
        with contextlib.suppress(Unavailable, TimeoutError, msgspec.DecodeError):
            async with self._run(__name__, (str(path), limits), threads=1) as child:
                async with asyncio.timeout(TIMEOUT):
                    problem = msgspec.json.decode(await child.output.readline(), type=str)
        if problem:
            raise BadRequest(problem)
        if problem is None:
            self._log.warning("a video could not be checked before the model is loaded")


def main() -> None:
    """Print why the file in the arguments is refused, as JSON; an empty text if it is not."""
    from mataserver_sam.frames import Clip

    path, limits = sys.argv[1:]
    problem = ""
    try:
        clip = Clip(Path(path), lambda image: image, 0.0, msgspec.json.decode(limits, type=Limits))
        clip.close()
    except BadRequest as error:
        problem = error.detail
    sys.stdout.write(msgspec.json.encode(problem).decode() + "\n")

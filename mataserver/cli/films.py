"""Reading of videos, and writing of annotated ones. Imports PyAV."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import av
import numpy as np

from mataserver.errors import BadRequest
from mataserver.media import videos
from mataserver.media.orientation import upright

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import OutputContainer
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray
    from PIL import Image

READ_TIMEOUT = 60.0
"""Timeout in seconds for a file that delivers nothing."""
RATE = 25
_MILLISECOND = Fraction(1, 1000)


class VideoReader:
    """A video that is read during inference; frames are buffered until they are taken.

    ``damaged`` counts the frames that were left out as damaged.
    """

    def __init__(self, file: Path, max_pixels: int) -> None:
        self._file = str(file.absolute())
        self._max_pixels = max_pixels
        self._buffer: dict[int, VideoFrame] = {}
        self.damaged = 0

    def encoded(self) -> Iterator[bytes]:
        """Yield the frames as JPEG. Raises ``BadRequest`` if the file is not a video."""
        try:
            found = videos.frames(
                self._file, self._max_pixels, READ_TIMEOUT, on_damaged=self._count_damaged
            )
            for number, frame in enumerate(found):
                self._buffer[number] = frame
                yield videos.encode(frame)
        except (av.FFmpegError, OSError, videos.UnreadableVideo) as error:
            raise BadRequest(videos.reason(error, file=True)) from None

    def take(self, number: int) -> tuple[NDArray[np.uint8], float]:
        """Return a frame's pixels ``[H, W, 3]`` and its time in seconds, once.

        Drops the frames before it, which got no answer.
        """
        for passed in [each for each in self._buffer if each < number]:
            del self._buffer[passed]
        frame = self._buffer.pop(number)
        return upright(frame), frame.time or 0.0

    def _count_damaged(self, count: int) -> None:
        self.damaged += count


class VideoWriter:
    """A video that is written, with the frame times of another one."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._container: OutputContainer | None = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def write(self, picture: Image.Image, seconds: float) -> None:
        """Add a picture to be shown at a time; its sides are cropped to even numbers."""
        width, height = (side // 2 * 2 for side in picture.size)
        if self._container is None:
            self._container = av.open(str(self._place), "w")
            self._stream = self._container.add_stream("libx264", rate=RATE)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.time_base = self._stream.codec_context.time_base = _MILLISECOND
        frame = av.VideoFrame.from_ndarray(np.array(picture.crop((0, 0, width, height))))
        self._last = max(self._last + 1, round(seconds * 1000))
        frame.pts, frame.time_base = self._last, _MILLISECOND
        self._container.mux(self._stream.encode(frame))

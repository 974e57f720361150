"""Draws tracked objects into a video, as an MP4 in memory."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw

from mataserver import InvalidParams
from mataserver_sam.boxes import corners, scaled
from mataserver_sam.drawing import colour, draw_label, tint
from mataserver_sam.masks import Mask
from mataserver_sam.stills import fitted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from mataserver_sam.stills import Stills
    from mataserver_sam.video_requests import AnnotatedVideoRequest, DrawnObject, ObjectStyle

    Image8 = NDArray[np.uint8]

MAX_SIDE = 1_920
"""Pixels; larger frames are drawn scaled down: the video is a preview."""
MAX_BYTES = 256_000_000
CHUNK_BYTES = 1_000_000
"""The maximum bytes of one chunk from the worker."""

_ENCODER = {"preset": "veryfast", "crf": "23", "threads": "2"}
_MILLISECOND = Fraction(1, 1000)


def draw_video(
    stills: Stills, size: tuple[int, int], asked: AnnotatedVideoRequest
) -> Iterator[bytes]:
    """Yield an empty chunk (``b""``) for each mask and frame drawn, then the file in chunks.

    ``size`` is (height, width) of the frames, and of the masks. Raises ``InvalidParams`` for masks
    that do not fit this video, and for a file over ``MAX_BYTES``.
    """
    with contextlib.closing(stills.clip(_even_sized, 0)) as clip:
        beyond = max(asked.frames, default=0)
        if beyond >= len(clip):
            raise InvalidParams(f"frames: the video has {len(clip)} frames, counted from 0")
        writing = _Mp4Writer(clip.frame(0))
        for number in range(len(clip)):
            pixels = yield from _draw_frame(clip.frame(number), number, size, asked)
            writing.add(pixels, clip.time(number))
            yield b""
        whole = writing.whole()
    for begin in range(0, len(whole), CHUNK_BYTES):
        yield bytes(whole[begin : begin + CHUNK_BYTES])


class _Mp4Writer:
    """An MP4; every frame has the size of the first."""

    def __init__(self, first: Image8) -> None:
        self._file = io.BytesIO()
        self._container: Any = av.open(self._file, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=25, options=_ENCODER)
        self._stream.height, self._stream.width = first.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = _MILLISECOND
        self._last = -1

    def add(self, pixels: Image8, seconds: float) -> None:
        """Add a frame, displayed so many seconds after the first."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        self._last = max(self._last + 1, round(seconds * 1000))
        frame.pts, frame.time_base = self._last, _MILLISECOND
        self._container.mux(self._stream.encode(frame))
        if self._file.tell() > MAX_BYTES:
            raise InvalidParams(f"The video grows over {MAX_BYTES // 1_000_000} MB: cut it shorter")

    def whole(self) -> memoryview:
        """Finish the file and return it."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._file.getbuffer()


def _even_sized(image: Image8) -> Image8:
    """Return a frame with even sides, which video codecs need, scaled to at most ``MAX_SIDE``."""
    small: Image8 = fitted(image, MAX_SIDE)
    height, width = (max(2, side // 2 * 2) for side in small.shape[:2])
    if small.shape[:2] == (height, width):
        return small
    even: Any = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA)
    made: Image8 = even
    return made


def _draw_frame(
    image: Image8, number: int, size: tuple[int, int], asked: AnnotatedVideoRequest
) -> Generator[bytes, None, Image8]:
    """Return a frame with its objects: first all masks, then the names on top.

    Yields an empty chunk for each mask: a large one takes as long as a step of the worker should.
    """
    marked: Sequence[DrawnObject] = asked.frames.get(number, ())
    if not marked:
        return image
    canvas: Any = image.copy()
    height, width = canvas.shape[:2]
    labels = []
    for each in marked:
        mask = _mask(each, number, size)
        look = asked.objects.get(each.id)
        paint = _colour_of(each.id, look)
        pixels = cv2.resize(
            mask.full().view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
        )
        tint(canvas, pixels, paint)
        box = scaled(corners(mask.box()), width, height)
        labels.append((box, (look.name if look else "") or str(each.id), paint))
        yield b""
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for box, text, paint in labels:
        draw_label(pen, box, text, paint)
    return np.asarray(picture)


def _mask(marked: DrawnObject, number: int, size: tuple[int, int]) -> Mask:
    try:
        return Mask.from_rle(marked.mask, size)
    except ValueError as error:
        raise InvalidParams(f"frames[{number}]: object {marked.id}: {error}") from None


def _colour_of(number: int, look: ObjectStyle | None) -> tuple[int, int, int]:
    if look is None or look.colour is None:
        return colour(number)
    red, green, blue = bytes.fromhex(look.colour[1:])
    return red, green, blue

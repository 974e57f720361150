"""The frames of a video by number: decoded on demand, with exact seeks and a bounded cache.

Walking backwards decodes each group of pictures forwards and caches as much of its end as fits, so
that it is not decoded again for every frame.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Generic

import av
from av.error import FFmpegError

from mataserver import BadRequest, WholeFrames, open_video, upright_frame
from mataserver_sam.frame_cache import FrameCache, Prepared
from mataserver_sam.index import build_index
from mataserver_sam.matroska import is_truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from av.container import InputContainer
    from numpy.typing import NDArray

    from mataserver_sam.index import Index
    from mataserver_sam.limits import Limits

    Image = NDArray[np.uint8]

_DECODER_THREADS = 2
_BEFORE = 60
"""Seconds before the first frame from which MPEG-TS, which has no table, is sure to find it.

Its decoding timestamp is earlier, by what the decoder reorders, and may be negative.
"""


class Clip(Generic[Prepared]):
    """One open video. Not thread-safe.

    Damaged frames, and those that refer to them, are replaced by the next whole one, at the end by
    the last one. Not so where frames are counted: those behind would be others.

    ``prepare`` converts an RGB array ``[H, W, 3]`` to the returned frame, which is cached in at
    most ``cache_bytes`` (one frame is always cached). Raises ``BadRequest`` for a file that is not
    a video, is damaged or exceeds ``limits``.
    """

    def __init__(
        self, path: Path, prepare: Callable[[Image], Prepared], cache_bytes: float, limits: Limits
    ) -> None:
        self._prepare = prepare
        self._limits = limits
        self._cache = FrameCache[Prepared](cache_bytes)
        self._frames: Iterator[av.VideoFrame | None] = iter(())
        self._deadline = 0.0
        self._next = self._decoded_count = self._last_requested = 0
        self._replaced: dict[int, int] = {}
        self._decoder: WholeFrames | None = None
        with video_errors("The video cannot be read"):
            if is_truncated(path):
                raise BadRequest("The video is damaged: it ends too early")
            self._container = open_video(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        stream = self._container.streams.best("video")  # not a cover picture
        if not isinstance(stream, av.VideoStream):
            raise BadRequest("The file holds no video")
        if stream.codec_context is None:
            raise BadRequest("The video is coded in an unknown way, or damaged")
        self._stream = stream
        _check_size(self._stream.width, self._stream.height, self._limits.pixels)
        self._stream.thread_type = "SLICE"  # else damage is noticed with a later packet
        self._stream.codec_context.thread_count = _DECODER_THREADS
        self._stream.codec_context.options = {"max_pixels": str(self._limits.pixels)}
        with video_errors("The video cannot be read"):
            self._index = build_index(self._container, self._stream, self._limits)
            self.height, self.width = self._first_size()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return float(self._index.seconds)

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        return float(len(self) / self._index.seconds)

    def time(self, number: int) -> float:
        """Return the seconds from the first frame to the display of frame ``number``."""
        return float(self._index.time(number, self._stream.time_base or Fraction()))

    def is_damaged(self, number: int) -> bool:
        """Whether frame ``number``, which was returned before, was replaced as damaged."""
        return number in self._replaced

    @property
    def cached_bytes(self) -> int:
        """Bytes of the cached frames."""
        return self._cache.size

    def frame(self, number: int) -> Prepared:
        """Return frame ``number``, from 0, prepared.

        Raises ``BadRequest`` when it cannot be decoded, and when that takes too long: the next call
        goes on where this one ended, but for the search before a frame that cannot be decoded.
        """
        self._start_clock()
        number = self._replaced.get(number, number)
        backwards, self._last_requested = number < self._last_requested, number
        kept = self._cache.get(number)
        if kept is not None:
            return kept
        first = number - self._cache.room + 1 if backwards else number
        with video_errors(f"Frame {number} of the video cannot be decoded"):
            return self._decode(max(first, self._index.key(number)), number)

    def close(self) -> None:
        """Close the file, end its decoder, and drop every frame; no frame can be read afterwards.

        A decoder, its threads and its buffers live as long as anything refers to them. The footage
        that prepares frames refers to this clip, so the references are dropped here rather than
        left to a garbage collection.
        """
        self._frames = iter(())
        self._cache = FrameCache[Prepared](0)
        self._container.close()
        self._decoder = None
        vars(self).pop("_stream", None)
        del self._container, self._prepare

    def _decode(self, first: int, last: int) -> Prepared:
        """Decode up to frame ``last``, cache those from ``first`` on, and return ``last``."""
        start = self._index.key(first)
        if not start <= self._next <= first:
            self._seek(start)
        while (found := self._forward(first, last, start)) is None:
            if start == 0:
                raise BadRequest(f"Frame {last} of the video cannot be decoded")
            self._check_clock(last)
            start = self._index.key(start - 1)
            self._seek(start)
        return found

    def _forward(self, first: int, last: int, start: int) -> Prepared | None:
        """Decode on to frame ``last``; None when the stream ends or a seek landed beyond it.

        A frame that is in the index but not in the stream is replaced by the one after it.
        """
        for decoded in self._frames:
            if decoded is None:
                self._check_clock(last)
                continue
            number = self._index.number(decoded.pts, self._decoded_count)
            landed = self._decoded_count == 0
            if landed and number > last and start > 0:
                self._next, self._decoded_count = number + 1, 1
                return None
            self._note_damage(number, is_gap=not landed or start == 0)
            self._next, self._decoded_count = number + 1, self._decoded_count + 1
            if number >= first:
                kept = self._prepare(_pixels(decoded, self._limits.pixels))
                self._cache.put(number if last in self._replaced else min(number, last), kept)
                if number >= last:
                    return kept
            self._check_clock(last)
        if self._decoder is None or not (self._decoder.is_damaged and self._decoded_count):
            return None
        whole = max(0, self._next - 1)
        self._replaced.update(dict.fromkeys(range(self._next, len(self)), whole))
        return self._decode(whole, whole)

    def _note_damage(self, number: int, *, is_gap: bool) -> None:
        """Note which frames are left out before frame ``number``, if they are damaged.

        ``is_gap`` is False where a seek began behind them.
        """
        if self._decoder is None or not self._decoder.is_damaged:
            return
        if is_gap:
            self._replaced.update(dict.fromkeys(range(self._next, number), number))
        if number > self._next or not is_gap:
            self._decoder.is_damaged = False

    def _start_clock(self) -> None:
        self._deadline = time.monotonic() + self._limits.decode_timeout

    def _check_clock(self, number: int) -> None:
        """Raise ``BadRequest`` when frame ``number`` took too long.

        A step of the worker that takes longer would count as a hang, and end every other session.
        """
        if time.monotonic() >= self._deadline:
            raise BadRequest(
                f"Frame {number} of the video takes over {self._limits.decode_timeout:g} s to "
                "decode, with those before it that it needs: ask again to go on"
            )

    def _seek(self, number: int) -> None:
        if self._index.is_counted:
            number = 0
        if number:
            self._container.seek(self._index.timestamp(number), stream=self._stream)
        else:
            self._container.seek(_beginning(self._container, self._stream, self._index))
        self._decoder = None if self._index.is_counted else WholeFrames(self._stream)
        self._frames = _decoded(self._container, self._stream, self._decoder)
        self._next, self._decoded_count = number, 0

    def _first_size(self) -> tuple[int, int]:
        self._start_clock()
        self._seek(0)
        for decoded in self._frames:
            if decoded is None:
                self._check_clock(0)
                continue
            self._index.begin(decoded.dts)
            height, width = _pixels(decoded, self._limits.pixels).shape[:2]
            self._seek(0)
            return height, width
        raise BadRequest("No frame of the video can be decoded")


def _beginning(container: InputContainer, stream: av.VideoStream, index: Index) -> int:
    """Return the seek position of the first frame, in microseconds; AVI's is never below 0."""
    begin = min(0, index.timestamp(0) * (stream.time_base or 0))
    before = _BEFORE if container.format.name == "mpegts" else 0
    return int((begin - before) * 1_000_000)


def _pixels(decoded: av.VideoFrame, limit: int) -> Image:
    """Return a frame as RGB, upright."""
    _check_size(decoded.width, decoded.height, limit)
    return upright_frame(decoded)


def _check_size(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise BadRequest(f"The frames of the video are over the limit of {limit} pixels")


def _decoded(
    container: InputContainer, stream: av.VideoStream, decoder: WholeFrames | None
) -> Iterator[av.VideoFrame | None]:
    """Yield frames in display order, and None for a packet without one, or a rejected one."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode() if decoder is None else decoder.decode(packet)
        except FFmpegError:
            frames = []
        yield from frames or (None,)


@contextmanager
def video_errors(detail: str) -> Iterator[None]:
    """Convert libav's errors to a ``BadRequest``; their own messages contain paths."""
    try:
        yield
    except (FFmpegError, OSError, UnicodeError) as error:
        raise BadRequest(detail) from error

"""Decodes the frames of a video that are whole, and leaves out those that are not.

Decoders conceal what is missing: they pad a picture with grey, or copy blocks of another one. What
a model finds there is not what the camera saw. The frames that follow refer to the damaged one, so
all are left out up to the next that refers to none before it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import av

from mataserver.media.h264 import FrameNumbers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_OPTIONS = {
    "mjpeg": {"err_detect": "explode"},  # else what is missing at a picture's end is padded
    "hevc": {"flags": "+output_corrupt"},  # else they are left out unseen, and not counted
}
_LONGEST_STEP = 1
"""Seconds from a frame to the next of the same recording."""


class WholeFrames:
    """The decoder of one stream, before its first packet or behind a seek.

    ``damaged`` counts the frames left out since the first whole one: a stream that is joined in
    the middle is not damaged. ``is_damaged`` is also True for what was left out before it.
    """

    def __init__(self, stream: VideoStream) -> None:
        context = self._context = stream.codec_context
        context.options = {**context.options, **_OPTIONS.get(context.name, {})}
        self._numbers: FrameNumbers | None = None
        if context.name == "h264":
            if not context.is_open:
                context.thread_count = 1  # with several, concealed errors are not reported
            self._numbers = FrameNumbers(context.extradata)
        # In MPEG-TS the packet before the damaged one is marked. Of a damaged key frame, and of an
        # end that is cut off, other decoders notice it themselves.
        self._misses_damage = context.name == "hevc"
        self._held: Packet[VideoStream] | None = None  # damaged, or the last before a joint
        self._has_key = False
        self._skips = context.name == "mpeg4"  # the only decoder that begins with any frame
        self._shows_damage = self._is_next_damaged = False
        self._has_begun = False
        self.is_damaged = False
        self.damaged = 0

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Return the whole frames that a packet completes."""
        return list(self._decode(packet))

    def _decode(self, packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
        held, self._held = self._held, None
        if held is not None:
            is_good = not self._misses_damage and _joins(held, packet)
            yield from self._decode_prepared(held) if is_good else self._begin_anew()
        if packet.size and not (yield from self._prepare(packet)):
            return
        yield from self._decode_prepared(packet)

    def _decode_prepared(self, packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
        try:
            found = packet.decode()
        except av.FFmpegError:
            yield from self._begin_anew()
        else:
            yield from filter(self._is_whole, found)

    def _prepare(self, packet: Packet[VideoStream]) -> Generator[VideoFrame, None, bool]:
        """Prepare for a packet, and yield the whole frames before it; return if it is of use."""
        is_damaged, self._is_next_damaged = self._is_next_damaged, packet.is_corrupt
        is_behind_gap = self._numbers is not None and self._numbers.is_behind_gap(
            bytes(packet), is_key=packet.is_keyframe
        )
        if packet.is_keyframe and not (is_damaged and self._misses_damage):
            if self._shows_damage or is_behind_gap or (self._skips and self._has_key):
                yield from self._clear(packet)
            self._has_key, self._skips, self._shows_damage = True, False, False
            is_damaged = is_behind_gap = False
        if self._skips:
            self._count()
            return False
        if is_behind_gap:
            yield from self._begin_anew()
        elif is_damaged:
            self._held = packet
        return not (is_behind_gap or is_damaged)

    def _clear(self, packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
        """Make the decoder forget the frames before a key frame.

        Where H.264's gave up a block, its coefficients are left, and are added to the next frame:
        that is this one, once for nothing.
        """
        yield from self._flush()
        if self._numbers is not None:
            with contextlib.suppress(av.FFmpegError):
                packet.decode()
            self._context.flush_buffers()

    def _begin_anew(self) -> Iterator[VideoFrame]:
        """Leave out a packet, and those up to the next that needs none before it."""
        if self._has_key:  # else they may be not marked
            yield from self._flush()
            self._skips = True
        self._count()

    def _flush(self) -> Iterator[VideoFrame]:
        """Empty the decoder. What waits in it to be put in order was decoded before."""
        with contextlib.suppress(av.FFmpegError):
            yield from filter(self._is_whole, self._context.decode(None))
        self._context.flush_buffers()

    def _is_whole(self, frame: VideoFrame) -> bool:
        if frame.is_corrupt:
            self._shows_damage = True
        elif frame.key_frame:
            self._shows_damage = False
        if self._shows_damage:
            self._count()
            return False
        self._has_begun = True
        return True

    def _count(self) -> None:
        self.is_damaged = True
        self.damaged += self._has_begun


def _joins(last: Packet[VideoStream], packet: Packet[VideoStream]) -> bool:
    """Whether a packet begins another recording: the transport's numbers begin anew, too.

    Its times are earlier ones, or much later. Where they go on, a part may have been lost.
    """
    if last.dts is None or packet.dts is None or packet.time_base is None:
        return False
    step = (packet.dts - last.dts) * packet.time_base
    return packet.is_keyframe and not 0 <= step <= _LONGEST_STEP

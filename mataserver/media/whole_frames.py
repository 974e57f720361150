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
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_OPTIONS = {
    "mjpeg": {"err_detect": "explode"},  # else what is missing at a picture's end is padded
    "hevc": {"flags": "+output_corrupt"},  # else they are left out unseen, and not counted
}


class WholeFrames:
    """The decoder of one stream, before its first packet.

    ``damaged`` counts the frames left out since the first whole one: a stream that is joined in
    the middle is not damaged. ``is_damaged`` is also True for what was left out before it.
    """

    def __init__(self, stream: VideoStream) -> None:
        context = self._context = stream.codec_context
        context.options = {**context.options, **_OPTIONS.get(context.name, {})}
        self._numbers: FrameNumbers | None = None
        if context.name == "h264":
            context.thread_count = 1  # with several, concealed errors are not reported
            self._numbers = FrameNumbers(context.extradata)
        # In MPEG-TS the packet before the damaged one is marked, and one of the last of a recording
        # that another was joined to. Other decoders notice a damaged key frame themselves.
        self._doubts_keys = context.name == "hevc"
        self._has_key = False
        self._skips = context.name == "mpeg4"  # the only decoder that begins with any frame
        self._shows_damage = self._is_next_damaged = False
        self._has_begun = False
        self.is_damaged = False
        self.damaged = 0

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Return the whole frames that a packet completes."""
        if packet.size and not self._prepare(packet):
            return []
        try:
            found = packet.decode()
        except av.FFmpegError:
            self._begin_anew()
            return []
        return [frame for frame in found if self._is_whole(frame)]

    def _prepare(self, packet: Packet[VideoStream]) -> bool:
        """Prepare for a packet; return whether it is of use."""
        is_damaged, self._is_next_damaged = self._is_next_damaged, packet.is_corrupt
        is_behind_gap = self._numbers is not None and self._numbers.is_behind_gap(bytes(packet))
        if packet.is_keyframe and not (is_damaged and self._doubts_keys):
            if self._shows_damage or is_behind_gap or (self._skips and self._has_key):
                self._clear(packet)
            self._has_key, self._skips, self._shows_damage = True, False, False
            is_damaged = is_behind_gap = False
        if self._skips:
            self._count()
            return False
        if is_damaged or is_behind_gap:
            self._begin_anew()
            return False
        return True

    def _clear(self, packet: Packet[VideoStream]) -> None:
        """Make the decoder forget the frames before a key frame.

        Where H.264's gave up a block, its coefficients are left, and are added to the next frame:
        that is this one, once for nothing.
        """
        self._context.flush_buffers()
        if self._numbers is not None:
            with contextlib.suppress(av.FFmpegError):
                packet.decode()
            self._context.flush_buffers()

    def _begin_anew(self) -> None:
        """Leave out a packet, and those up to the next that needs none before it."""
        self._count()
        if self._has_key:  # else they may be not marked
            self._context.flush_buffers()
            self._skips = True

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

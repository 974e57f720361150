"""The times at which the frames of a video are shown: they begin at 0 and never go back.

A container's timestamps may be missing (raw streams), those of the packets in place of the frames'
(AVI knows no other), or begin anew where files were joined (MPEG-TS).
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_FALLBACK_RATE = 25
_TICK = Fraction(1, 90_000)
"""The time base of a stream that tells none."""
_BACK = Fraction(1, 10)
"""Seconds that a timestamp may go back and still count as jitter; FFmpeg's own limit."""


def timed(
    frames: Iterator[VideoFrame], container: InputContainer, stream: VideoStream
) -> Iterator[VideoFrame]:
    """Yield decoded frames, each with the ``time`` in seconds since the first one."""
    clock = _Clock(stream, numbered=container.format.name == "avi")
    for frame in frames:
        frame.time_base = clock.tick
        frame.pts = clock.shown(frame.pts, frame.dts)
        yield frame


class _Clock:
    """Turns timestamps, in ``tick``, into those at which frames are shown.

    ``numbered``: the container has timestamps of packets alone. libav guesses those of frames from
    their types, wrongly for packed bitstreams (DivX, Xvid).
    """

    def __init__(self, stream: VideoStream, *, numbered: bool) -> None:
        self.tick = stream.time_base or _TICK
        rate = stream.average_rate or stream.guessed_rate or _FALLBACK_RATE
        self._step = max(1, round(1 / rate / self.tick))
        # A longer distance is a jump, of joined files or one wrong timestamp: no distance to go on.
        self._longest_step = max(10 * self._step, round(1 / self.tick))
        self._numbered = numbered
        self._faults = [0, 0]  # of presentation and decoding timestamps
        self._before: list[int | None] = [None, None]
        self._shift: int | None = None  # from timestamps to times
        self._last: int | None = None

    def shown(self, pts: int | None, dts: int | None) -> int:
        """Return the time of the next frame that the decoder returned."""
        last = self._last
        following = 0 if last is None else last + self._step
        found = self._most_plausible(pts, dts)
        if found is None:
            now = following
        else:
            if self._shift is None or (
                last is not None and found + self._shift < last - _BACK / self.tick
            ):
                self._shift = following - found
            now = found + self._shift
        if last is not None and 0 < now - last <= self._longest_step:
            self._step = now - last
        self._last = now if last is None else max(now, last)
        return self._last

    def _most_plausible(self, pts: int | None, dts: int | None) -> int | None:
        """Return the timestamp of the kind that ascended so far, as FFmpeg chooses.

        A decoder that is flushed returns frames without ``dts``: they go on by ``pts``, or without
        a timestamp where those are guesses.
        """
        for kind, stamp in enumerate((pts, dts)):
            before = self._before[kind]
            if stamp is not None:
                self._faults[kind] += before is not None and stamp <= before
                self._before[kind] = stamp
        known = self._before[1] is not None
        by_packets = known and (self._numbered or self._faults[0] > self._faults[1])
        if by_packets and (dts is not None or self._numbered):
            return dts
        return dts if pts is None else pts

"""The index of a video: the timestamp of each frame, and the frames that a decoder can start from.

It is built from the packets' timestamps without decoding, so the number of frames is exact and
variable frame rates need no special handling.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from mataserver import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import av
    from av.container import InputContainer

    from mataserver_sam.limits import Limits

_FALLBACK_RATE = Fraction(25)
_BEFORE_ZERO = (
    "The video's first frame is before the file's time 0, where a Matroska file cannot be searched:"
    " convert it, for example with `ffmpeg -i FILE NEW.mp4`"
)
"""libav's search ends at time 0: a later frame was shown for those before it."""


class Index:
    """The frames of a video by number.

    ``shown`` are timestamps in ascending order; empty when the container has no usable ones, and
    frames can only be counted from the first. ``keys`` are numbers of key frames, 0 the first of
    them. ``seconds`` is the length; of frames that are counted ``places`` tells it, if given. Times
    are fractions: 3 frames at 10 a second would take 0.30000000000000004 s in floating point.
    """

    def __init__(
        self,
        count: int,
        shown: array[int],
        keys: array[int],
        seconds: Fraction,
        places: _Places | None = None,
    ) -> None:
        self._count = count
        self._shown = shown
        self._keys = keys
        self._places = places
        self._seconds = seconds

    def __len__(self) -> int:
        return self._count

    @property
    def seconds(self) -> Fraction:
        """From the first frame to the end of the last."""
        return self._places.time(self._count) if self._places else self._seconds

    def begin(self, timestamp: int | None) -> None:
        """Note the decoding timestamp with which the decoder returned the first frame."""
        if self._places and timestamp is not None:
            self._places.begin(timestamp)

    def time(self, number: int, tick: Fraction) -> Fraction:
        """Return the seconds from the first frame to another; a timestamp counts ``tick``."""
        if self._shown:
            return (self._shown[number] - self._shown[0]) * tick
        return self._places.time(number) if self._places else number * self._seconds / self._count

    @property
    def is_counted(self) -> bool:
        """Whether frames are found by counting from the first."""
        return not self._shown

    def number(self, timestamp: int | None, position: int) -> int:
        """Return the number of the frame at ``position`` of a decoder's output.

        A timestamp that is not in the index belongs to the frame before it.
        """
        if not self._shown:
            return position
        return -1 if timestamp is None else bisect_right(self._shown, timestamp) - 1

    def key(self, number: int) -> int:
        """Return the last key frame up to ``number``."""
        return self._keys[bisect_right(self._keys, number) - 1]

    def timestamp(self, number: int) -> int:
        """Return the timestamp of frame ``number``, in the stream's time base."""
        return self._shown[number] if self._shown else 0


def _usual(steps: Iterable[int]) -> int:
    """Return the median of steps, the lower of two; the server starts without ``statistics``."""
    ordered = sorted(steps)
    return ordered[(len(ordered) - 1) // 2]


class _Places:
    """The decoding timestamps of a file whose frames have no others, such as an AVI's.

    Ascending, ``tick`` seconds each. Frames are shown at them, in order, as late as the decoder
    reorders: it returns the first frame with a later one than the first packet's.
    """

    def __init__(self, stamps: array[int], tick: Fraction) -> None:
        self._stamps = stamps
        self._tick = tick
        self._step = _usual(after - before for before, after in pairwise(stamps))
        self._first = 0

    def begin(self, timestamp: int) -> None:
        """Note the timestamp of the first frame."""
        self._first = min(bisect_left(self._stamps, timestamp), len(self._stamps) - 1)

    def time(self, number: int) -> Fraction:
        """Return the seconds from the first frame to a frame, or to the end for their count.

        The last frames are at the usual distance from each other.
        """
        last = len(self._stamps) - 1
        at = min(number + self._first, last)
        beyond = number + self._first - at
        return (self._stamps[at] - self._stamps[self._first] + beyond * self._step) * self._tick


def build_index(container: InputContainer, stream: av.VideoStream, limits: Limits) -> Index:
    """Read every packet of a stream and return its index.

    Raises ``BadRequest`` for a stream that is empty, ends too early or exceeds ``limits``.
    """
    shown, keys, longest = array("q"), array("q"), 0
    decoded = array("q")
    count = untimed = 0
    for packet in _packets(container, stream):
        count += 1
        if count > limits.frames:
            raise BadRequest(f"The video has more than {limits.frames} frames")
        untimed += packet.pts is None and packet.dts is None
        if packet.dts is not None:
            decoded.append(packet.dts)
        if packet.pts is not None:
            shown.append(packet.pts)
            longest = packet.duration or longest
            if packet.is_keyframe:
                keys.append(packet.pts)
    if not count:
        raise BadRequest("The video has no frames")
    if "matroska" in container.format.name and (untimed or min(shown, default=0) < 0):
        raise BadRequest(_BEFORE_ZERO)
    index = (
        _timed(shown, keys, longest, stream)
        if _reliable(shown, count, container, stream)
        else _counted(decoded, count, stream)
    )
    if float(index.seconds) > limits.seconds:  # as exact as the limit
        raise BadRequest(f"The video is longer than {limits.seconds:g} s")
    return index


def _packets(
    container: InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet[av.VideoStream]]:
    """Yield the packets of frames. Raises ``BadRequest`` if the last one is not whole.

    Others may be marked as damaged where MPEG-TS files were joined, or a packet was lost.
    """
    is_whole = True
    for packet in container.demux(stream):
        if packet.size:
            is_whole = not packet.is_corrupt
            if not packet.is_discard:
                yield packet
    if not is_whole:
        raise BadRequest("The video is damaged: it ends too early")


def _reliable(
    shown: array[int], count: int, container: InputContainer, stream: av.VideoStream
) -> bool:
    """Whether each frame has a unique timestamp, the same after a seek as before.

    MPEG-PS stores few and libav guesses the others. AVI stores none: its packets are numbered in
    the order of the file, even where frames are reordered, and what libav makes of it is wrong for
    packed bitstreams (DivX, Xvid). Files converted from such ones keep the order of the packets.
    """
    if len(shown) < count or len(set(shown)) < count or container.format.name == "mpeg":
        return False
    if not stream.codec_context.has_b_frames:
        return True
    if container.format.name == "avi":
        return False
    packed = stream.codec_context.codec.name == "mpeg4"
    return not packed or any(after < before for before, after in pairwise(shown))


def _timed(shown: array[int], keys: array[int], longest: int, stream: av.VideoStream) -> Index:
    shown = array("q", sorted(shown))
    numbers = {0, *(bisect_left(shown, key) for key in keys)}
    base = stream.time_base or Fraction()
    spread = shown[-1] - shown[0]
    if not longest and len(shown) > 1:
        longest = spread // (len(shown) - 1)
    seconds = (spread + longest) * base
    return Index(len(shown), shown, array("q", sorted(numbers)), seconds or 1 / _rate(stream))


def _counted(decoded: array[int], count: int, stream: av.VideoStream) -> Index:
    """Return the index of frames without usable timestamps.

    The rate that an AVI states may be many times its frames', with most places empty.
    """
    tick = stream.time_base or Fraction()
    ascending = all(before < after for before, after in pairwise(decoded))
    places = _Places(decoded, tick) if tick and ascending and len(decoded) == count > 1 else None
    if places is None:
        steps = [after - before for before, after in pairwise(decoded)]
        step = _usual(steps) * tick if steps else Fraction()
        seconds = count * step if step > 0 else count / _rate(stream)
    else:
        seconds = places.time(count)
    return Index(count, array("q"), array("q", [0]), seconds, places)


def _rate(stream: av.VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or _FALLBACK_RATE

"""Reading of videos frame by frame, with readable errors. The only module with PyAV."""

from __future__ import annotations

import contextlib
import errno
import math
import time
from typing import TYPE_CHECKING, Any

import av
import simplejpeg

from mataserver.media.frame_times import timed
from mataserver.media.orientation import upright
from mataserver.media.whole_frames import WholeFrames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

QUALITY = 90
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,gif,ivf,asf"
"""FFmpeg's names of the containers that a client may send: they hold their own frames.

Playlists and the like (HLS, DASH, concat, IMF) refer to other files and hosts, and numbered
pictures (``image2``) are other files: none is opened for a client.
"""
_STREAMS = (
    "apng,av1,bmp_pipe,dv,gxf,h263,h264,hevc,jpeg_pipe,jpegls_pipe,m4v,mjpeg,mpjpeg,mpegvideo,mxf,"
    "nut,obu,png_pipe,rm,tiff_pipe,vc1,webp_pipe,wtv,yuv4mpegpipe"
)
"""What may also be in a file of this machine: bare streams, single pictures, rarer containers."""
_FILE_ALONE = {"protocol_whitelist": "file"}
FILE_OPTIONS = {
    **_FILE_ALONE,
    "format_whitelist": f"{CONTAINERS},{_STREAMS}",
}
"""A file must not make FFmpeg access the network, nor read another file."""
_TITLES: dict[str, Any] = {"metadata_errors": "replace"}
"""Metadata may be in any encoding, or damaged, and is not used. PyAV 19 reads any by itself."""
if int(av.__version__.split(".")[0]) >= 19:
    _TITLES = {}
_INDEPENDENT = {"mjpeg"}
"""Codecs none of whose frames refers to another, and that take long to decode."""
_EDGES, _ROWS = 192, 280
"""Pixels that decoders may add to a side, and rows that the one of MPEG-4 has at least."""
_DAMAGED = "it is no video, or damaged"
_SILENT = "it sent nothing for too long"
_LOSSY = "its frames arrive damaged: parts of them are lost"
_REASONS: list[tuple[type[BaseException], str]] = [
    (av.error.HTTPUnauthorizedError, "it refused the user name or the password"),
    (av.error.HTTPForbiddenError, "it refused the user name or the password"),
    (av.error.HTTPNotFoundError, "it knows no such stream"),
    (av.error.HTTPError, "it answered with an error"),
    (av.error.HTTPClientError, "it answered with an error"),
    (FileNotFoundError, "there is no such file or device"),
    (PermissionError, "it may not be read"),
    (ConnectionRefusedError, "the connection was refused"),
    (ConnectionError, "the connection broke"),
    (av.error.ExitError, _SILENT),
    (TimeoutError, _SILENT),
    (av.error.InvalidDataError, _DAMAGED),
    (EOFError, "it ended before it began"),
]
_ERRNO_REASONS = {
    errno.EIO: "the connection failed",
    errno.EHOSTUNREACH: "it cannot be reached over the network",
    errno.ENETUNREACH: "it cannot be reached over the network",
    errno.ENETDOWN: "it cannot be reached over the network",
    errno.EPROTONOSUPPORT: "it does not send over TCP",  # RTSP's 461: cameras with UDP only
    errno.EBUSY: "it is in use by another program",
    errno.ENODEV: "it is no video camera, or was unplugged",
    errno.ENOTTY: "it is no video camera, or was unplugged",
}
"""What is wrong with a camera, by the number of an ``OSError`` that has no class of its own."""


class UnreadableVideo(Exception):
    """A source cannot be read; the text is a message for clients."""


def frames(
    url: str,
    max_pixels: int,
    timeout: float,
    options: Mapping[str, str] = FILE_OPTIONS,
    form: str | None = None,
    patience: float = math.inf,
    *,
    on_damaged: Callable[[int], None] = lambda _count: None,
) -> Iterator[VideoFrame]:
    """Open a source once and yield its whole frames, each with its ``time`` since the first.

    Fails if the source delivers nothing for ``timeout`` seconds, or damaged frames alone, or for
    ``patience`` seconds only what gives no first frame. ``on_damaged`` is told how many frames were
    left out since its last call: damaged ones, and those that refer to them. ``options`` and
    ``form`` are FFmpeg's; by default only a file is read, and nothing that it refers to. Raises
    what PyAV raises, or ``UnreadableVideo``, also for frames of over ``max_pixels``.
    """
    with _opened(url, max_pixels, timeout, options, form) as (container, stream):
        packets = _packets(container, stream, timeout)
        found = _decoded(packets, stream, max_pixels, (timeout, patience), on_damaged)
        for frame in timed(found, container, stream):
            _check_size(frame.width * frame.height, max_pixels)
            yield frame


class PendingFrame:
    """A frame that refers to no other, which is decoded when it is asked for."""

    def __init__(self, packet: Packet[VideoStream], decoder: WholeFrames, max_pixels: int) -> None:
        self._packet, self._decoder, self._max_pixels = packet, decoder, max_pixels

    def decode(self) -> VideoFrame | None:
        """Return the frame, or None for a damaged one. One thread decodes those of a stream.

        Raises ``UnreadableVideo`` for one that is too large.
        """
        for frame in self._decoder.decode(self._packet):
            _check_size(frame.width * frame.height, self._max_pixels)
            return frame
        return None


def live_frames(
    url: str,
    max_pixels: int,
    timeout: float,
    options: Mapping[str, str],
    form: str | None = None,
    patience: float = math.inf,
    *,
    on_damaged: Callable[[int], None] = lambda _count: None,
) -> Iterator[VideoFrame | PendingFrame]:
    """Open a source once and yield its frames as they arrive, without a ``time``.

    Frames that refer to no other, those of Motion JPEG, are yielded undecoded after the first one:
    whoever uses two of a camera's thirty frames a second decodes two. Raises as ``frames``.
    """
    with _opened(url, max_pixels, timeout, options, form) as (container, stream):
        packets = _packets(container, stream, timeout)
        found = _decoded(packets, stream, max_pixels, (timeout, patience), on_damaged)
        for frame in found:
            _check_size(frame.width * frame.height, max_pixels)
            yield frame
            if stream.codec_context.name in _INDEPENDENT:
                break  # the others are left to whoever asks for them
        else:
            return
        decoder = WholeFrames(stream)
        yield from (PendingFrame(each, decoder, max_pixels) for each in packets if each.size)


@contextlib.contextmanager
def _opened(
    url: str, max_pixels: int, timeout: float, options: Mapping[str, str], form: str | None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a source and its video, with limits of what FFmpeg allocates."""
    # Neither to find out about the streams nor to decode them FFmpeg allocates far larger frames.
    limit = 2 * max_pixels + 65_536
    with av.open(
        url, format=form, options={**options, "max_pixels": str(limit)},
        timeout=(timeout, timeout), **_TITLES,
    ) as container:  # fmt: skip
        stream = best(container)
        _check_size(stream.width * stream.height, max_pixels)
        # FFmpeg's limit includes what decoders add at the edges: much, if the frames are narrow.
        edged = (stream.width + _EDGES) * max(stream.height + _EDGES, _ROWS)
        stream.codec_context.options = {"max_pixels": str(max(limit, edged))}
        yield container, stream


def open_video(path: Path) -> InputContainer:
    """Open a client's file: of the containers that hold their own frames, and nothing it refers to.

    Titles may be in any encoding. Raises what PyAV raises.
    """
    options = {**_FILE_ALONE, "format_whitelist": CONTAINERS}
    container: InputContainer = av.open(f"file:{path}", options=options, **_TITLES)
    return container


def _check_size(pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise UnreadableVideo(f"its frames are larger than {max_pixels} pixels")


def best(container: InputContainer) -> VideoStream:
    """Return the stream that players show, no cover art. Raises ``UnreadableVideo``.

    A stream of an unknown codec has no decoder, and not even a width.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        raise UnreadableVideo("it holds no video")
    if stream.codec_context is None:
        raise UnreadableVideo("it is coded in an unknown way, or damaged")
    return stream


def _packets(
    container: InputContainer, stream: VideoStream, timeout: float
) -> Iterator[Packet[VideoStream]]:
    """Yield the packets until none comes for ``timeout`` seconds. Raises ``UnreadableVideo`` then.

    FFmpeg knows where a stream's frame ends by the next one. When the time is up it gives the frame
    that it had kept instead of an error, and would wait as long again: that frame is too old.
    """
    begun = time.monotonic()
    for packet in container.demux(stream):
        if time.monotonic() - begun >= timeout:
            raise UnreadableVideo(_SILENT)
        yield packet
        begun = time.monotonic()


def _decoded(
    packets: Iterator[Packet[VideoStream]],
    stream: VideoStream,
    max_pixels: int,
    limits: tuple[float, float],
    on_damaged: Callable[[int], None],
) -> Iterator[VideoFrame]:
    """Decode packet by packet: a damaged packet, as lost in a network, does not end the video.

    Some decoders know no size of a frame that is too large. Raises ``UnreadableVideo`` if there is
    nothing but damaged frames, at the end or for the ``limits`` in seconds: those between two
    frames, and those before the first. A camera has no end.
    """
    undecodable = UnreadableVideo(
        f"none of its frames can be decoded: they are damaged, or larger than {max_pixels} pixels"
    )
    decoder = WholeFrames(stream)
    timeout, patience = limits
    begun, damaged, decoded = time.monotonic(), 0, False
    for packet in packets:
        waited = time.monotonic() - begun
        if not decoded and waited >= patience:
            raise undecodable
        found = decoder.decode(packet)
        if decoder.damaged > damaged:
            on_damaged(decoder.damaged - damaged)
            damaged = decoder.damaged
            if not found and waited >= timeout:
                raise UnreadableVideo(_LOSSY)
        if found:
            decoded = True
            yield from found
            begun = time.monotonic()
        elif decoder.is_damaged:
            _check_size(stream.width * stream.height, max_pixels)
    if decoder.is_damaged and not decoded:
        raise undecodable


def reason(error: Exception, *, file: bool) -> str:
    """Describe an error without PyAV's own text, which contains the URL with its password.

    Any unknown error of a file is attributed to its content: FFmpeg has many names for that.
    """
    if isinstance(error, UnreadableVideo):
        return str(error)
    known = next((text for cause, text in _REASONS if isinstance(error, cause)), None)
    number = error.errno if isinstance(error, OSError) else None
    if file and (known is None or number == errno.EPERM):  # the system would use EACCES
        return _DAMAGED
    known = known or _ERRNO_REASONS.get(number or 0)
    return known or f"it could not be read ({type(error).__name__})"


def encode(frame: VideoFrame) -> bytes:
    """Encode a frame as a JPEG, oriented as players show it."""
    data: bytes = simplejpeg.encode_jpeg(
        upright(frame), quality=QUALITY, colorspace="RGB", colorsubsampling="420"
    )
    return data

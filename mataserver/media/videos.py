"""Videos, read frame by frame, and what is wrong with one in a sentence. PyAV is imported here."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import av
import simplejpeg

from mataserver.media.orientation import upright

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

QUALITY = 90
FILE_OPTIONS = {"protocol_whitelist": "file"}
"""A file that names others in the network gets nothing from there."""
_DAMAGED = "it is no video, or damaged"
_REASONS: list[tuple[type[BaseException], str]] = [
    (av.error.HTTPUnauthorizedError, "it refused the user name or the password"),
    (av.error.HTTPForbiddenError, "it refused the user name or the password"),
    (av.error.HTTPNotFoundError, "it knows no such stream"),
    (av.error.HTTPError, "it answered with an error"),
    (FileNotFoundError, "there is no such file or device"),
    (PermissionError, "it may not be read"),
    (ConnectionRefusedError, "the connection was refused"),
    (av.error.ExitError, "it gave nothing for too long"),
    (TimeoutError, "it gave nothing for too long"),
    (av.error.InvalidDataError, _DAMAGED),
    (EOFError, "it ended before it began"),
]


class UnreadableVideo(Exception):
    """What a source is not; the text is the server's sentence."""


def frames(
    url: str,
    max_pixels: int,
    timeout: float,
    options: Mapping[str, str] = FILE_OPTIONS,
    form: str | None = None,
) -> Iterator[VideoFrame]:
    """Open a source once and yield its frames.

    A source that gives nothing for ``timeout`` seconds is given up. ``options`` and ``form`` are
    those of FFmpeg; by default a file is read, and nothing that it names elsewhere. Raises what
    PyAV raises, or ``UnreadableVideo``, also for frames of more than ``max_pixels``.
    """
    # Titles may be in any encoding, or damaged: nobody reads them.
    with av.open(
        url, format=form, options=dict(options), timeout=(timeout, timeout),
        metadata_errors="replace",
    ) as container:  # fmt: skip
        for frame in _decoded(container, best(container)):
            if frame.width * frame.height > max_pixels:
                raise UnreadableVideo(f"its frames are larger than {max_pixels} pixels")
            yield frame


def best(container: InputContainer) -> VideoStream:
    """Return the stream that players show, no cover. Raises ``UnreadableVideo``.

    One of a codec that is not known has no decoder, and not even a width.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        raise UnreadableVideo("it holds no video")
    if stream.codec_context is None:
        raise UnreadableVideo("it is coded in a way that is not known here, or damaged")
    return stream


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode packet by packet: a damaged packet, as a network loses some, costs its own frame.

    Decoders say in many ways that data is damaged.
    """
    for packet in container.demux(stream):
        try:
            found = packet.decode()
        except av.FFmpegError:
            continue
        yield from found


def reason(error: Exception, *, file: bool) -> str:
    """Say what happened without PyAV's own text, which holds the address and its password.

    Whatever else goes wrong with a file is its content: FFmpeg calls it by many names.
    """
    if isinstance(error, UnreadableVideo):
        return str(error)
    known = next((text for cause, text in _REASONS if isinstance(error, cause)), None)
    forbidden = getattr(error, "errno", None) == errno.EPERM  # the system's is EACCES
    if file and (known is None or forbidden):
        return _DAMAGED
    return known or f"it could not be read ({type(error).__name__})"


def encode(frame: VideoFrame) -> bytes:
    """Return a frame as a JPEG, as players show it."""
    data: bytes = simplejpeg.encode_jpeg(
        upright(frame), quality=QUALITY, colorspace="RGB", colorsubsampling="420"
    )
    return data

"""The child that reads one camera: a module for ``run_process``.

It connects once, decodes every frame and keeps the newest, and encodes one as JPEG when the server
asks. When the source ends or fails it says so and ends; the server then starts another. A file is
played at its own speed and begins anew at its end. PyAV is imported here and nowhere else.

JPEG and not raw pixels, because the bytes go through the server's event loop: at 1920x1080 raw ones
cost it 4 ms a frame and JPEG 0.06 ms, for 5 ms more here and 4 ms more in the worker.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

import av
import msgspec
import simplejpeg

from mataserver import landlock
from mataserver.cameras.messages import WANT, Failed, Given, Opening
from mataserver.orientation import upright
from mataserver.spawned import take_output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from mataserver.cameras.messages import Kind, Message

QUALITY = 90
LAG = 1.0
"""Seconds that a file may be behind its own clock before the clock is set anew."""
AHEAD = 0.8
"""Share of the source's time for which the next frame of a file may be waited for."""
BETWEEN = 0.04
"""Seconds between the end of a file and its beginning: the last frame is shown, too."""
_LIVE = {
    "fflags": "nobuffer",
    "flags": "low_delay",
    "fpsprobesize": "0",  # else the first second goes into guessing the frame rate
    "analyzeduration": "1000000",
}
_OPTIONS = {
    "rtsp": {
        **_LIVE,
        "rtsp_transport": "tcp",
        "allowed_media_types": "video",
        "protocol_whitelist": "rtsp,rtsps,rtp,tcp,tls",
    },
    "http": {**_LIVE, "protocol_whitelist": "http,https,tcp,tls,crypto"},
    "file": {"protocol_whitelist": "file"},
    "device": dict(_LIVE),
}
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


class Unreadable(Exception):
    """What a source is not; the text is the server's sentence."""


class Newest:
    """The newest decoded frame, and how many there were: decoding waits for nobody."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: VideoFrame | None = None
        self._count = self._taken = 0
        self._end: str | None = None

    def put(self, frame: VideoFrame) -> None:
        """Replace the frame that waits."""
        with self._changed:
            self._frame, self._count = frame, self._count + 1
            self._changed.notify()

    def end(self, detail: str) -> None:
        """Note that no more frames come."""
        with self._changed:
            self._end = detail
            self._changed.notify()

    def take(self) -> tuple[VideoFrame, int]:
        """Wait for a frame that was not taken yet. Raises ``Unreadable`` once there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._end is not None or self._count > self._taken)
            if self._frame is None or self._count == self._taken:
                raise Unreadable(self._end)
            self._taken = self._count
            return self._frame, self._count


def frames(opening: Opening) -> Iterator[VideoFrame]:
    """Open the source once and yield its frames. Raises what PyAV raises, or ``Unreadable``."""
    options = dict(_OPTIONS[opening.kind])
    form = "v4l2" if opening.kind == "device" else None
    limit = (opening.timeout, opening.timeout)
    # Titles may be in any encoding, or damaged: nobody reads them.
    with av.open(
        opening.url, format=form, options=options, timeout=limit, metadata_errors="replace"
    ) as container:
        for frame in _decoded(container, _best(container)):
            if frame.width * frame.height > opening.max_pixels:
                raise Unreadable(f"its frames are larger than {opening.max_pixels} pixels")
            yield frame


def _best(container: InputContainer) -> VideoStream:
    """Return the stream that players show, no cover. Raises ``Unreadable``."""
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        raise Unreadable("it holds no video")
    if stream.codec_context is None:
        raise Unreadable("it is coded in a way that is not known here, or damaged")
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


def played(opening: Opening) -> Iterator[VideoFrame]:
    """Yield a file's frames at its own speed, from the beginning again after the end.

    What is farther ahead than the server would wait for comes at once: such a time is damaged.
    """
    while True:
        zero: float | None = None
        for frame in frames(opening):
            now, at = time.monotonic(), frame.time or 0.0
            if zero is None or not -LAG <= zero + at - now <= AHEAD * opening.timeout:
                zero = now - at
            time.sleep(max(0.0, zero + at - now))
            yield frame
        if zero is None:
            raise Unreadable("none of its frames can be decoded")
        time.sleep(BETWEEN)


def decode(opening: Opening, newest: Newest) -> None:
    """Decode until the source ends. Whatever is raised becomes a sentence."""
    try:
        source = played(opening) if opening.kind == "file" else frames(opening)
        for frame in source:
            newest.put(frame)
        newest.end("the stream ended")
    except Exception as error:  # noqa: BLE001 - the worker's edge: what it is becomes a sentence
        newest.end(reason(error, opening.kind))


def reason(error: Exception, kind: Kind) -> str:
    """Say what happened without PyAV's own text, which holds the address and its password.

    Whatever else goes wrong with a file is its content: FFmpeg calls it by many names.
    """
    if isinstance(error, Unreadable):
        return str(error)
    known = next((text for cause, text in _REASONS if isinstance(error, cause)), None)
    forbidden = getattr(error, "errno", None) == errno.EPERM  # the system's is EACCES
    if kind == "file" and (known is None or forbidden):
        return _DAMAGED
    return known or f"it could not be read ({type(error).__name__})"


def encode(frame: VideoFrame) -> bytes:
    """Return a frame as a JPEG, as players show it."""
    data: bytes = simplejpeg.encode_jpeg(
        upright(frame), quality=QUALITY, colorspace="RGB", colorsubsampling="420"
    )
    return data


def say(stream: BinaryIO, message: Message, data: bytes = b"") -> None:
    """Write a message and the bytes that belong to it."""
    stream.write(msgspec.json.encode(message) + b"\n")
    stream.write(data)
    stream.flush()


def serve(opening: Opening, wants: BinaryIO, answers: BinaryIO) -> None:
    """Answer each want with the newest frame, until there are no more or nobody wants one."""
    newest = Newest()
    threading.Thread(target=decode, args=(opening, newest), daemon=True).start()
    try:
        while wants.read(len(WANT)):
            frame, count = newest.take()
            data = encode(frame)
            say(answers, Given(count, len(data)), data)
    except Unreadable as error:
        say(answers, Failed(str(error)))


def main() -> None:
    """Read one camera."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    av.logging.set_level(None)  # its lines hold addresses with their passwords
    answers = take_output()
    opening = msgspec.json.decode(sys.stdin.buffer.readline(), type=Opening)
    landlock.change_nothing()  # what decodes a stranger's video has nothing to write
    serve(opening, sys.stdin.buffer, answers)
    # Not sys.exit: a decoder that hangs would be waited for.
    os._exit(0)

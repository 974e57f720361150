"""The child that reads one camera: a module for ``run_process``.

It connects once, decodes every frame (of Motion JPEG those that are used), keeps the newest, and
encodes one as JPEG when asked. When the source ends or fails it says so and ends; the server starts
another. A file is played at its own speed, from its beginning again after its end.

JPEG and not raw pixels, because the bytes go through the server's event loop: at 1920x1080 raw ones
cost it 4 ms a frame and JPEG 0.06 ms, for 5 ms more here and 4 ms more in the worker.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import av

from mataserver import (
    Parent,
    PendingFrame,
    UnreadableVideo,
    encode_frame,
    read_live_video,
    read_video,
    video_problem,
)
from mataserver_cameras.messages import NEXT_FRAME, FailureMessage, FrameMessage, OpenRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av.video.frame import VideoFrame

DECODING = 10.0
"""Seconds, besides the source's own time, until the first frame of what it sends can be decoded.

A stream that is joined in the middle is decoded from its next key frame on: every 10 s at times.
"""
LAG = 1.0
"""Seconds that a file may be behind its own clock before the clock is set anew."""
AHEAD = 0.8
"""Share of the source's time for which the next frame of a file may be waited for."""
BETWEEN = 0.04
"""Seconds between the end of a file and its beginning: the last frame is shown, too."""
STALE = 2.0
"""Seconds after which the last frame of a source that ended meanwhile is none of now."""
DAMAGE = 1.0
"""Seconds after which damaged frames are told without a whole one."""
LOSSY = "its frames arrive damaged: parts of them are lost"
NO_STREAM = "it ended before its first frame: a single picture is no stream"
_LIVE = {
    "flags": "low_delay",
    "fpsprobesize": "0",  # else the first second goes into guessing the frame rate
    "analyzeduration": "1000000",
}
_FORMATS = (
    *("mpjpeg", "mjpeg", "jpeg_pipe", "png_pipe", "webp_pipe", "image2", "gif", "avi", "asf"),
    *("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "av1", "obu", "ivf", "flv", "live_flv"),
    *("mov", "mp4", "matroska", "webm", "ogg", "nut"),
)
"""What a camera over HTTP may send, as FFmpeg calls it: what holds its pictures itself."""
_UNVERIFIED = {"tls_verify": "0"}
"""Cameras sign their own certificates. It is FFmpeg's default, which a release may change."""
_OPTIONS = {
    "rtsp": {
        **_LIVE,
        **_UNVERIFIED,
        "rtsp_transport": "tcp",
        "allowed_media_types": "video",
        "protocol_whitelist": "rtsp,rtsps,rtp,tcp,tls",
    },
    "http": {
        **_LIVE,
        "fflags": "nobuffer",  # what it is recognised by is no frame: a single picture gives none
        **_UNVERIFIED,
        "protocol_whitelist": "http,https,tcp,tls",
        # The address was looked at, and no other is to be asked: neither by a redirect nor by a
        # playlist, which names more.
        "max_redirects": "0",
        "format_whitelist": ",".join(_FORMATS),
    },
    "device": dict(_LIVE),
}


class NewestFrame:
    """The newest frame, and how many there were: what reads them never waits.

    One that is decoded only now may turn out to be damaged. If all of them do for ``timeout``
    seconds, the source is given up.
    """

    def __init__(self, timeout: float = math.inf) -> None:
        self._changed = threading.Condition()
        self._timeout = timeout
        self._failing_since: float | None = None
        self._frame: VideoFrame | PendingFrame | None = None
        self._count = self._damaged = self._reported_damaged = 0
        self._counts = 0, 0  # with the newest frame
        self._at = 0.0
        self._end: str | None = None

    def put(self, frame: VideoFrame | PendingFrame) -> None:
        """Replace the frame that waits."""
        with self._changed:
            self._frame, self._count, self._at = frame, self._count + 1, time.monotonic()
            self._counts = self._count, self._damaged
            self._changed.notify()

    def leave_out(self, count: int) -> None:
        """Count damaged frames."""
        with self._changed:
            self._count, self._damaged = self._count + count, self._damaged + count
            self._changed.notify()

    def end(self, detail: str) -> None:
        """Note that no more frames come."""
        with self._changed:
            self._end = detail
            self._changed.notify()

    def take(self) -> tuple[VideoFrame | None, int, int]:
        """Wait for a frame that was not taken yet. Raises ``UnreadableVideo`` after the last.

        Return it, the frames up to now, and how many of them were damaged; no frame if for
        ``DAMAGE`` seconds, or before the end, all were. While nobody looks none is asked for: one
        that was left at the end may show long ago.
        """
        asked = time.monotonic()
        while True:
            found, count, damaged = self._taken(asked)
            if not isinstance(found, PendingFrame):
                return found, count, damaged
            if (frame := found.decode()) is not None:
                self._failing_since = None
                return frame, count, damaged
            self._note_damage()

    def _note_damage(self) -> None:
        """Count the frame that was taken as damaged. Raises ``UnreadableVideo`` if all are."""
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since >= self._timeout:
            raise UnreadableVideo(LOSSY)
        with self._changed:
            self._damaged += 1

    def _taken(self, asked: float) -> tuple[VideoFrame | PendingFrame | None, int, int]:
        """Wait for a frame, or for damage that is to be told, for ``take`` that began then."""

        def has_news() -> bool:
            is_damage = (
                self._damaged > self._reported_damaged and time.monotonic() - asked >= DAMAGE
            )
            return self._end is not None or self._frame is not None or is_damage

        with self._changed:
            self._changed.wait_for(has_news)
            frame, self._frame = self._frame, None
            if frame is not None and (self._end is None or time.monotonic() - self._at <= STALE):
                self._reported_damaged = self._counts[1]
                return frame, *self._counts
            if self._damaged == self._reported_damaged:
                raise UnreadableVideo(self._end)
            self._reported_damaged = self._damaged
            return None, self._count, self._damaged


class RedirectGuard(logging.Handler):
    """Ends a source whose decoder is about to follow a redirect: that address was not checked.

    FFmpeg has an option against it for HTTP and none for RTSP, but says so before it connects. Its
    thread is kept there; the process ends after its message to the server.
    """

    def __init__(self, newest: NewestFrame) -> None:
        super().__init__()
        self._newest = newest

    @classmethod
    def watch(cls, newest: NewestFrame) -> None:
        """Listen to FFmpeg from here on. Nothing of it is printed: it contains addresses."""
        lines = logging.getLogger("libav")
        lines.propagate = False
        lines.addHandler(cls(newest))
        lines.setLevel(logging.INFO)
        av.logging.set_level(av.logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a line."""
        if "Redirecting to " in record.getMessage():
            self._newest.end("it redirects to another address, which is not followed")
            threading.Event().wait()


def live_frames(
    opening: OpenRequest, on_damaged: Callable[[int], None] = lambda _count: None
) -> Iterator[VideoFrame | PendingFrame]:
    """Open a live source once and yield its frames. Raises as ``read_live_video``."""
    form = "v4l2" if opening.kind == "device" else None
    options = _OPTIONS[opening.kind]
    return read_live_video(
        opening.url, opening.max_pixels, opening.timeout, options, form,
        opening.timeout + DECODING, on_damaged=on_damaged,
    )  # fmt: skip


def paced_frames(
    opening: OpenRequest, on_damaged: Callable[[int], None] = lambda _count: None
) -> Iterator[VideoFrame]:
    """Yield a file's frames at its own speed, from the beginning again after the end.

    What is farther ahead than the server would wait for comes at once: such a time is damaged.
    """
    while True:
        zero: float | None = None
        url, most, timeout = opening.url, opening.max_pixels, opening.timeout
        for frame in read_video(url, most, timeout, on_damaged=on_damaged):
            now, at = time.monotonic(), frame.time or 0.0
            if zero is None or not -LAG <= zero + at - now <= AHEAD * opening.timeout:
                zero = now - at
            time.sleep(max(0.0, zero + at - now))
            yield frame
        if zero is None:
            raise UnreadableVideo("none of its frames can be decoded")
        time.sleep(BETWEEN)


def decode(opening: OpenRequest, newest: NewestFrame) -> None:
    """Decode until the source ends. Whatever is raised becomes a sentence."""
    begun = False
    try:
        opened = paced_frames if opening.kind == "file" else live_frames
        source: Iterator[VideoFrame | PendingFrame] = opened(opening, newest.leave_out)
        if opening.kind == "rtsp":
            RedirectGuard.watch(newest)
        for frame in source:
            av.logging.set_level(None)  # it is connected; lines cost the interpreter's lock
            newest.put(frame)
            begun = True
        newest.end("the stream ended" if begun else NO_STREAM)
    except Exception as error:  # noqa: BLE001 - the worker's edge: what it is becomes a sentence
        newest.end(problem(error, opening, begun=begun))


def problem(error: Exception, opening: OpenRequest, *, begun: bool = False) -> str:
    """Describe why a source cannot be read, or no more if it has ``begun``.

    FFmpeg has one error for a name that nobody knows, for TLS that fails, for a redirect, and for a
    stream over HTTP that breaks off.
    """
    said = video_problem(error, file=opening.kind == "file")
    number = getattr(error, "errno", None)
    if opening.kind == "http" and not begun and number == errno.EINVAL:  # not one of _FORMATS
        return "it sends what is not read: a playlist (HLS, DASH), or a rare format"
    if opening.kind == "http" and not begun and isinstance(error, av.error.InvalidDataError):
        return f"{said}, or it sends pictures one by one that are no JPEGs"
    failed = number == errno.EIO
    if begun or not failed or opening.kind not in {"rtsp", "http"}:
        return said
    try:
        socket.getaddrinfo(urlsplit(opening.url).hostname, None)
    except OSError:
        return "the name of its host is not known"
    return said + (", or it redirects, which is not followed" if opening.kind == "http" else "")


def serve(opening: OpenRequest, server: Parent) -> None:
    """Answer each request with the newest frame, until there are no more frames or requests."""
    newest = NewestFrame(opening.timeout)
    threading.Thread(target=decode, args=(opening, newest), daemon=True).start()
    try:
        while server.read(len(NEXT_FRAME)):
            frame, count, damaged = newest.take()
            data = b"" if frame is None else encode_frame(frame)
            server.send(FrameMessage(count, damaged, len(data)), data)
    except UnreadableVideo as error:
        server.send(FailureMessage(str(error)))


def main() -> None:
    """Read one camera."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    av.logging.set_level(None)  # its lines hold addresses with their passwords
    server = Parent.on_pipes(sys.argv[1:])
    opening = next(server.messages(OpenRequest))
    server.change_nothing()  # what decodes a stranger's video has nothing to write
    serve(opening, server)
    # Not sys.exit: a decoder that hangs would be waited for.
    os._exit(0)

"""What an ``infer`` job looks at, item by item: a video, a ZIP of pictures, a folder of pictures.

The order is the same at each attempt: an item's number tells which it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mataserver import BadRequest, upright_frame
from mataserver_jobs import directory
from mataserver_jobs.entry_names import decoded_name
from mataserver_jobs.other_files import refuse_other

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_PIXELS = 100_000_000
MAX_PICTURE_BYTES = 100_000_000
MAX_PICTURES = 1_000_000
MAX_RATIO = 200
"""How much larger a picture in a ZIP may be than what is stored of it. They hardly compress."""
SMALL_BYTES = 1_000_000
"""Below this the ratio tells nothing: a picture of one colour compresses well."""
QUALITY = 95
_ENCRYPTED = 0x1
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
)
"""What reading a damaged entry raises."""
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Item:
    """An encoded picture; ``file`` is its name, of a video's frame empty, ``time`` in seconds.

    One that cannot be read has an ``error``.
    """

    image: bytes
    file: str = ""
    time: float | None = None
    error: str = ""


class ItemSource(Protocol):
    """Items in order. ``total`` is how many are expected, 0 if it is unknown.

    ``moves``: a video and no pictures; ``is_damaged``, whether some of it was unreadable.
    """

    total: int
    is_damaged: bool
    moves: bool

    def items(self, start: int, every: int) -> Iterator[Item]:
        """Yield each ``every``-th item, from the ``start``-th of those. Raises ``BadRequest``."""


def open_source(path: Path) -> ItemSource:
    """Return what a file or a folder holds. Raises ``BadRequest`` for what cannot be used."""
    if path.is_dir():
        return Folder(path)
    if zipfile.is_zipfile(path):
        return Archive(path)
    refuse_other(path)
    return Video(path)


class Folder:
    """The files of a folder, not of those below it, in the natural order of their names."""

    moves = False

    def __init__(self, path: Path) -> None:
        self.is_damaged = False
        self._inside = inside = path.resolve()
        self._files = sorted(
            (
                each
                for each in path.iterdir()
                if each.is_file()
                and not each.name.startswith(".")
                and each.resolve().is_relative_to(inside)
            ),
            key=lambda each: natural_key(each.name),
        )
        self.total = len(self._files)
        if not self._files:
            raise BadRequest("The folder has no pictures")

    def items(self, start: int, every: int) -> Iterator[Item]:
        """Yield the files."""
        for path in self._files[start * every :: every]:
            if not path.resolve().is_relative_to(self._inside):
                yield Item(b"", _text(path), error="it leads out of the folder")
            elif path.stat().st_size > MAX_PICTURE_BYTES:
                yield Item(b"", _text(path), error=f"it is over {MAX_PICTURE_BYTES} bytes")
            else:
                yield Item(path.read_bytes(), _text(path))


def _text(path: Path) -> str:
    """Return a file's name as text, also one whose bytes are none."""
    return os.fsencode(path.name).decode(errors="replace")


class Archive:
    """The files of a ZIP, in the natural order of their names. Nothing is written to the disk."""

    moves = False

    def __init__(self, path: Path) -> None:
        self.is_damaged = False
        directory.check(path, MAX_PICTURES)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise BadRequest("The ZIP file is damaged") from error
        entries = self._zip.infolist()
        for entry in entries:  # zipfile still finds an entry by its original name
            entry.filename = decoded_name(entry).partition("\0")[0]
            _check(entry)
        self._entries = sorted(
            (each for each in entries if _is_picture(each)),
            key=lambda each: natural_key(each.filename),
        )
        self.total = len(self._entries)
        if not self._entries:
            raise BadRequest("The ZIP file has no pictures")

    def items(self, start: int, every: int) -> Iterator[Item]:
        """Yield the entries; their checksums are looked at."""
        for entry in self._entries[start * every :: every]:
            try:
                data = directory.read(self._zip, entry)
            except _UNREADABLE:
                yield Item(b"", entry.filename, error="it is damaged in the ZIP file")
                continue
            yield Item(data, entry.filename)


def _check(entry: zipfile.ZipInfo) -> None:
    """Raise ``BadRequest``, with the entry's name, for one that no honest archive has."""
    name, parts = entry.filename[:128], re.split(r"[/\\]", entry.filename)
    if entry.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise BadRequest(f"{name}: its name leads out of the ZIP file")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise BadRequest(f"{name}: it is a link")
    if entry.flag_bits & _ENCRYPTED:
        raise BadRequest(f"{name}: it is encrypted")
    if _is_picture(entry) and entry.compress_type not in directory.PACKED_BY:
        raise BadRequest(f"{name}: it is packed by a method that is not supported; use deflate")
    bomb = entry.file_size > MAX_RATIO * max(1, entry.compress_size)
    if entry.file_size > MAX_PICTURE_BYTES or (bomb and entry.file_size > SMALL_BYTES):
        raise BadRequest(f"{name}: it would take {entry.file_size} bytes, too many for a picture")


def _is_picture(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry may be one; systems add files of their own."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in entry.filename.split("/"))
    return not (entry.is_dir() or hidden)


class Video:
    """The whole frames of a video. ``is_damaged`` is set when some were left out."""

    moves = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_damaged = False
        with self._open() as container:
            self.total = _frame_count(container, _video(container))

    @contextlib.contextmanager
    def _open(self) -> Iterator[InputContainer]:
        import av

        from mataserver import open_video  # with PyAV

        try:
            container = open_video(self._path)
        except (av.FFmpegError, ValueError) as error:
            raise BadRequest("It is no ZIP file and no video that can be read") from error
        with container:
            yield container

    def items(self, start: int, every: int) -> Iterator[Item]:
        """Yield the frames, re-encoded."""
        import simplejpeg

        for number, frame in enumerate(self._frames()):
            if number < start * every or number % every:
                continue
            pixels = upright_frame(frame)
            image = simplejpeg.encode_jpeg(pixels, quality=QUALITY, colorspace="RGB")
            yield Item(image, time=frame.time)

    def _frames(self) -> Iterator[VideoFrame]:
        from mataserver import timed_frames  # with PyAV

        self.is_damaged = False
        with self._open() as container:
            stream = _video(container)
            yield from timed_frames(self._decoded(container, stream), container, stream)

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        """Yield what can be decoded; the rest of a damaged video is left out."""
        import av

        from mataserver import WholeFrames  # with PyAV

        decoder = WholeFrames(stream)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet, self.is_damaged = None, True
            if packet is None:
                return
            yield from decoder.decode(packet)
            self.is_damaged = self.is_damaged or decoder.is_damaged


def _video(container: InputContainer) -> VideoStream:
    from mataserver import UnreadableVideo, video_stream

    try:
        stream = video_stream(container)
    except UnreadableVideo as error:
        raise BadRequest(f"The file has no pictures that move: {error}") from None
    if stream.width * stream.height > MAX_PIXELS:
        raise BadRequest(f"The video's frames have over {MAX_PIXELS} pixels")
    # Each frame may be of another size: one that is too large costs as much as a damaged one.
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _frame_count(container: InputContainer, stream: VideoStream) -> int:
    """Return how many frames there are, or by length and rate should be; 0 if it is unknown."""
    if stream.frames or not container.duration or not stream.average_rate:
        return stream.frames
    return round(container.duration * stream.average_rate / 1_000_000)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return what sorts names as people do: 2 before 10.

    Of two numbers the longer one is larger: Python reads none of thousands of digits.
    """
    return [
        (0, len(number := part.lstrip("0")), number)
        if part.isascii() and part.isdigit()
        else (1, 0, part)
        for part in _DIGITS.split(name)
    ]

"""An annotated video, written in parts: what died goes on behind the last whole one.

A part is a file that is whole or not there. At the end the parts are joined as they are: each
begins with a key frame, and none has frames that refer ahead, so nothing is encoded twice.
"""

from __future__ import annotations

import contextlib
import itertools
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mataserver import sync
from mataserver_jobs import durable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from av.container import InputContainer
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Size = tuple[int, int]

LONGEST_SIDE = 1920
"""Pixels; larger pictures are scaled down: it is for people to look at."""
RATE = 25
_MILLISECOND = Fraction(1, 1000)
_ENCODER = {"preset": "veryfast", "crf": "23", "bf": "0", "threads": "1"}
_LAST_MS = 40
_LATEST = 9e9
"""Seconds of the latest frame: Matroska holds 2^63 nanoseconds, a header may say more."""
_LONGEST_MS = 86_400_000
"""How long a frame is shown at most: a header may say years, which an MP4 cannot hold."""


class VideoParts:
    """A video below ``folder``. All frames have the size of the first, even if they did not."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._size_file = folder / "size"

    @property
    def parts(self) -> int:
        """How many parts are whole."""
        numbers = (self._part(number).exists() for number in itertools.count())
        return sum(itertools.takewhile(bool, numbers))

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:06}.mkv"

    def add(self, number: int, frames: Iterable[tuple[Pixels, float]]) -> None:
        """Write a part: RGB pixels ``[H, W, 3]``, each with its time in seconds; maybe none."""
        fresh, last = self._folder / "new", -1
        with contextlib.ExitStack() as closing:
            container: Any = None
            for pixels, seconds in frames:
                fitting = self._fit(pixels)
                if container is None:
                    container, stream = _open_output(fresh, fitting, closing)
                frame = _frame(fitting)
                last = max(last + 1, round(min(seconds, _LATEST) * 1000))
                frame.pts, frame.time_base = last, _MILLISECOND
                container.mux(stream.encode(frame))
            if container is None:
                fresh.write_bytes(b"")
            else:
                container.mux(stream.encode(None))
        sync(fresh)  # a power failure would leave an empty part, which counts as whole
        fresh.replace(self._part(number))

    def _size(self, first: Size) -> Size:
        """Return width and height of all frames: what the first one gives."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            width, height = map(int, self._size_file.read_text(encoding="ascii").split())
            return width, height
        width, height = _even_size(first)
        durable.replace(self._size_file, f"{width} {height}".encode())
        return width, height

    def _fit(self, pixels: Pixels) -> Pixels:
        """Return pixels of the video's size: scaled where they must be, with black beside them."""
        height, width = pixels.shape[:2]
        size = self._size((width, height))
        if (width, height) == size:
            return pixels
        inner = size
        if _even_size((width, height)) != size:
            scale = min(size[0] / width, size[1] / height)
            inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = Image.fromarray(pixels).resize(inner)
        ground = Image.new("RGB", size)
        ground.paste(picture, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
        return np.array(ground)

    def join(self, target: Path) -> bool:
        """Write the whole video; return False where no part has a frame."""
        import av

        places = [place for place in map(self._part, range(self.parts)) if place.stat().st_size]
        if not places:
            return False
        fresh = self._folder / "whole"
        options = {"movflags": "+faststart"}
        with (
            av.open(str(places[0])) as first,
            av.open(str(fresh), "w", format="mp4", options=options) as made,
        ):
            stream = made.add_stream_from_template(first.streams.video[0])
            for packet in _retime(_packets(places, stream)):
                made.mux(packet)
        sync(fresh)  # before the parts go
        fresh.replace(target)
        return True

    def remove(self) -> None:
        """Remove the parts."""
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()


def _even_size(size: Size) -> Size:
    """Return a size as a video may have it: even, as its colours need it, and not too large."""
    scale = min(1.0, LONGEST_SIDE / max(size))
    width, height = (max(2, round(side * scale) // 2 * 2) for side in size)
    return width, height


def _open_output(place: Path, first: Pixels, closing: contextlib.ExitStack) -> tuple[Any, Any]:
    """Return a file to write, and its stream of frames as large as the first."""
    import av

    container = closing.enter_context(av.open(str(place), "w", format="matroska"))
    stream = container.add_stream("libx264", rate=RATE, options=_ENCODER)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = _MILLISECOND
    return container, stream


def _frame(pixels: Pixels) -> Any:
    import av

    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")


def _packets(places: Iterable[Path], target: Any) -> Iterator[Any]:
    """Yield the packets of all parts as those of the ``target`` stream.

    They outlive the file that they are read from; its own stream does not.
    """
    import av

    for place in places:
        container: InputContainer
        with av.open(str(place)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = target
                    yield packet


def _retime(packets: Iterator[Any]) -> Iterator[Any]:
    """Yield packets at times that grow from part to part too, each until the next one's.

    Where frames are over ``_LONGEST_MS`` apart, that one and all later ones come sooner by the
    excess.
    """
    before: Any = None
    latest = excess = 0
    for packet in packets:
        at = packet.pts or 0
        if before is not None:
            at = max(at, latest + 1)
            excess += max(at - latest - _LONGEST_MS, 0)
            before.duration = at - excess - before.pts
            yield before
        latest = at
        packet.pts = packet.dts = at - excess
        before = packet
    if before is not None:
        before.duration = before.duration or _LAST_MS
        yield before

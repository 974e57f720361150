"""Short videos for the tests: every frame tells its number, and shapes move across it."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_BITS, _BLOCK = 10, 8
WIDTH, HEIGHT = _BITS * _BLOCK, 64
QUIET = {"libx265": {"x265-params": "log-level=none:keyint=6"}}


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Two shapes, moving, and on the upper edge the number as ten black or white blocks."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, :, 1] = np.linspace(30, 120, width, dtype=np.uint8)
    left, top = (number * 3) % (width - 20), 20 + number % (height - 40)
    image[top : top + 16, left : left + 20] = (230, 40, 40)
    y, x = np.ogrid[:height, :width]
    centre = width - 1 - (number * 2) % width
    image[(y - height + 16) ** 2 + (x - centre) ** 2 < 81] = (60, 60, 240)
    for bit in range(_BITS):
        image[:_BLOCK, bit * _BLOCK : (bit + 1) * _BLOCK] = 255 * (number >> bit & 1)
    return image


def number(image: np.ndarray) -> int:
    """Read the number of a frame."""
    blocks = image[1 : _BLOCK - 1, : _BITS * _BLOCK].mean(axis=(0, 2)).reshape(_BITS, _BLOCK)
    return sum(1 << bit for bit, block in enumerate(blocks) if block[1:-1].mean() > 128)


def with_damage(data: bytes, number: int) -> bytes:
    """Return a video of which the second half of a packet's bytes is zero."""
    with av.open(io.BytesIO(data)) as container:
        packet = [bytes(each) for each in container.demux(video=0) if each.size][number]
    assert data.count(packet) == 1
    half = len(packet) // 2
    return data.replace(packet, packet[:half] + bytes(len(packet) - half))


def write(
    path: Path,
    count: int = 30,
    codec: str = "libx264",
    *,
    options: dict[str, str] | None = None,
    layout: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rate: int = 10,
) -> Path:
    """Write a video; ``times`` are milliseconds at which its frames are shown, if not regular.

    ``options`` are the encoder's, ``layout`` the container's.
    """
    base = Fraction(1, 1000) if times is not None else Fraction(1, rate)
    asked = {"g": "6", **QUIET.get(codec, {}), **(options or {})}
    with av.open(str(path), "w", options=layout or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=asked)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = base
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = times[index] if times is not None else index, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path

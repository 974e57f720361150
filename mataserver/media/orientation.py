"""Orientation of video frames: rotated and mirrored according to their display matrix.

A matrix ``a b u c d v x y w`` (ISO/IEC 14496-12, 8.3.2, the track header) maps the pixel in column
p and row q to ``(a p + c q + x, b p + d q + y)``. Cameras write one of eight, those of EXIF's
``Orientation``. Any other is approximated by the nearest of them: pixels are neither scaled nor
sheared here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

_MATRIX = "DISPLAYMATRIX"
_KINDS = 40
"""Upper bound of FFmpeg's side data types; version 8 has 33."""


def upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a decoded PyAV frame as contiguous RGB ``[H, W, 3]``, oriented as players show it.

    Raises what PyAV raises for pixels that cannot be converted.
    """
    # By itself PyAV starts a thread a core for each frame, which cost more than the conversion.
    pixels = turned(frame.to_ndarray(format="rgb24", threads=1), _matrix(frame))
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def turned(pixels: NDArray[Any], matrix: Sequence[int]) -> NDArray[Any]:
    """Return a view of ``pixels`` ``[H, W, ...]`` oriented by ``matrix``, nine numbers.

    A singular matrix, or one of another length, is ignored.
    """
    if len(matrix) != 9:
        return pixels
    a, b, _, c, d, *_ = map(int, matrix)
    if a * d == b * c:
        return pixels
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, across, down = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _matrix(frame: VideoFrame) -> Sequence[int]:
    """Return the numbers of a frame's matrix; empty without one."""
    try:
        found = _side_data(frame)
    except ValueError:
        # PyAV fails on all side data if one type is unknown to it, such as the EXIF of a JPEG.
        found = _side_data(_named(frame))
    numbers: list[int] = np.frombuffer(found.get(_MATRIX, b""), np.int32).tolist()
    return numbers


def _side_data(frame: VideoFrame) -> Any:
    """Return a frame's side data. Raises ``ValueError`` for a type unknown to PyAV.

    ``frame.side_data`` would create a reference cycle with the frame: its pixels, and its decoder
    with its threads, would live until a garbage collection.
    """
    from av.sidedata.sidedata import SideDataContainer

    kind: Any = SideDataContainer  # its constructor is untyped in PyAV
    return kind(frame)


def _named(frame: VideoFrame) -> VideoFrame:
    """Return a frame without side data types unknown to PyAV; pixels are not copied."""
    from fractions import Fraction

    from av.filter import Graph
    from av.sidedata.sidedata import Type

    graph = Graph()
    last = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    for kind in sorted(set(range(_KINDS)) - {each.value for each in Type}):
        following = graph.add("sidedata", f"mode=delete:type={kind}")
        last.link_to(following)
        last = following
    end = graph.add("buffersink")
    last.link_to(end)
    graph.configure()
    graph.push(frame)
    pulled: Any = end.pull()
    filtered: VideoFrame = pulled
    return filtered

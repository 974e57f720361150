"""The file formats of clouds: binary PLY and GLB."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver_reconstruct.cloud import Cloud

_POINT = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
)
_WORDS = {"<f4": "float", "|u1": "uchar"}
_FLOAT, _POINTS, _VERTICES = 5126, 0, 34962


def ply(cloud: Cloud) -> bytes:
    """Return a cloud as binary little-endian PLY; z is up."""
    points = np.empty(len(cloud.xyz), _POINT)
    for at, name in enumerate("xyz"):
        points[name] = cloud.xyz[:, at]
    for at, name in enumerate(("red", "green", "blue")):
        points[name] = cloud.rgb[:, at]
    fields = [f"property {_WORDS[_POINT[name].str]} {name}" for name in _POINT.names or ()]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *fields]
    return "\n".join([*head, "end_header", ""]).encode() + points.tobytes()


def glb(cloud: Cloud) -> bytes:
    """Return a cloud as binary glTF 2.0, rotated because y is up there, with linear colours.

    Raises ``ValueError`` without points: an accessor has at least one.
    """
    if not len(cloud.xyz):
        raise ValueError("glTF has no empty clouds")
    places = (cloud.xyz[:, [0, 2, 1]] * [1, 1, -1]).astype("<f4")
    binary = places.tobytes() + _linear(cloud.rgb).tobytes()
    text = json.dumps(_document(places, len(binary))).encode()
    text += b" " * (-len(text) % 4)
    whole = 12 + 8 + len(text) + 8 + len(binary)  # the binary's parts are multiples of 4 bytes
    return b"".join(
        (
            struct.pack("<4sII", b"glTF", 2, whole),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        )
    )


def _linear(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert sRGB colours to linear ones from 0 to 1.

    As floats: 8 bits would merge many dark tones, and trimesh reads 16 bits as 8.
    """
    parts = np.arange(256) / 255
    curve = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    found: NDArray[np.float32] = curve.astype("<f4")[rgb]
    return found


def _document(places: Any, size: int) -> dict[str, Any]:
    count, split = len(places), places.nbytes
    low, high = places.min(axis=0).tolist(), places.max(axis=0).tolist()
    return {
        "asset": {"version": "2.0", "generator": "mataserver-reconstruct"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "mode": _POINTS}]}
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _FLOAT,
                "count": count,
                "type": "VEC3",
                "min": low,
                "max": high,
            },
            {
                "bufferView": 1,
                "componentType": _FLOAT,
                "count": count,
                "type": "VEC3",
            },
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": split, "target": _VERTICES},
            {
                "buffer": 0,
                "byteOffset": split,
                "byteLength": size - split,
                "target": _VERTICES,
            },
        ],
        "buffers": [{"byteLength": size}],
    }

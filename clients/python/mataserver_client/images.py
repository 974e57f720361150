"""Images and parameters on their way out: where bytes come from and how a form spells values."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from mataserver_client.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

Image = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""An encoded image (JPEG, PNG, WebP ...): its bytes, the path of its file, or an open file."""

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "image/avif"),
    (re.compile(rb"....ftyp(he[iv]|mif1|msf1)", re.DOTALL), "image/heic"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"BM"), "image/bmp"),
    (re.compile(rb"II\*\0|MM\0\*"), "image/tiff"),
)


async def read(image: Image) -> bytes:
    """Return the encoded image; files are read beside the event loop.

    Raises ``OSError`` for a file that cannot be read, ``BadRequest`` for an open one that stands at
    its end, and ``TypeError`` for anything but an image.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return await asyncio.to_thread(Path(image).read_bytes)
    if not hasattr(image, "read"):
        kind = type(image).__name__
        raise TypeError(f"an image is encoded bytes, a path or a binary file, not {kind}")
    data = await asyncio.to_thread(image.read)
    if not isinstance(data, bytes):
        raise TypeError("the file of an image must be opened in binary mode")
    if not data:
        raise BadRequest("image is empty: its file is at the end; seek(0) goes back")
    return data


def media_type(data: bytes) -> str:
    """Return the image's media type, from its first bytes."""
    for signature, name in _SIGNATURES:
        if signature.match(data):
            return name
    return "image/x-unknown"


def fields(params: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters as the text that forms and queries carry; None is not sent."""
    return {
        name: value if isinstance(value, str) else encode(value).decode()
        for name, value in params.items()
        if value is not None
    }


def encode(value: object) -> bytes:
    """Return JSON. Arrays and numbers of numpy, and what else has ``tolist``, become plain ones.

    Raises ``TypeError`` for what JSON does not know.
    """
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"JSON holds no {type(value).__name__}")
    return value.tolist()

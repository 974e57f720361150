"""Detection of file formats: supported ones, and others that are named in errors."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import NamedTuple

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats that it reads here by itself."""
HEIF = "HEIF"
_HEIF_PACKAGE = "pi_heif"
_READ = "JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF and PPM are read"
_READ_TOO = "JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP, TIFF and PPM are read"
_HEAD, _BRANDS = 4096, 256
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_VIDEO = "send one frame of it, or its frames one by one through a session (POST /v1/sessions)"
_CONVERT = "send it as JPEG or PNG"


class Kind(NamedTuple):
    """A file format that may be mistaken for a picture, with advice for the user."""

    name: str
    advice: str


_VIDEO_KIND = Kind("a video", _VIDEO)
_AVIF = Kind("an AVIF picture that is damaged or of an unsupported sort", _CONVERT)
_HEIC = Kind("a HEIC picture that is damaged or of an unsupported sort", _CONVERT)
_UNREAD_HEIC = Kind(
    "a HEIC picture, which this server reads once it has mataserver[heic]", _CONVERT
)
_MARKUP = rb"(?:\xef\xbb\xbf)?\s*(?:<[?!][\s\S]*)?"
_KINDS = (
    (rb"[\s\S]{0,1020}%PDF-", Kind("a PDF", "send its pages as JPEG or PNG")),
    (_MARKUP + rb"<svg\b", Kind("an SVG drawing", "send it as PNG")),
    (_MARKUP + rb"<(?:html|head|body)\b", Kind("a web page", "send the picture itself")),
    (rb"\x1a\x45\xdf\xa3|RIFF[\s\S]{4}AVI |\x00\x00\x01[\xb3\xba]|FLV\x01|OggS", _VIDEO_KIND),
    (rb"\x47[\s\S]{187}\x47|\x30\x26\xb2\x75\x8e\x66\xcf\x11", _VIDEO_KIND),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", Kind("a JPEG XL picture", _CONVERT)),
    (rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  ", Kind("a JPEG 2000 picture", _CONVERT)),
    (rb"8BP[SB]", Kind("a Photoshop document", _CONVERT)),
    (rb"%!PS|\xc5\xd0\xd3\xc6", Kind("a PostScript drawing", _CONVERT)),
    (rb"\x00\x00[\x01\x02]\x00[\x01-\xff]\x00", Kind("an icon", _CONVERT)),
    (rb"FUJIFILMCCD-RAW", Kind("a camera's raw file", _CONVERT)),
    (
        rb"data:|/9j/|iVBORw0KGgo|UklGR|R0lGOD",
        Kind("base64 text", "send the decoded bytes, or the text as `image` in JSON"),
    ),
)  # fmt: skip
_SIGNS = tuple((re.compile(sign, re.IGNORECASE), kind) for sign, kind in _KINDS)


def reads_heif() -> bool:
    """Whether the package that reads HEIC is installed."""
    return find_spec(_HEIF_PACKAGE) is not None


def is_heif(data: bytes | memoryview) -> bool:
    """Whether the bytes start like a HEIC picture, of any brand."""
    return _media_brand(bytes(data[:_BRANDS])) is _HEIC


def refusal(data: bytes | memoryview) -> str:
    """Return the error message for undecodable bytes: what they are, and what to do."""
    head = bytes(data[:_HEAD])
    kind = _media_brand(head) or next((kind for sign, kind in _SIGNS if sign.match(head)), None)
    readable = reads_heif()
    if kind is _HEIC and not readable:
        kind = _UNREAD_HEIC
    read = _READ_TOO if readable else _READ
    if kind is None:
        return f"image cannot be decoded: unknown format or broken header; {read}"
    return f"image cannot be decoded: it is {kind.name}: {kind.advice}; {read}"


def _media_brand(head: bytes) -> Kind | None:
    """Return the kind of an ISO base media file (ISO/IEC 14496-12, 4.3), None for other bytes."""
    if head[4:8] != b"ftyp":
        return _VIDEO_KIND if head[4:8] in {b"moov", b"mdat", b"wide"} else None
    end = min(int.from_bytes(head[:4], "big"), _BRANDS)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if brands & {b"avif", b"avis"}:
        return _AVIF
    if brands & _HEIF_BRANDS:
        return _HEIC
    if head[8:12] == b"crx ":
        return Kind("a camera's raw file", _CONVERT)
    return _VIDEO_KIND

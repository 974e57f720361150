"""Reads a photograph's EXIF: the focal length, the camera, the position."""

from __future__ import annotations

import io
import math
import struct
from typing import Any

from msgspec import Struct
from PIL import Image

_MAKE, _MODEL, _DETAILS, _GPS = 0x010F, 0x0110, 0x8769, 0x8825
_FOCAL, _FOCAL_35, _LENS = 0x920A, 0xA405, 0xA434
_DIGITAL_ZOOM = 0xA404
_PLANE_X, _PLANE_UNIT = 0xA20E, 0xA210
_PIXELS_X, _PIXELS_Y = 0xA002, 0xA003
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0}
_ROUNDED = 0.02  # how far proportions may differ when sides are rounded
_ZOOM_STEP = 1.02  # ratios of digital zooms that are one
_POSSIBLE = (4.0, 4_000.0)
"""Millimetres of an equivalent focal length; COLMAP places no photograph with less, and no lens has
more: compact cameras reach 3,000."""
FULL_FRAME = 36.0
"""The width, in millimetres, that equivalent focal lengths mean."""
DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for metadata that it cannot read, also of a picture that can be decoded."""


class Exif(Struct, frozen=True):
    """The EXIF values that reconstructions use.

    focal_35: equivalent focal length in millimetres, 0 when unknown.
    wrong:    whether the file tells a focal length that cannot be.
    camera:   maker, model, lens, focal length and digital zoom in words, "" when unknown.
    gps:      latitude, longitude (degrees) and altitude (metres, 0 when unknown), or None.
    """

    focal_35: float = 0.0
    camera: str = ""
    gps: tuple[float, float, float] | None = None
    wrong: bool = False


def read(data: bytes) -> Exif:
    """Return the EXIF values of a photograph's file; unreadable ones are left out.

    Pillow may warn of it: filtering is left to the caller, because warning filters apply to all
    threads.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            width, height = picture.size
            exif = picture.getexif()
            details, place = exif.get_ifd(_DETAILS), exif.get_ifd(_GPS)
    except DAMAGED:
        return Exif()
    words = [_text(exif.get(_MAKE)), _text(exif.get(_MODEL)), _text(details.get(_LENS))]
    focal = _number(details.get(_FOCAL))
    words.append(f"{focal:g} mm" if focal else "")
    words.append(_zoom(_number(details.get(_DIGITAL_ZOOM))))
    equivalent = _equivalent(details, focal, _taken_size(details, width, height))
    wrong = equivalent > 0 and not _POSSIBLE[0] <= equivalent <= _POSSIBLE[1]
    camera = " ".join(filter(None, words))
    return Exif(0.0 if wrong else equivalent, camera, _gps(place), wrong)


def write(found: Exif) -> Image.Exif:
    """Return EXIF with the focal length only, for the working copy."""
    exif = Image.Exif()
    if found.focal_35:
        exif.get_ifd(_DETAILS)[_FOCAL_35] = min(65_535, max(1, round(found.focal_35)))
    return exif


def _equivalent(details: Any, focal: float, longest: float) -> float:
    told = _number(details.get(_FOCAL_35))
    if told > 0:
        return told
    density = _number(details.get(_PLANE_X))  # pixels for one unit of the sensor
    unit = _MILLIMETRES.get(int(_number(details.get(_PLANE_UNIT)) or 2), 0.0)
    if focal <= 0 or density <= 0 or not unit:
        return 0.0
    return focal * FULL_FRAME / (longest / density * unit)


def _zoom(enlarged: float) -> str:
    """Return a digital zoom in words, to 2 %: many cameras do not count it into the focal length.

    0 and 1 say that it is not used. Where a phone writes ratios that differ by thousandths, each
    photograph would else have a camera of its own.
    """
    if enlarged <= _ZOOM_STEP:
        return ""
    return f"zoom {round(math.log(enlarged) / math.log(_ZOOM_STEP))}"


def _taken_size(details: Any, width: int, height: int) -> float:
    """Return the longer side, in pixels, with which a photograph was taken.

    Programs that make one smaller leave the sensor's pixels as they were, and often its size too.
    A picture of other proportions was cropped: its own size counts.
    """
    taken = sorted((_number(details.get(_PIXELS_X)), _number(details.get(_PIXELS_Y))))
    short, long = sorted((width, height))
    if taken[0] and abs(taken[1] * short - taken[0] * long) < _ROUNDED * taken[1] * short:
        return taken[1]
    return long


def _gps(place: Any) -> tuple[float, float, float] | None:
    latitude, longitude = _degrees(place.get(2)), _degrees(place.get(4))
    if latitude is None or longitude is None or latitude > 90:
        return None
    if latitude == 0 and longitude == 0:  # what a camera without a fix writes
        return None
    south, west = _text(place.get(1)) == "S", _text(place.get(3)) == "W"
    height = _number(place.get(6)) * (-1 if place.get(5) in {1, b"\x01"} else 1)
    return (-latitude if south else latitude, -longitude if west else longitude, height)


def _degrees(value: Any) -> float | None:
    try:
        hours, minutes, seconds = (float(part) for part in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    degrees = hours + minutes / 60 + seconds / 3600
    return degrees if math.isfinite(degrees) and degrees <= 180 else None


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0


def _text(value: Any) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:80]

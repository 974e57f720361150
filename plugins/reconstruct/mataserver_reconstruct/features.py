"""The names of a photograph's measures; ``measures`` computes them, ``drift`` compares them."""

from __future__ import annotations

NAMES = (
    "brightness",
    "contrast",
    "sharpness",
    "noise",
    "entropy",
    "colourfulness",
    "saturation",
    "aspect_ratio",
    "megapixels",
    "dark_frac",
    "bright_frac",
)
"""The measures, in order."""

SHARES = ("unreadable", "duplicate", "exif_focal", "main_camera")
"""Boolean properties of a photograph, 1 or 0.

It cannot be read; its file occurs in the upload before; its EXIF has a focal length; its camera is
the one that took most photographs of the upload.
"""

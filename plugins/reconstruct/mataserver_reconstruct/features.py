"""The measures of a photograph by name; ``measures`` takes them, ``drift`` compares them."""

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
"""What holds of a photograph or not, 1 or 0: that it cannot be read, that its file stands in the
upload before it, that its EXIF tells a focal length, that the camera took it which took most."""

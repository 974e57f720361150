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

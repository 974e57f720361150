"""The limits of a video, which the server and the model's process share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a video: its frames, its length in seconds, the pixels of one frame.

    ``decode_timeout`` are the seconds that one frame may take, with those before it that it needs.
    """

    frames: int = 100_000
    seconds: float = 3_600.0
    pixels: int = 50_000_000
    decode_timeout: float = 10.0

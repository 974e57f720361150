"""What the server and a reader say to each other.

The server sends an ``OpenRequest`` as one line of JSON, then one byte for each frame. The
reader answers with one line of JSON each; behind a ``FrameMessage`` come the bytes of its JPEG.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["rtsp", "http", "file", "device"]
"""How a source is opened."""

MAX_FRAME_BYTES = 1 << 28
"""A JPEG is smaller. The reader sees what strangers send, so the server does not take its word."""
NEXT_FRAME = b"?"
"""Asks for the newest frame that was not given yet."""


class OpenRequest(msgspec.Struct, frozen=True):
    """What to open: seconds until it is given up, the largest frame in pixels."""

    url: str
    kind: Kind
    timeout: float
    max_pixels: int


class FrameMessage(msgspec.Struct, frozen=True, tag="given"):
    """A frame: it is the one of number ``count``, its JPEG is ``size`` bytes long.

    Of the frames up to it so many were ``damaged``. While all are, there is no JPEG.
    """

    count: int
    damaged: int
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_FRAME_BYTES)]


class FailureMessage(msgspec.Struct, frozen=True, tag="failed"):
    """Why there are no more frames: a sentence without the source's address or password."""

    detail: str


Message: TypeAlias = FrameMessage | FailureMessage

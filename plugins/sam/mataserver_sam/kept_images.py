"""Images that a client has sent, kept for a while so that its next clicks need not send them anew.

The image itself is kept and not what the network made of it: features that had to make room are
computed again from it, and the client is none the wiser.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from mataserver import InvalidParams, NotFound, decode_base64
from mataserver_sam.features import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_sam.image_requests import CachedRequest, SegmentRequest


class _Image(NamedTuple):
    data: bytes
    owner: str
    expires: float


class Given(NamedTuple):
    """The image of a request: its encoded bytes, and its id where it is to be known by one."""

    data: bytes
    image_id: str | None


class KeptImages:
    """Encoded images by an id that nobody can guess; each is its owner's alone.

    All together hold at most ``limit_bytes``, what was not asked about for longest goes first; each
    is forgotten ``ttl`` seconds after its last use.
    """

    def __init__(
        self, limit_bytes: float, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit_bytes
        self._ttl = ttl
        self._clock = clock
        self._kept: Cache[_Image] = Cache(limit_bytes, lambda each: len(each.data))

    def of(self, asked: SegmentRequest | CachedRequest, owner: str) -> Given:
        """Return the image that a request is about.

        Raises ``NotFound`` for an id that is not known, ``InvalidParams`` for a request with no
        image or two, and ``BadRequest`` for one whose image is no base64.
        """
        if asked.image_id is not None:
            if asked.image is not None:
                raise InvalidParams("image_id: give it or image, not both")
            return Given(self._get(asked.image_id, owner), asked.image_id)
        if asked.image is None:
            raise InvalidParams("image: field is required")
        data = decode_base64(asked.image, "image")
        keeps = asked.keep_image and len(data) <= self._limit
        return Given(data, secrets.token_urlsafe(18) if keeps else None)

    def _get(self, image_id: str, owner: str) -> bytes:
        found = self._kept.get(image_id)
        if found is None or found.owner != owner or found.expires <= self._clock():
            raise NotFound("There is no image with this image_id, or not any more: send it again")
        return found.data

    def drop_expired(self) -> None:
        """Forget what nobody may ask about any more."""
        now = self._clock()
        self._kept.drop_if(lambda each: each.expires <= now)

    def keep(self, given: Given, owner: str) -> None:
        """Keep an image that was asked about just now, if it has an id; what expired goes."""
        now = self._clock()
        self.drop_expired()
        if given.image_id is not None:
            self._kept.put(given.image_id, _Image(given.data, owner, now + self._ttl))

    @property
    def held_bytes(self) -> int:
        """Bytes of all images that are kept."""
        return self._kept.held_bytes

    def clear(self) -> None:
        """Forget every image."""
        self._kept.clear()

"""Images that a client has sent, kept for a while so that its next clicks need not send them anew.

The image itself is kept and not what the network made of it: features that had to make room are
computed again from it, and the client is none the wiser.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from mataserver import InvalidParams, NotFound, decode_base64

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_sam.image_requests import CachedRequest, SegmentRequest


class _Image(NamedTuple):
    data: bytes
    expires: float


class Given(NamedTuple):
    """The image of a request: its encoded bytes, and its id where it is to be known by one."""

    data: bytes
    image_id: str | None


class _Owned:
    """What one owner has: images by their ids, the one that was not used for longest first."""

    def __init__(self) -> None:
        self.images: OrderedDict[str, _Image] = OrderedDict()
        self.held_bytes = 0

    def drop(self, image_id: str) -> int:
        """Forget an image, if it is here; return its bytes."""
        found = self.images.pop(image_id, None)
        size = 0 if found is None else len(found.data)
        self.held_bytes -= size
        return size

    def put(self, image_id: str, image: _Image) -> None:
        """Keep an image that is not here."""
        self.images[image_id] = image
        self.held_bytes += len(image.data)


class KeptImages:
    """Encoded images by an id that nobody can guess; each is its owner's alone.

    All together hold at most ``limit_bytes``. Who holds the most makes room, with what they have
    not asked about for longest: many images of one owner push out no other one's. Each is forgotten
    ``ttl`` seconds after its last use.
    """

    def __init__(
        self, limit_bytes: float, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit_bytes
        self._ttl = ttl
        self._clock = clock
        self._owned: dict[str, _Owned] = {}
        self.held_bytes = 0

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
        own = self._owned.get(owner)
        found = None if own is None else own.images.get(image_id)
        if own is None or found is None or found.expires <= self._clock():
            raise NotFound("There is no image with this image_id, or it has expired: send it again")
        own.images.move_to_end(image_id)
        return found.data

    def drop_expired(self) -> None:
        """Forget what nobody may ask about any more."""
        now = self._clock()
        for owner, own in list(self._owned.items()):
            for image_id in [each for each, image in own.images.items() if image.expires <= now]:
                self._drop(owner, image_id)

    def keep(self, given: Given, owner: str) -> None:
        """Keep an image that was asked about just now, if it has an id; what expired goes."""
        now = self._clock()
        self.drop_expired()
        if given.image_id is None:
            return
        self._drop(owner, given.image_id)
        size = len(given.data)
        while self._owned and self.held_bytes + size > self._limit:
            self._make_room(owner, size)
        self._owned.setdefault(owner, _Owned()).put(
            given.image_id, _Image(given.data, now + self._ttl)
        )
        self.held_bytes += size

    def _make_room(self, owner: str, size: int) -> None:
        """Forget an image of whom would hold the most with the one that ``owner`` is to keep."""

        def holds(each: str) -> int:
            return self._owned[each].held_bytes + (size if each == owner else 0)

        most = max(self._owned, key=holds)
        self._drop(most, next(iter(self._owned[most].images)))

    def _drop(self, owner: str, image_id: str) -> None:
        own = self._owned.get(owner)
        if own is None:
            return
        self.held_bytes -= own.drop(image_id)
        if not own.images:
            del self._owned[owner]

    def clear(self) -> None:
        """Forget every image."""
        self._owned.clear()
        self.held_bytes = 0

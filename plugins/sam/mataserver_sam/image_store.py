"""Images that clients sent, kept for a while so that they need not be sent again.

The image itself is kept and not its features: evicted features are recomputed from it, without the
client noticing.
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


class RequestImage(NamedTuple):
    """The image of a request: its encoded bytes, and its id if it is to be kept."""

    data: bytes
    image_id: str | None


class _OwnerImages:
    """One owner's images by id, the least recently used first."""

    def __init__(self) -> None:
        self.images: OrderedDict[str, _Image] = OrderedDict()
        self.held_bytes = 0

    def drop(self, image_id: str) -> int:
        """Drop an image, if it is kept; return its bytes."""
        found = self.images.pop(image_id, None)
        size = 0 if found is None else len(found.data)
        self.held_bytes -= size
        return size

    def put(self, image_id: str, image: _Image) -> None:
        """Add a new image."""
        self.images[image_id] = image
        self.held_bytes += len(image.data)


class ImageStore:
    """Encoded images by an unguessable id; each is visible to its owner only.

    Their total is limited to ``limit_bytes``. The owner who holds the most has their least recently
    used image evicted: many images of one owner do not evict another's. Each expires ``ttl``
    seconds after its last use.
    """

    def __init__(
        self, limit_bytes: float, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit_bytes
        self._ttl = ttl
        self._clock = clock
        self._owned: dict[str, _OwnerImages] = {}
        self.held_bytes = 0

    def find(self, asked: SegmentRequest | CachedRequest, owner: str) -> RequestImage:
        """Return the image of a request.

        Raises ``NotFound`` for an unknown id, ``InvalidParams`` for a request with no image or two,
        and ``BadRequest`` for invalid base64.
        """
        if asked.image_id is not None:
            if asked.image is not None:
                raise InvalidParams("image_id: give it or image, not both")
            return RequestImage(self._get(asked.image_id, owner), asked.image_id)
        if asked.image is None:
            raise InvalidParams("image: field is required")
        data = decode_base64(asked.image, "image")
        keeps = asked.keep_image and len(data) <= self._limit
        return RequestImage(data, secrets.token_urlsafe(18) if keeps else None)

    def _get(self, image_id: str, owner: str) -> bytes:
        own = self._owned.get(owner)
        found = None if own is None else own.images.get(image_id)
        if own is None or found is None or found.expires <= self._clock():
            raise NotFound("There is no image with this image_id, or it has expired: send it again")
        own.images.move_to_end(image_id)
        return found.data

    def drop_expired(self) -> None:
        """Drop the expired images."""
        now = self._clock()
        for owner, own in list(self._owned.items()):
            for image_id in [each for each, image in own.images.items() if image.expires <= now]:
                self._drop(owner, image_id)

    def keep(self, given: RequestImage, owner: str) -> None:
        """Keep an image that was just used, if it has an id, and drop expired ones."""
        now = self._clock()
        self.drop_expired()
        if given.image_id is None:
            return
        self._drop(owner, given.image_id)
        size = len(given.data)
        while self._owned and self.held_bytes + size > self._limit:
            self._make_room(owner, size)
        self._owned.setdefault(owner, _OwnerImages()).put(
            given.image_id, _Image(given.data, now + self._ttl)
        )
        self.held_bytes += size

    def _make_room(self, owner: str, size: int) -> None:
        """Drop an image of the owner who would hold the most with ``owner``'s new one."""

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
        """Drop every image."""
        self._owned.clear()
        self.held_bytes = 0

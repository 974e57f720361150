"""The images that a conversation shows beside the request's own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mataserver import BadRequest, InvalidParams, decode_image
from mataserver_hf.options import Settings
from mataserver_hf.vlm_params import REQUEST_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext
    from mataserver_hf.vlm_params import VlmParams


class ConversationImages:
    """Decodes them within the limits of ``plugins.hf``."""

    def __init__(self, ctx: LoadContext) -> None:
        """Take the limits of a model that is loaded."""
        settings = ctx.settings or Settings()
        self._most: int = settings.max_images
        self._most_pixels: int = settings.max_images_pixels
        self._max_pixels = ctx.max_pixels
        self._alpha = ctx.alpha

    def read(self, image: NDArray[np.uint8], params: VlmParams) -> list[NDArray[np.uint8]]:
        """Return all images, RGB uint8 ``[H, W, 3]``, as ``params.pictures()`` orders them.

        ``image`` is the request's own. Raises ``InvalidParams`` for too many, and ``BadRequest``
        for one that cannot be decoded and for too many pixels of all.
        """
        pictures = list(params.pictures())
        if len(pictures) > self._most:
            raise InvalidParams(
                f"params.images: at most {self._most} images in a conversation, got {len(pictures)}"
            )
        shown: list[NDArray[np.uint8]] = []
        pixels = 0
        for field, data in pictures:
            with named(field):
                decoded = image
                if data is not None:
                    decoded = decode_image(data, self._max_pixels, self._alpha)
                pixels += decoded.shape[0] * decoded.shape[1]
                if len(pictures) > 1 and pixels > self._most_pixels:
                    raise BadRequest(
                        f"the images up to this one have {pixels} pixels, and those of a "
                        f"conversation have at most {self._most_pixels} together"
                    )
            shown.append(decoded)
        return shown


@contextmanager
def named(field: str) -> Iterator[None]:
    """Have a ``BadRequest`` name the field of the image, unless it is the request's own."""
    try:
        yield
    except BadRequest as error:
        if field == REQUEST_IMAGE:
            raise
        raise BadRequest(f"{field}: {error.detail}") from None

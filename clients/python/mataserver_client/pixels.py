"""Pixels of an answer as arrays. numpy and Pillow are imported when they are used."""

from __future__ import annotations

import base64
import binascii
import io
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import UnsetType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Deep(Protocol):
    """An answer with a depth map."""

    @property
    def depth_map(self) -> Any:
        """Its pixels."""

    @property
    def depth_shape(self) -> tuple[int, int] | UnsetType:
        """Its height and width."""


class Masked(Protocol):
    """What has a mask."""

    @property
    def mask(self) -> Any:
        """Its pixels, a PNG."""


def pixel_bytes(value: Any) -> bytes:
    """Return the bytes of a ``depth_map`` or a ``mask``: base64 text in JSON, bytes in MessagePack.

    Raises ``ValueError`` when there are none.
    """
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise ValueError("the answer's pixels are not base64") from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise ValueError("the answer holds no pixels here")


def depth_array(response: Deep) -> NDArray[np.float32]:
    """Return the depth map as a float32 array ``[h, w]``, of the shape ``depth_shape``.

    Raises ``ValueError`` for an answer without a depth map or of another size than it says.
    """
    import numpy as np

    data = pixel_bytes(response.depth_map)
    shape = response.depth_shape
    height, width = (0, 0) if isinstance(shape, UnsetType) else shape
    if len(data) != 4 * height * width:
        raise ValueError(f"the depth map has {len(data)} bytes, not 4 x {height} x {width}")
    return np.frombuffer(data, dtype="<f4").reshape(height, width).astype(np.float32)


def mask_array(segment: Masked) -> NDArray[np.bool_]:
    """Return a segment's mask as a boolean array ``[H, W]`` of the original image's size.

    Raises ``ValueError`` for a segment without a mask.
    """
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(pixel_bytes(segment.mask))) as picture:
        return np.asarray(picture.convert("L")) > 127

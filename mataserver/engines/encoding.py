"""Encodes a model's result as an answer's body, in the worker: the event loop never does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pybase64
from msgspec import UNSET

from mataserver.engines.item_validation import InvalidResultError, type_name
from mataserver.media import encode_png
from mataserver.results import RESULT_TYPES, DepthResult, EmbedResult, SegmentResult

if TYPE_CHECKING:
    from mataserver.contract.envelope import Envelope, Format
    from mataserver.engines.work import Body
    from mataserver.results import Result, Segment


def plain_value(value: object) -> object:
    """Return text or a number of a subclass, or a numpy scalar, as a value of Python's own type.

    An encoder calls it for what it does not know itself. Raises ``InvalidResultError``.
    """
    for kind in (str, int, float):
        if isinstance(value, kind):  # also numpy's str_ and float64
            return kind(value)
    if not callable(item := getattr(value, "item", None)) or getattr(value, "shape", None) != ():
        raise InvalidResultError(f"it holds a {type_name(value)} that is not a JSON value")
    return item()


_JSON = msgspec.json.Encoder(enc_hook=plain_value)
_MSGPACK = msgspec.msgpack.Encoder(enc_hook=plain_value)


def encode_body(result: Result, form: Format, envelope: Envelope) -> Body:
    """Return the pieces of an answer's body; unset fields are omitted.

    A depth map's pixels are a piece of their own: in MessagePack, a view of the array's memory.
    """
    if isinstance(result, DepthResult):
        return _encode_depth(result, form, envelope)
    encoder = _JSON if form == "json" else _MSGPACK
    if not isinstance(result, RESULT_TYPES):  # a plugin's own task
        return envelope.around(encoder.encode({"output": result}), form)
    if isinstance(result, EmbedResult):
        vector = np.ascontiguousarray(result.embedding, dtype="<f4")
        packed = vector.tolist() if form == "json" else vector.data.cast("B")
        return envelope.around(encoder.encode({"embedding": packed}), form)
    if isinstance(result, SegmentResult):
        result = SegmentResult([_encode_mask(segment, form) for segment in result.segments])
    return envelope.around(encoder.encode(result), form)


def _encode_depth(result: DepthResult, form: Format, envelope: Envelope) -> Body:
    depth = np.ascontiguousarray(result.depth_map, dtype="<f4")
    head, pixels = envelope.opened(form, 2), depth.data.cast("B")
    if form == "json":
        begin = b'%b"depth_shape":%b,"depth_map":' % (head, _JSON.encode(depth.shape))
        return begin, *_encode_pixels(pixels, form), b"}"
    before = map(_MSGPACK.encode, ("depth_shape", depth.shape, "depth_map"))
    return b"".join((head, *before)), *_encode_pixels(pixels, form)


def _encode_mask(segment: Segment, form: Format) -> Segment:
    if segment.mask is UNSET or segment.mask is None:
        return segment
    png = encode_png(segment.mask)
    return msgspec.structs.replace(
        segment, mask=msgspec.Raw(b"".join(_encode_pixels(memoryview(png), form)))
    )


def _encode_pixels(data: memoryview, form: Format) -> tuple[bytes | memoryview, ...]:
    """Return pixel bytes as pieces of a base64 JSON string, or of a MessagePack ``bin 32``."""
    if form == "msgpack":
        return b"\xc6" + len(data).to_bytes(4, "big"), data
    return b'"', pybase64.b64encode(data), b'"'

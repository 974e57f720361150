"""A model's result to encoded fields and back: the event loop never walks a result."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pybase64
from msgspec import UNSET
from PIL import Image

from mataserver.media import encode_png
from mataserver.results import RESULT_TYPES, DepthResult, EmbedResult, SegmentResult

if TYPE_CHECKING:
    from mataserver.engines.work import Field, Format
    from mataserver.results import Result, Segment

_RESULT_OF = {task: kind for kind in RESULT_TYPES for task in kind.tasks}  # type: ignore[attr-defined]
_JSON = msgspec.json.Encoder()
_MSGPACK = msgspec.msgpack.Encoder()


def encode_fields(result: Result, form: Format) -> dict[str, Field]:
    """Encode each field of ``result`` by itself; fields that are not set are left out.

    The pixels of a depth map are a piece of their own: in MessagePack they are the array's memory.
    """
    if isinstance(result, DepthResult):
        return _depth(result, form)
    encoder = _JSON if form == "json" else _MSGPACK
    if isinstance(result, EmbedResult):
        vector = np.ascontiguousarray(result.embedding, dtype="<f4")
        packed = vector.tolist() if form == "json" else vector.data.cast("B")
        return {"embedding": encoder.encode(packed)}
    if isinstance(result, SegmentResult):
        segments = [_with_mask(segment, form) for segment in result.segments]
        return {"segments": encoder.encode(segments)}
    fields = ((name, getattr(result, name)) for name in result.__struct_fields__)
    return {name: encoder.encode(value) for name, value in fields if value is not UNSET}


def _depth(result: DepthResult, form: Format) -> dict[str, Field]:
    depth = np.ascontiguousarray(result.depth_map, dtype="<f4")
    encoder = _JSON if form == "json" else _MSGPACK
    return {
        "depth_map": _pixels(depth.data.cast("B"), form),
        "depth_shape": encoder.encode(depth.shape),
    }


def _with_mask(segment: Segment, form: Format) -> Segment:
    if segment.mask is UNSET or segment.mask is None:
        return segment
    png = encode_png(segment.mask)
    return msgspec.structs.replace(
        segment, mask=msgspec.Raw(b"".join(_pixels(memoryview(png), form)))
    )


def _pixels(data: memoryview, form: Format) -> tuple[bytes | memoryview, ...]:
    """Pixel bytes as the pieces of a JSON string of base64, or of a MessagePack ``bin 32``."""
    if form == "msgpack":
        return b"\xc6" + len(data).to_bytes(4, "big"), data
    return b'"', pybase64.b64encode(data), b'"'


def decode_fields(fields: dict[str, bytes], task: str) -> Any:
    """Decode a result's MessagePack fields; pixels become arrays again."""
    values = {name: msgspec.msgpack.decode(data) for name, data in fields.items()}
    shape = values.pop("depth_shape", None)
    result = msgspec.convert(values, _RESULT_OF[task])
    if isinstance(result, DepthResult):
        return DepthResult(np.frombuffer(result.depth_map, "<f4").reshape(shape))
    if isinstance(result, EmbedResult):
        return EmbedResult(np.frombuffer(result.embedding, "<f4"))
    if isinstance(result, SegmentResult):
        return SegmentResult([_without_png(segment) for segment in result.segments])
    return result


def _without_png(segment: Segment) -> Segment:
    if segment.mask is UNSET:
        return segment
    # A worker made it: no other of Pillow's decoders is to see what a stranger's model sends.
    with Image.open(io.BytesIO(segment.mask), formats=("PNG",)) as picture:
        return msgspec.structs.replace(segment, mask=np.asarray(picture) > 127)

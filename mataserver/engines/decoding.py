"""Decodes an answer's body back into the model's result.

Results without pixels need neither numpy nor Pillow: a server that relays text loads neither.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct

from mataserver.engines.worker_errors import WorkerDied
from mataserver.results import RESULT_TYPES, DepthResult, EmbedResult, SegmentResult

if TYPE_CHECKING:
    from mataserver.results import Segment


class _Depth(Struct):
    """Wire form of a depth map."""

    depth_map: bytes
    depth_shape: tuple[int, int]


class _Embedding(Struct):
    """Wire form of an embedding."""

    embedding: bytes


class _CustomResult(Struct):
    """Wire form of the result of a plugin's own task."""

    output: msgspec.Raw


_WIRE_TYPES: dict[Any, Any] = {DepthResult: _Depth, EmbedResult: _Embedding}
_DECODERS = {
    task: msgspec.msgpack.Decoder(_WIRE_TYPES.get(kind, kind))
    for kind in RESULT_TYPES
    for task in kind.tasks  # type: ignore[attr-defined]
}


def decode_result(body: bytes, task: str, kind: type[Struct] | None = None) -> Any:
    """Decode a MessagePack body; pixels become arrays. Blocking for large pictures.

    ``kind`` is the result struct of a plugin's own task. Raises ``WorkerDied`` for a malformed
    body.
    """
    try:
        if kind is not None:
            output = msgspec.msgpack.decode(body, type=_CustomResult).output
            return msgspec.msgpack.decode(output, type=kind)
        return _to_arrays(_DECODERS[task].decode(body))
    except (msgspec.MsgspecError, ValueError, OSError, RecursionError):
        raise WorkerDied("The model's worker sent a malformed result") from None


def _to_arrays(sent: Any) -> Any:
    if isinstance(sent, SegmentResult):
        return SegmentResult([_decode_mask(segment) for segment in sent.segments])
    if isinstance(sent, (_Depth, _Embedding)):
        import numpy as np

        if isinstance(sent, _Embedding):
            return EmbedResult(np.frombuffer(sent.embedding, "<f4"))
        return DepthResult(np.frombuffer(sent.depth_map, "<f4").reshape(sent.depth_shape))
    return sent


def _decode_mask(segment: Segment) -> Segment:
    if segment.mask is UNSET:
        return segment
    import numpy as np
    from PIL import Image

    # Workers encode PNG. Restricting formats keeps untrusted bytes from Pillow's other decoders.
    with Image.open(io.BytesIO(segment.mask), formats=("PNG",)) as picture:
        return msgspec.structs.replace(segment, mask=np.asarray(picture) > 127)


def to_json(body: bytes) -> bytes:
    """Return the JSON that the worker would have encoded: pixel bytes become base64."""
    values = msgspec.msgpack.decode(body)
    vector = values.get("embedding")
    if vector is not None:
        values["embedding"] = struct.unpack(f"<{len(vector) // 4}f", vector)
    return msgspec.json.encode(values)

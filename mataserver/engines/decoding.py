"""The body of an answer back to the result that the model made.

What has no pixels needs neither numpy nor Pillow: a server that passes on text loads neither.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct

from mataserver.engines.accidents import WorkerDied
from mataserver.results import RESULT_TYPES, DepthResult, EmbedResult, SegmentResult

if TYPE_CHECKING:
    from mataserver.results import Segment


class _Depth(Struct):
    """A depth map as it travels."""

    depth_map: bytes
    depth_shape: tuple[int, int]


class _Embedding(Struct):
    """An embedding as it travels."""

    embedding: bytes


class _Brought(Struct):
    """The result of a task that a plugin brings, as it travels."""

    output: msgspec.Raw


_AS_SENT: dict[Any, Any] = {DepthResult: _Depth, EmbedResult: _Embedding}
_DECODERS = {
    task: msgspec.msgpack.Decoder(_AS_SENT.get(kind, kind))
    for kind in RESULT_TYPES
    for task in kind.tasks  # type: ignore[attr-defined]
}


def decode_result(body: bytes, task: str, kind: type[Struct] | None = None) -> Any:
    """Decode a body in MessagePack; pixels become arrays again. Large pictures take their time.

    ``kind`` is the struct of a task that a plugin brings. Raises
    ``WorkerDied`` for what no worker of ours has made.
    """
    try:
        if kind is not None:
            output = msgspec.msgpack.decode(body, type=_Brought).output
            return msgspec.msgpack.decode(output, type=kind)
        return _with_arrays(_DECODERS[task].decode(body))
    except (msgspec.MsgspecError, ValueError, OSError, RecursionError):
        raise WorkerDied("The model's worker sent a malformed result") from None


def _with_arrays(sent: Any) -> Any:
    if isinstance(sent, SegmentResult):
        return SegmentResult([_without_png(segment) for segment in sent.segments])
    if isinstance(sent, (_Depth, _Embedding)):
        import numpy as np

        if isinstance(sent, _Embedding):
            return EmbedResult(np.frombuffer(sent.embedding, "<f4"))
        return DepthResult(np.frombuffer(sent.depth_map, "<f4").reshape(sent.depth_shape))
    return sent


def _without_png(segment: Segment) -> Segment:
    if segment.mask is UNSET:
        return segment
    import numpy as np
    from PIL import Image

    # A worker made it: no other of Pillow's decoders is to see what a stranger's model sends.
    with Image.open(io.BytesIO(segment.mask), formats=("PNG",)) as picture:
        return msgspec.structs.replace(segment, mask=np.asarray(picture) > 127)


def to_json(body: bytes) -> bytes:
    """Return what the worker would have encoded for JSON: pixel bytes become base64."""
    values = msgspec.msgpack.decode(body)
    vector = values.get("embedding")
    if vector is not None:
        values["embedding"] = struct.unpack(f"<{len(vector) // 4}f", vector)
    return msgspec.json.encode(values)

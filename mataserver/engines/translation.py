"""A body in MessagePack to the same in JSON, without the libraries of pixels."""

from __future__ import annotations

import struct

import msgspec


def to_json(body: bytes) -> bytes:
    """Return what the worker would have encoded for JSON: pixel bytes become base64."""
    values = msgspec.msgpack.decode(body)
    vector = values.get("embedding")
    if vector is not None:
        values["embedding"] = struct.unpack(f"<{len(vector) // 4}f", vector)
    return msgspec.json.encode(values)

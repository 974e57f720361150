"""A result's MessagePack fields to those of JSON, without the libraries of pixels."""

from __future__ import annotations

import struct

import msgspec


def to_json(fields: dict[str, bytes]) -> dict[str, bytes]:
    """Return what ``encode_fields`` would have encoded for JSON: pixel bytes become base64."""
    values = {name: msgspec.msgpack.decode(data) for name, data in fields.items()}
    vector = values.get("embedding")
    if vector is not None:
        values["embedding"] = struct.unpack(f"<{len(vector) // 4}f", vector)
    return {name: msgspec.json.encode(value) for name, value in values.items()}

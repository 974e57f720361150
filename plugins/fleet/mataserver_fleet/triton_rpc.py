"""A model's files to a Triton by gRPC: as they are, where HTTP takes them as base64.

The one message that is needed, of ``RepositoryModelLoad`` of the model repository extension, is
written here by the wire format of protobuf.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

METHOD = "/inference.GRPCInferenceService/RepositoryModelLoad"
MAX_MESSAGE_BYTES = 2**31 - 1
"""Bytes that a message of protobuf may have."""
_MODEL, _PARAMETERS = 2, 3  # of RepositoryModelLoadRequest
_KEY, _VALUE = 1, 2  # of a map's entry
_TEXT, _BYTES = 3, 4  # of ModelRepositoryParameter
_PIECE = 1 << 20
_UNLIMITED = [("grpc.max_send_message_length", -1)]


def available() -> bool:
    """Whether gRPC is installed."""
    try:
        import grpc  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def place(addresses: Sequence[str], port: int, authority: str) -> tuple[str, list[tuple[str, Any]]]:
    """Return a target of gRPC that is these addresses, and the options that go with it.

    They were resolved and checked: gRPC resolves nothing, and asks no proxy of the environment,
    which would. A target is of one kind of address: those of IPv4 where there are any.
    """
    four = [each for each in addresses if ":" not in each]
    kind, chosen = ("ipv4", four) if four else ("ipv6", [f"[{each}]" for each in addresses])
    target = f"{kind}:{','.join(f'{each}:{port}' for each in chosen)}"
    return target, [("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)]


async def load(
    target: str,
    options: Sequence[tuple[str, Any]],
    model: str,
    config: Mapping[str, Any],
    files: Mapping[str, Path],
) -> str | None:
    """Have a Triton at a ``place`` load a model; return why it refused, None where it did not.

    Raises ``ConnectionError`` where none answers.
    """
    import grpc

    message = await asyncio.to_thread(_message, model, config, files)
    async with grpc.aio.insecure_channel(target, [*_UNLIMITED, *options]) as channel:
        try:
            await channel.unary_unary(METHOD)(message)
        except grpc.aio.AioRpcError as error:
            detail = str(error.details() or error.code().name)
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ConnectionError(detail) from None
            return detail
    return None


def _message(model: str, config: Mapping[str, Any], files: Mapping[str, Path]) -> bytes:
    """Return the message. Files are read into it, so that each is in memory once."""
    made = io.BytesIO()
    made.write(_field(_MODEL, model.encode()))
    text = _field(_TEXT, msgspec.json.encode(config))
    made.write(_parameter("config", len(text)) + text)
    for name, path in files.items():
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = _head(_BYTES, size)
            made.write(_parameter(f"file:{name}", len(head) + size) + head)
            shutil.copyfileobj(file, made, _PIECE)
    return made.getvalue()


def _parameter(key: str, size: int) -> bytes:
    """Return what stands before the value, of so many bytes, of an entry of the parameters."""
    entry = _field(_KEY, key.encode()) + _head(_VALUE, size)
    return _head(_PARAMETERS, len(entry) + size) + entry


def _field(number: int, data: bytes) -> bytes:
    return _head(number, len(data)) + data


def _head(number: int, size: int) -> bytes:
    return _tag(number) + _varint(size)


def _tag(number: int) -> bytes:
    return bytes([number << 3 | 2])


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)

"""The messages between the server and a worker process, and their framing.

A frame is a prefix (header length, payload length), a MessagePack header and the raw parts that
the header's ``sizes`` count off. Both ends are ours and of one version: parts may hold pickles.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from mataserver.engines.work import Facts, Failure, Format, Timing

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

PREFIX = struct.Struct("<IQ")
Part = bytes | bytearray | memoryview


class JobHead(msgspec.Struct, frozen=True):
    """A job without its two parts, the image and the params."""

    format: Format
    session: str | None


class OutcomeHead(msgspec.Struct, frozen=True):
    """An outcome without its parts, one per field."""

    fields: list[str]
    timing: Timing
    failure: Failure | None
    fresh: bool


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of the messages."""


class Load(Message, frozen=True, tag=True):
    """Server to worker, first: part 0 is the pickled ``Assignment``."""


class Infer(Message, frozen=True, tag=True):
    """Server to worker: a batch; parts are image and params of each job in turn."""

    id: int
    jobs: list[JobHead]


class CloseSession(Message, frozen=True, tag=True):
    """Server to worker: forget a session's state."""

    session: str


class Call(Message, frozen=True, tag=True):
    """Server to worker: call a method; part 0 pickles ``(method, args, kwargs)``."""

    id: int


class Open(Message, frozen=True, tag=True):
    """Server to worker: open a generator method; part 0 as in ``Call``."""

    id: int


class Generate(Message, frozen=True, tag=True):
    """Server to worker: open the stream of one job's answer; parts are its image and params."""

    id: int
    job: JobHead


class Next(Message, frozen=True, tag=True):
    """Server to worker: compute one more item of an open stream."""

    id: int


class Cancel(Message, frozen=True, tag=True):
    """Server to worker: close an open stream."""

    id: int


class Stop(Message, frozen=True, tag=True):
    """Server to worker: close the model and end."""


class Loaded(Message, frozen=True, tag=True):
    """Worker to server: the model is ready."""

    facts: Facts


class Refused(Message, frozen=True, tag=True):
    """Worker to server: the model could not be loaded."""

    failure: Failure


class Answer(Message, frozen=True, tag=True):
    """Worker to server: the outcomes of a batch; parts are their fields in turn."""

    id: int
    outcomes: list[OutcomeHead]


class Returned(Message, frozen=True, tag=True):
    """Worker to server: part 0 pickles what a call or the next stream item gave."""

    id: int


class Ended(Message, frozen=True, tag=True):
    """Worker to server: a stream has no more items."""

    id: int


class Raised(Message, frozen=True, tag=True):
    """Worker to server: a call or a stream failed."""

    id: int
    failure: Failure


class Header(msgspec.Struct, frozen=True, array_like=True):
    """A message and the sizes of the parts that follow it."""

    message: (
        Load
        | Infer
        | CloseSession
        | Call
        | Open
        | Generate
        | Next
        | Cancel
        | Stop
        | Loaded
        | Refused
        | Answer
        | Returned
        | Ended
        | Raised
    )
    sizes: list[int]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Header)


def frame(message: Message, parts: Sequence[Part] = ()) -> list[Part]:
    """Return the buffers to write, in order."""
    sizes = [len(part) for part in parts]
    header = _ENCODER.encode(Header(message, sizes))  # type: ignore[arg-type]
    return [PREFIX.pack(len(header), sum(sizes)) + header, *parts]


def unpack(header: bytes | memoryview, payload: memoryview) -> tuple[Message, list[memoryview]]:
    """Decode a received frame; the parts are views into ``payload``."""
    decoded = _DECODER.decode(header)
    parts, begin = [], 0
    for size in decoded.sizes:
        parts.append(payload[begin : begin + size])
        begin += size
    return decoded.message, parts


def send(sock: socket.socket, message: Message, parts: Sequence[Part] = ()) -> None:
    """Write a frame on a blocking socket."""
    for buffer in frame(message, parts):
        sock.sendall(buffer)


def receive(sock: socket.socket) -> tuple[Message, list[memoryview]] | None:
    """Read a frame from a blocking socket; None at its end."""
    prefix = _read(sock, PREFIX.size)
    if prefix is None:
        return None
    header_size, payload_size = PREFIX.unpack(prefix)
    header = _read(sock, header_size)
    payload = _read(sock, payload_size)
    if header is None or payload is None:
        return None
    return unpack(header, payload)


def _read(sock: socket.socket, size: int) -> memoryview | None:
    view = memoryview(bytearray(size))
    filled = 0
    while filled < size:
        count = sock.recv_into(view[filled:])
        if not count:
            return None
        filled += count
    return view


class Unframer:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Message, list[memoryview]]]:
        """Add received bytes; yield every frame that is complete."""
        self._buffer += data
        while len(self._buffer) >= PREFIX.size:
            header_size, payload_size = PREFIX.unpack_from(self._buffer)
            begin = PREFIX.size + header_size
            if len(self._buffer) < begin + payload_size:
                return
            header = bytes(self._buffer[PREFIX.size : begin])
            payload = memoryview(bytes(self._buffer[begin : begin + payload_size]))
            del self._buffer[: begin + payload_size]
            yield unpack(header, payload)

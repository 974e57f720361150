"""The messages between the server and a worker process, and their framing.

A frame is a prefix (header length, payload length), a MessagePack header and the raw parts that
the header's ``sizes`` count off. A large part lies in the shared memory instead, at its place. Both
ends are of one version, but a worker runs a stranger's model: what it says is decoded by the types
below, and what a call carries by ``payload``.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from mataserver.contract.envelope import Format
from mataserver.engines.accidents import Failure
from mataserver.engines.work import Facts, Timing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PREFIX = struct.Struct("<IQ")
Part = bytes | bytearray | memoryview
LARGE = 4096
"""Parts from this size on go through the shared memory where it has room."""
INLINE = -1
"""The place of a part that follows its header."""
LARGEST_HEADER, LARGEST_PAYLOAD = 1 << 24, 1 << 32
LARGEST_ANSWER = 1 << 29
"""What a worker may say at once: twice a map of depths of 64 million pixels."""
_CHUNK = 1 << 18


class JobHead(msgspec.Struct, frozen=True):
    """A job without its two parts, the image and the params."""

    format: Format
    session: str | None


class OutcomeHead(msgspec.Struct, frozen=True):
    """An outcome without its body."""

    timing: Timing
    failure: Failure | None
    fresh: bool


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of the messages."""


class Request(Message, frozen=True):
    """Base of the messages that get an answer."""

    id: int


class Load(Message, frozen=True, tag=True):
    """Server to worker, first: part 0 is the pickled ``Assignment``."""


class Infer(Request, frozen=True, tag=True):
    """Server to worker: a batch; parts are image and params of each job in turn."""

    jobs: list[JobHead]


class Drop(Message, frozen=True, tag=True):
    """Server to worker: nobody waits for a batch any more; it still gets an answer."""

    id: int


class CloseSession(Message, frozen=True, tag=True):
    """Server to worker: forget a session's state."""

    session: str


class Call(Request, frozen=True, tag=True):
    """Server to worker: call a method; parts are the payload ``(method, args, kwargs)``."""


class Open(Request, frozen=True, tag=True):
    """Server to worker: open a generator method; parts as in ``Call``."""


class Generate(Request, frozen=True, tag=True):
    """Server to worker: open the stream of one job's answer; parts are its image and params."""

    job: JobHead


class Next(Request, frozen=True, tag=True):
    """Server to worker: compute one more item of an open stream."""


class Cancel(Message, frozen=True, tag=True):
    """Server to worker: close an open stream."""

    id: int


class Stop(Message, frozen=True, tag=True):
    """Server to worker: close the model and end."""


class Loaded(Message, frozen=True, tag=True):
    """Worker to server: the model is ready."""

    facts: Facts


class LoadRefused(Message, frozen=True, tag=True):
    """Worker to server: the model could not be loaded."""

    failure: Failure


class Answer(Message, frozen=True, tag=True):
    """Worker to server: the outcomes of a batch, or of a stream's job; parts are their bodies."""

    id: int
    outcomes: list[OutcomeHead]


class Returned(Message, frozen=True, tag=True):
    """Worker to server: parts are the payload that a call or the next item of a stream gave."""

    id: int


class Late(Message, frozen=True, tag=True):
    """Worker to server: the image of one job of a request takes too long to decode."""

    id: int
    job: int


class Decoding(Message, frozen=True, tag=True):
    """Worker to server: the model waits for an image to be decoded, and is not to blame."""


class Ended(Message, frozen=True, tag=True):
    """Worker to server: a stream has no more items."""

    id: int


class Raised(Message, frozen=True, tag=True):
    """Worker to server: a call or a stream failed."""

    id: int
    failure: Failure


class Header(msgspec.Struct, frozen=True, array_like=True):
    """A message, and the sizes and places of its parts.

    ``places`` is empty when every part follows the header. ``written`` is the worker's count of
    bytes placed in the shared memory, for the server to hand back once it has read them.
    """

    message: (
        Load
        | Infer
        | Drop
        | CloseSession
        | Call
        | Open
        | Generate
        | Next
        | Cancel
        | Stop
        | Loaded
        | LoadRefused
        | Answer
        | Returned
        | Ended
        | Raised
        | Late
        | Decoding
    )
    sizes: list[int] = []
    places: list[int] = []
    written: int = 0


class Received(msgspec.Struct):
    """A frame as it was received; inline parts are views into it."""

    header: Header
    payload: memoryview


Frame = Received | memoryview
"""A frame with a header, or the payload of one that has none."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Header)


def frame(message: Message, parts: Sequence[Part] = ()) -> list[Part]:
    """Return the buffers to write, in order, for a message whose parts all follow it."""
    return placed(Header(message, [len(part) for part in parts]), parts)  # type: ignore[arg-type]


def placed(header: Header, inline: Sequence[Part]) -> list[Part]:
    """Return the buffers to write for a header and those parts that follow it."""
    encoded = _ENCODER.encode(header)
    size = sum(map(len, inline))
    return [PREFIX.pack(len(encoded), size) + encoded, *inline]


def parts(received: Received) -> list[memoryview]:
    """Return the parts of a frame that placed none in the shared memory."""
    found, begin = [], 0
    for size in received.header.sizes:
        found.append(received.payload[begin : begin + size])
        begin += size
    return found


def send(sock: socket.socket, buffers: Sequence[Part]) -> None:
    """Write a frame on a blocking socket."""
    sock.sendall(b"".join(buffers) if len(buffers) > 1 else buffers[0])


class Reader:
    """Reads frames from a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unframer = Unframer()
        self._complete: deque[Frame] = deque()

    def fetch(self) -> bool:
        """Read what is here, without waiting; False at the socket's end."""
        try:
            data = self._sock.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._complete.extend(self._unframer.feed(data))
        return bool(data)

    def take(self) -> Frame | None:
        """Return the next frame that was read, None when there is none."""
        return self._complete.popleft() if self._complete else None


class Unframer:
    """Cuts a byte stream into frames, of ``largest`` bytes at most. Raises ``ValueError``."""

    def __init__(self, largest: int = LARGEST_PAYLOAD) -> None:
        self._buffer = bytearray()
        self._largest = largest

    def feed(self, data: bytes | bytearray) -> Iterator[Frame]:
        """Add received bytes; yield every frame that is complete."""
        if self._buffer:
            self._buffer += data
            if not _end(self._buffer, 0, self._largest):
                return
            # Frames are views of what was gathered: a copy would cost a large one twice its size.
            data, self._buffer = self._buffer, bytearray()
        begin = 0
        while end := _end(data, begin, self._largest):
            yield _cut(data, begin, end)
            begin = end
        if begin < len(data):
            self._buffer += memoryview(data)[begin:]


def _end(data: bytes | bytearray, begin: int, largest: int) -> int:
    """Return where the frame ends that begins there, 0 when it is not complete."""
    if len(data) - begin < PREFIX.size:
        return 0
    header, payload = PREFIX.unpack_from(data, begin)
    if header > LARGEST_HEADER or payload > largest:
        raise ValueError("a message is too large to be one")
    end: int = begin + PREFIX.size + header + payload
    return end if end <= len(data) else 0


def _cut(data: bytes | bytearray, begin: int, end: int) -> Frame:
    view = memoryview(data)
    header, begin = PREFIX.unpack_from(data, begin)[0], begin + PREFIX.size
    if not header:
        return view[begin:end]
    return Received(_DECODER.decode(view[begin : begin + header]), view[begin + header : end])

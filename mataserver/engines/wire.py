"""Messages between the server and a worker process, and their framing.

A frame is a prefix (header length, payload length), a MessagePack header and the raw parts, whose
lengths are the header's ``sizes``. A large part may lie in shared memory instead, at its offset.
Both ends run the same version, but a worker runs untrusted models: its messages are decoded
strictly by the types below, and a call's values by ``payload``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from mataserver.contract.envelope import Format
from mataserver.engines.work import LoadReport, Timing
from mataserver.engines.worker_errors import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PREFIX = struct.Struct("<IQ")
Buffer = bytes | bytearray | memoryview
Part = bytes | memoryview
SHARED_MIN_BYTES = 4096
"""Parts of at least this many bytes use shared memory, if it has room."""
INLINE = -1
"""The offset of a part that follows the header in its frame."""
MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES = 1 << 24, 1 << 32
MAX_ANSWER_BYTES = 1 << 29
"""Maximum size of a worker's message: twice a depth map of 64 megapixels."""


class JobHeader(msgspec.Struct, frozen=True):
    """A job without its two parts, the image and the params."""

    format: Format
    session: str | None


class OutcomeHeader(msgspec.Struct, frozen=True):
    """An outcome without its body."""

    timing: Timing
    failure: Failure | None
    is_new_session: bool


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base class of the messages."""


class Request(Message, frozen=True):
    """Base class of the messages that get a reply."""

    id: int


class Load(Message, frozen=True, tag=True):
    """Server to worker, first: part 0 is the pickled ``Assignment``."""


class Infer(Request, frozen=True, tag=True):
    """Server to worker: a batch; parts are image and params of each job in turn."""

    jobs: list[JobHeader]


class CancelBatch(Message, frozen=True, tag=True):
    """Server to worker: a batch was cancelled; it still gets a reply."""

    id: int


class CloseSession(Message, frozen=True, tag=True):
    """Server to worker: discard a session's state."""

    session: str


class Call(Request, frozen=True, tag=True):
    """Server to worker: call a method; parts are the payload ``(method, args, kwargs)``."""


class OpenStream(Request, frozen=True, tag=True):
    """Server to worker: open a generator method; parts as in ``Call``."""


class Generate(Request, frozen=True, tag=True):
    """Server to worker: open the stream of one job's answer; parts are its image and params."""

    job: JobHeader


class NextItem(Request, frozen=True, tag=True):
    """Server to worker: compute one more item of an open stream."""


class CloseStream(Message, frozen=True, tag=True):
    """Server to worker: close an open stream."""

    id: int


class Stop(Message, frozen=True, tag=True):
    """Server to worker: close the model and exit."""


class Loaded(Message, frozen=True, tag=True):
    """Worker to server: the model is ready."""

    report: LoadReport


class LoadRefused(Message, frozen=True, tag=True):
    """Worker to server: the model could not be loaded."""

    failure: Failure


class Answer(Message, frozen=True, tag=True):
    """Worker to server: the outcomes of a batch, or of a stream's job; parts are their bodies."""

    id: int
    outcomes: list[OutcomeHeader]


class ValueReturned(Message, frozen=True, tag=True):
    """Worker to server: the value of a call or a stream's next item; parts are its payload."""

    id: int


class DecodeTimedOut(Message, frozen=True, tag=True):
    """Worker to server: a job's image exceeded the decode timeout."""

    id: int
    job: int


class WaitingForDecoder(Message, frozen=True, tag=True):
    """Worker to server: the model is waiting for a decoder, not hanging."""


class StreamEnded(Message, frozen=True, tag=True):
    """Worker to server: a stream has no more items."""

    id: int


class RequestFailed(Message, frozen=True, tag=True):
    """Worker to server: a call or a stream failed."""

    id: int
    failure: Failure


class Header(msgspec.Struct, frozen=True, array_like=True):
    """A message, and the sizes and offsets of its parts.

    ``offsets`` is empty if every part follows the header. ``written`` is the worker's write
    position in shared memory, which the server returns once it has read so far.
    """

    message: (
        Load
        | Infer
        | CancelBatch
        | CloseSession
        | Call
        | OpenStream
        | Generate
        | NextItem
        | CloseStream
        | Stop
        | Loaded
        | LoadRefused
        | Answer
        | ValueReturned
        | StreamEnded
        | RequestFailed
        | DecodeTimedOut
        | WaitingForDecoder
    )
    sizes: list[int] = []
    offsets: list[int] = []
    written: int = 0


class ReceivedMessage(msgspec.Struct):
    """A frame as received; inline parts are views into it."""

    header: Header
    payload: memoryview


Frame = ReceivedMessage | memoryview
"""A frame with a header, or the payload of one without."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Header)


def frame(message: Message, parts: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return the buffers to write, in order, for a message with inline parts only."""
    return frame_with_header(Header(message, [len(part) for part in parts]), parts)  # type: ignore[arg-type]


def frame_with_header(header: Header, inline: Sequence[Buffer]) -> list[Buffer]:
    """Return the buffers to write for a header and its inline parts."""
    encoded = _ENCODER.encode(header)
    size = sum(map(len, inline))
    return [PREFIX.pack(len(encoded), size) + encoded, *inline]


def parts(
    received: ReceivedMessage, shared: Callable[[int, int], Part] | None = None
) -> list[Part]:
    """Return the parts of a message: views of its frame, or what ``shared(offset, size)`` finds."""
    header = received.header
    offsets = header.offsets or [INLINE] * len(header.sizes)
    found: list[Part] = []
    begin = 0
    for size, offset in zip(header.sizes, offsets, strict=True):
        if offset != INLINE and shared is not None:
            found.append(shared(offset, size))
        else:
            found.append(received.payload[begin : begin + size])
            begin += size
    return found


class FrameSplitter:
    """Splits a byte stream into frames of at most ``max_payload`` bytes. Raises ``ValueError``."""

    def __init__(self, max_payload: int = MAX_PAYLOAD_BYTES) -> None:
        self._buffer = bytearray()
        self._max_payload = max_payload

    def feed(self, data: bytes | bytearray) -> Iterator[Frame]:
        """Add received bytes; yield every complete frame."""
        if self._buffer:
            self._buffer += data
            if not _frame_end(self._buffer, 0, self._max_payload):
                return
            # Frames are views of this buffer: a copy would double a large frame's memory.
            data, self._buffer = self._buffer, bytearray()
        begin = 0
        while end := _frame_end(data, begin, self._max_payload):
            yield _parse_frame(data, begin, end)
            begin = end
        if begin < len(data):
            self._buffer += memoryview(data)[begin:]


def _frame_end(data: bytes | bytearray, begin: int, max_payload: int) -> int:
    """Return the end of the frame that starts at ``begin``, 0 if it is incomplete."""
    if len(data) - begin < PREFIX.size:
        return 0
    header, payload = PREFIX.unpack_from(data, begin)
    if header > MAX_HEADER_BYTES or payload > max_payload:
        raise ValueError("a message is too large")
    end: int = begin + PREFIX.size + header + payload
    return end if end <= len(data) else 0


def _parse_frame(data: bytes | bytearray, begin: int, end: int) -> Frame:
    view = memoryview(data)
    header, begin = PREFIX.unpack_from(data, begin)[0], begin + PREFIX.size
    if not header:
        return view[begin:end]
    return ReceivedMessage(
        _DECODER.decode(view[begin : begin + header]), view[begin + header : end]
    )

"""Compact frames for a batch of one job and its answer, which are most of the traffic.

They are a fixed struct without a header. Variable data follows: in a request the params, the
session's name and the image; in an answer its body. An image or a body may be in shared memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from mataserver.engines.wire import INLINE, PREFIX, SHARED_MIN_BYTES
from mataserver.engines.work import Job, Outcome, Timing

if TYPE_CHECKING:
    from mataserver.contract.envelope import Format
    from mataserver.engines.arena import ServerArena, WorkerArena
    from mataserver.engines.wire import Buffer
    from mataserver.engines.work import Body

_REQUEST = struct.Struct("<QqQI?")
"""Request number, image's offset and size, params' size, whether the answer is to be JSON."""
_ANSWER = struct.Struct("<Qddd?qQQ")
"""Request number; decode, infer and encode milliseconds; whether session state is new; the body's
offset and size in shared memory, and the worker's write position there, 0 for an inline body."""


def pack_request(request: int, job: Job, offset: int) -> list[Buffer]:
    """Return the buffers of a job whose image is at ``offset`` in shared memory, or inline."""
    session = (job.session or "").encode()
    inline = [job.image] if offset == INLINE else []
    size = _REQUEST.size + len(job.params) + len(session) + sum(map(len, inline))
    head = _REQUEST.pack(request, offset, len(job.image), len(job.params), job.format == "json")
    return [b"".join((PREFIX.pack(0, size), head, job.params, session)), *inline]


def read_request(frame: memoryview, memory: WorkerArena | None) -> Job:
    """Return the job of a request; its image may be a view of shared memory."""
    request, offset, size, given, is_json = _REQUEST.unpack_from(frame)
    end = len(frame)
    if offset != INLINE and memory is not None:
        image = memory.view(offset, size)
    else:
        end -= size
        image = frame[end:]
    params = _REQUEST.size + given
    session = str(frame[params:end], "utf-8") or None
    form: Format = "json" if is_json else "msgpack"
    return Job(image, frame[_REQUEST.size : params], form, session, (request, 0))


def pack_answer(request: int, outcome: Outcome, memory: WorkerArena | None) -> list[Buffer]:
    """Return the buffers of an answer that is no failure; ``memory`` takes a large body.

    Answers must be sent in the order in which they are packed.
    """
    body = outcome.body if isinstance(outcome.body, tuple) else (outcome.body,)
    size, offset, written = sum(map(len, body)), INLINE, 0
    if size >= SHARED_MIN_BYTES and memory is not None:
        found = memory.write(body)
        if found is not None:
            offset, written, body = found, memory.written, ()
    timing = outcome.timing
    head = _ANSWER.pack(
        request, timing.decode, timing.infer, timing.encode, outcome.is_new_session,
        offset, size, written,
    )  # fmt: skip
    following = size if offset == INLINE else 0
    return [PREFIX.pack(0, _ANSWER.size + following) + head, *body]


def read_answer(frame: memoryview, memory: ServerArena | None) -> tuple[int, Outcome, int]:
    """Return a request's number, its outcome, and the position to release. Raises ``struct.error``.

    A body in shared memory is a view that is valid until it is released (``Outcome.keep``).
    """
    request, decode, infer, encode, is_new_session, offset, size, written = _ANSWER.unpack_from(
        frame
    )
    body: Body
    if offset == INLINE or memory is None:
        body = bytes(frame[_ANSWER.size :])
    else:
        view = memory.view(offset, size)
        body = (view,) if len(view) == size > 0 else b""  # an untrusted worker says where it is
    outcome = Outcome(body, Timing(decode, infer, encode), None, is_new_session)
    return request, outcome, written

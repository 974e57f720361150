"""Compact frames for a batch of one job and its answer, which are most of the traffic.

They are a fixed struct without a header. Variable data follows: in a request the
params, the session's name and the image, unless that is in shared memory; in an answer its body.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from mataserver.engines.wire import INLINE, PREFIX, SHARED_MIN_BYTES
from mataserver.engines.work import Job, Outcome, Timing

if TYPE_CHECKING:
    from mataserver.contract.envelope import Format
    from mataserver.engines.arena import WorkerArena
    from mataserver.engines.wire import Buffer

_REQUEST = struct.Struct("<QqQI?")
"""Request number, image's offset and size, params' size, whether the answer is to be JSON."""
_ANSWER = struct.Struct("<Qddd?")
"""Request number; decode, infer and encode milliseconds; whether session state is new."""


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


def pack_answer(request: int, outcome: Outcome) -> list[Buffer] | None:
    """Return the buffers of an answer; None for failures, and for bodies sent in shared memory."""
    body = outcome.body if isinstance(outcome.body, tuple) else (outcome.body,)
    size = sum(map(len, body))
    if outcome.failure is not None or size >= SHARED_MIN_BYTES:
        return None
    timing = outcome.timing
    head = _ANSWER.pack(request, timing.decode, timing.infer, timing.encode, outcome.is_new_session)
    return [PREFIX.pack(0, _ANSWER.size + size), head, *body]


def read_answer(frame: memoryview) -> tuple[int, Outcome]:
    """Return a request's number and its outcome. Raises ``struct.error``."""
    request, decode, infer, encode, is_new_session = _ANSWER.unpack_from(frame)
    return request, Outcome(
        bytes(frame[_ANSWER.size :]), Timing(decode, infer, encode), None, is_new_session
    )

"""Compact frames for a batch of one job and its answer, which are most of the traffic.

They are a fixed struct without a header. Variable data follows: in an order the params, the
session's name and the image, unless that is in shared memory; in an answer its body.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from mataserver.engines.wire import INLINE, LARGE, PREFIX
from mataserver.engines.work import Job, Outcome, Timing

if TYPE_CHECKING:
    from mataserver.contract.envelope import Format
    from mataserver.engines.arena import Incoming
    from mataserver.engines.wire import Part

_ORDER = struct.Struct("<QqQI?")
"""Request number, image's place and size, params' size, whether the answer is to be JSON."""
_ANSWER = struct.Struct("<Qddd?")
"""Request number; decode, infer and encode milliseconds; whether session state is new."""


def pack_order(request: int, job: Job, place: int) -> list[Part]:
    """Return the buffers of a job whose image lies at ``place`` in shared memory, or inline."""
    session = (job.session or "").encode()
    inline = [job.image] if place == INLINE else []
    size = _ORDER.size + len(job.params) + len(session) + sum(map(len, inline))
    head = _ORDER.pack(request, place, len(job.image), len(job.params), job.format == "json")
    return [b"".join((PREFIX.pack(0, size), head, job.params, session)), *inline]


def read_order(frame: memoryview, memory: Incoming | None) -> Job:
    """Return the job of an order; its image may be a view of shared memory."""
    request, place, size, given, is_json = _ORDER.unpack_from(frame)
    end = len(frame)
    if place != INLINE and memory is not None:
        image = memory.look(place, size)
    else:
        end -= size
        image = frame[end:]
    params = _ORDER.size + given
    session = str(frame[params:end], "utf-8") or None
    form: Format = "json" if is_json else "msgpack"
    return Job(image, frame[_ORDER.size : params], form, session, (request, 0))


def pack_answer(request: int, outcome: Outcome) -> list[Part] | None:
    """Return the buffers of an answer; None for failures, and for bodies sent in shared memory."""
    body = outcome.body if isinstance(outcome.body, tuple) else (outcome.body,)
    size = sum(map(len, body))
    if outcome.failure is not None or size >= LARGE:
        return None
    timing = outcome.timing
    head = _ANSWER.pack(request, timing.decode, timing.infer, timing.encode, outcome.fresh)
    return [PREFIX.pack(0, _ANSWER.size + size), head, *body]


def read_answer(frame: memoryview) -> tuple[int, Outcome]:
    """Return a request's number and its outcome. Raises ``struct.error``."""
    request, decode, infer, encode, fresh = _ANSWER.unpack_from(frame)
    return request, Outcome(
        bytes(frame[_ANSWER.size :]), Timing(decode, infer, encode), None, fresh
    )

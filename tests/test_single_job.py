"""A batch of one job, and its answer, on their way."""

from __future__ import annotations

import os
import struct

import pytest

from mataserver.engines import arena, single_job, wire
from mataserver.engines.work import Job, Outcome, Timing


@pytest.fixture
def memory():
    """Both ends of memory that a server and its worker share."""
    descriptor = arena.create()
    outgoing, incoming = arena.ServerArena(descriptor), arena.WorkerArena(descriptor)
    os.close(descriptor)
    return outgoing, incoming


def there(buffers):
    """Return the frame that buffers are at the other end."""
    (frame,) = wire.FrameSplitter().feed(b"".join(buffers))
    return frame


@pytest.mark.parametrize("session", [None, "front door", "tür"])
@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize("image", [b"", b"pixels", b"p" * 10_000])
@pytest.mark.parametrize("params", [b"\x80", b"q" * 300])
def test_a_job_arrives_as_it_was_sent(memory, image, params, form, session):
    """Its image lies behind it or in the shared memory."""
    outgoing, incoming = memory
    job = Job(image, params, form, session, (7, 0))
    assert single_job.read_request(there(single_job.pack_request(7, job, wire.INLINE)), None) == job
    place = outgoing.write(image).begin
    assert single_job.read_request(there(single_job.pack_request(7, job, place)), incoming) == job


@pytest.mark.parametrize("fresh", [True, False])
def test_an_answer_arrives_as_it_was_sent(fresh):
    """A body in pieces arrives in one."""
    sent = Outcome((b"{", memoryview(b"}")), Timing(1.5, 0.25, 0.125), None, fresh)
    frame = there(single_job.pack_answer(9, sent, None))
    assert single_job.read_answer(frame, None) == (9, Outcome(b"{}", sent.timing, None, fresh), 0)


@pytest.mark.parametrize("size", [wire.SHARED_MIN_BYTES - 1, wire.SHARED_MIN_BYTES, 1 << 20])
def test_a_large_body_is_lent_where_it_lies(memory, size):
    """It is not copied on its way, only by who keeps it, before its room is used again."""
    outgoing, incoming = memory
    pieces = b"x" * (size - 2), b"yz"
    buffers = single_job.pack_answer(3, Outcome(pieces, Timing()), incoming)
    request, outcome, written = single_job.read_answer(there(buffers), outgoing)
    assert (request, outcome.whole()) == (3, b"".join(pieces))
    shared = size >= wire.SHARED_MIN_BYTES
    assert (written > 0, isinstance(outcome.lent(), memoryview)) == (shared, shared)
    assert sum(map(len, buffers)) < wire.SHARED_MIN_BYTES + 100
    outcome.keep()
    outgoing.release_up_to(written)
    while incoming.write([bytes(1 << 19)]) is not None:
        continue
    assert outcome.whole() == b"".join(pieces)


def test_a_large_body_without_room_goes_through_the_socket(memory):
    """So does every one without shared memory, as of a worker on another machine."""
    outgoing, incoming = memory
    body = b"x" * 3_000_000
    for there_is in (incoming, incoming, None):
        buffers = single_job.pack_answer(1, Outcome(body, Timing()), there_is)
        _, outcome, written = single_job.read_answer(there(buffers), outgoing)
        assert outcome.whole() == body
    assert written == 0


@pytest.mark.parametrize(("offset", "size"), [(arena.SIZE, 5000), (0, arena.SIZE), (64, 0)])
def test_a_body_that_is_not_in_the_memory_is_none(memory, offset, size):
    """A worker runs strangers' code: it may say anything of where its answer is."""
    outgoing, incoming = memory
    (buffer,) = single_job.pack_answer(1, Outcome(b"x" * 5000, Timing()), incoming)
    place = len(buffer) - struct.calcsize("<qQQ")
    said = buffer[:place] + struct.pack("<qQQ", offset, size, 5000)
    assert not single_job.read_answer(there([said]), outgoing)[1].body


def test_memory_is_unmapped_once_no_body_is_lent(memory):
    """A worker may be replaced while its answer is on its way to the client."""
    outgoing, incoming = memory
    buffers = single_job.pack_answer(1, Outcome(b"x" * 5000, Timing()), incoming)
    _, outcome, _ = single_job.read_answer(there(buffers), outgoing)
    outgoing.close()
    outcome.keep()
    assert outcome.whole() == b"x" * 5000

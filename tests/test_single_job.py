"""A batch of one job, and its answer, on their way."""

from __future__ import annotations

import os

import pytest

from mataserver.engines import arena, single_job, wire
from mataserver.engines.work import Job, Outcome, Timing
from mataserver.engines.worker_errors import Failure


@pytest.fixture
def memory():
    """Both ends of memory that a server and its worker share."""
    descriptor = arena.create()
    outgoing, incoming = arena.ServerArena(descriptor), arena.WorkerArena(descriptor)
    os.close(descriptor)
    yield outgoing, incoming
    outgoing.close()


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
    request, outcome = single_job.read_answer(there(single_job.pack_answer(9, sent)))
    assert (request, outcome) == (9, Outcome(b"{}", sent.timing, None, fresh))


@pytest.mark.parametrize(
    "body", [b"x" * wire.SHARED_MIN_BYTES, (b"x" * (wire.SHARED_MIN_BYTES - 1), b"x")]
)
def test_what_goes_by_shared_memory_and_a_failure_are_sent_otherwise(body):
    """The struct has no place for either."""
    assert single_job.pack_answer(1, Outcome(body, Timing())) is None
    assert single_job.pack_answer(1, Outcome(b"", Timing(), Failure(500, "no"))) is None

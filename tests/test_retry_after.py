"""When to try again, and which memory falls short: a header of an answer, a field of a stream."""

from __future__ import annotations

import msgspec
import pytest

from mataserver.engines.worker_errors import Failure
from mataserver.errors import MataError, OutOfMemory, Shortage, Unavailable
from mataserver.http.error_responses import error_response
from mataserver.http.events import error_event
from mataserver.http.stream_channel import StreamError
from mataserver_client import replies

SHORT = Shortage("cuda:0", 4300.0, 1200.0, 7200.0)


def no_memory() -> OutOfMemory:
    """Return the error of a model that does not fit."""
    error = OutOfMemory("No room")
    error.shortage = SHORT
    return error


@pytest.mark.parametrize(("after", "seconds"), [(0, 1), (0.2, 1), (1.0, 1), (1.4, 2), (59.01, 60)])
def test_seconds_are_rounded_up(after, seconds):
    """A client that waits as long as it is told does not come too early."""
    error = Unavailable("Busy", retry_after=after)
    assert error_response(error).headers["Retry-After"] == str(seconds)
    assert StreamError.of(Failure.of(error).error(), 3).retry_after == seconds


def test_an_event_and_a_message_have_what_an_answer_has():
    """The figures of a 507 and the seconds are in the last event and in a stream's error."""
    figures = {"device": "cuda:0", "needed_mb": 4300.0, "free_mb": 1200.0, "limit_mb": 7200.0}
    assert data_of(error_event(no_memory())) == {"detail": "No room"} | figures
    busy = Unavailable("Busy", retry_after=1)
    assert data_of(error_event(busy)) == {"detail": "Busy", "retry_after": 1}
    message = {"type": "error", "frame_id": 7}
    assert sent(no_memory()) == message | {"detail": "No room"} | figures
    assert sent(busy) == message | {"detail": "Busy", "retry_after": 1}
    assert sent(MataError("Lost")) == message | {"detail": "Lost"}


def data_of(event: bytes) -> object:
    """Return what an event carries."""
    return msgspec.json.decode(event.partition(b"data: ")[2])


def sent(error: MataError) -> object:
    """Return the message about a frame."""
    return msgspec.json.decode(msgspec.json.encode(StreamError.of(error, 7)))


def test_the_client_reads_them():
    """What may succeed later is ``Unavailable`` with its seconds, all else the common error."""
    busy = error_event(Unavailable("Busy", retry_after=1)).partition(b"data: ")[2]
    error = msgspec.json.decode(busy, type=replies.Failure).error()
    assert (type(error), error.detail, error.retry_after) == (Unavailable, "Busy", 1.0)
    lost = msgspec.json.decode(b'{"detail": "Lost"}', type=replies.Failure).error()
    assert (type(lost), lost.retry_after) == (MataError, None)

"""What the replies of a worker process say: each is checked before anybody gets it.

The worker runs code of others, so a reply that is not of the form that was asked for is a
``WorkerDied`` for who asked, and never a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mataserver.engines import payload, wire
from mataserver.engines.work import Outcome, WorkerDied
from mataserver.errors import MataError

if TYPE_CHECKING:
    import asyncio

MALFORMED = "The model's worker sent a malformed reply"
_LONGEST = 1e9
"""More milliseconds than anything takes; what is no number is not less."""


class Reply(NamedTuple):
    """A worker's answer and copies of its parts."""

    message: wire.Message
    parts: list[bytes]


def read_batch(reply: Reply | MataError, count: int) -> list[Outcome] | MataError:
    """Return the outcomes of a batch of ``count`` jobs, or why there are none."""
    if isinstance(reply, MataError):
        return reply
    message = reply.message
    if isinstance(message, wire.Answer):
        return _outcomes(message, reply.parts, count) or WorkerDied(MALFORMED)
    if isinstance(message, wire.Raised):
        return message.failure.error()
    return WorkerDied(MALFORMED)


def read_piece(reply: Reply) -> str | Outcome:
    """Return a piece of text or, last, the outcome. Raises ``WorkerDied``."""
    message = reply.message
    if isinstance(message, wire.Answer):
        outcomes = _outcomes(message, reply.parts, 1)
        if outcomes is not None:
            return outcomes[0]
    elif isinstance(message, wire.Returned):
        text = payload.unpack(reply.parts, payload.of_package("", frozenset()))
        if isinstance(text, str):
            return text
    raise WorkerDied(MALFORMED)


def settle(future: asyncio.Future[Reply], reply: Reply | MataError) -> None:
    """Give a reply to whoever still waits for it."""
    if future.done():
        return
    if isinstance(reply, MataError):
        future.set_exception(reply)
    elif isinstance(reply.message, wire.Raised):
        future.set_exception(reply.message.failure.error())
    else:
        future.set_result(reply)


def _outcomes(message: wire.Answer, parts: list[bytes], count: int) -> list[Outcome] | None:
    """Return the outcomes of a batch, or None for an answer that is not one per job."""
    heads = message.outcomes
    if len(heads) != count or len(parts) != count:
        return None
    found = []
    for head, body in zip(heads, parts, strict=True):
        if (head.failure is None and not body) or not 0.0 <= head.timing.total < _LONGEST:
            return None
        found.append(Outcome(body, head.timing, head.failure, head.fresh))
    return found

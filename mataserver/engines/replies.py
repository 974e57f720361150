"""Validation of a worker's replies, before any caller sees them.

The worker runs third-party code, so a malformed reply raises ``WorkerDied`` for its caller and is
never returned as a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mataserver.engines import payload, plain_classes, wire
from mataserver.engines.work import Outcome
from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import MataError

if TYPE_CHECKING:
    import asyncio

MALFORMED = "The model's worker sent a malformed reply"
_MAX_MILLISECONDS = 1e9
"""Upper bound of a time in milliseconds; the comparison also rejects NaN."""


class Reply(NamedTuple):
    """A worker's reply and copies of its parts; an ``Outcome`` is complete by itself."""

    message: wire.Message | Outcome
    parts: list[bytes]


def read_batch(reply: Reply | MataError, count: int) -> list[Outcome] | MataError:
    """Return the outcomes of a batch of ``count`` jobs, or its error."""
    if isinstance(reply, MataError):
        return reply
    return _outcomes(reply, count) or WorkerDied(MALFORMED)


def read_piece(reply: Reply) -> str | Outcome:
    """Return a text piece or, last, the outcome. Raises ``WorkerDied``."""
    outcomes = _outcomes(reply, 1)
    if outcomes is not None:
        return outcomes[0]
    if isinstance(reply.message, wire.ValueReturned):
        text = payload.unpack(reply.parts, plain_classes.package_resolver("", frozenset()))
        if isinstance(text, str):
            return text
    raise WorkerDied(MALFORMED)


def resolve(future: asyncio.Future[Reply], reply: Reply | MataError) -> None:
    """Complete a future with a reply, unless it was cancelled."""
    if future.done():
        return
    if isinstance(reply, MataError):
        future.set_exception(reply)
    else:
        future.set_result(reply)


def _outcomes(reply: Reply, count: int) -> list[Outcome] | None:
    """Return the outcomes of a batch, or None unless there is a valid one per job."""
    message, bodies = reply
    if isinstance(message, Outcome):
        found = [message]
    elif isinstance(message, wire.Answer) and len(message.outcomes) == len(bodies):
        found = [
            Outcome(body, head.timing, head.failure, head.is_new_session)
            for head, body in zip(message.outcomes, bodies, strict=True)
        ]
    else:
        return None
    return found if len(found) == count and all(map(_is_valid, found)) else None


def _is_valid(outcome: Outcome) -> bool:
    """Whether an outcome has an answer or a failure, and plausible timings."""
    is_answered = outcome.failure is not None or bool(outcome.body)
    return is_answered and 0.0 <= outcome.timing.total < _MAX_MILLISECONDS

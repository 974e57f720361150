"""How many batches a worker is given ahead, learned from what the last one took.

One more than it runs, so that the next is decoded meanwhile; more where decoding takes most of the
time, so that none of its threads waits, and more where it is next to none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver.engines.work import Outcome, Worker

AHEAD = 2
"""Batches that a worker is given at a time, for each of its threads that has something to do."""
LEAST_MS = 0.1
QUICK_MS = 3.0
"""Milliseconds below which a batch is quick: all that is sent ahead is soon done."""
LITTLE, PLENTY = 5, 6
"""Times as long as the model that decoding takes, from which the model is no bottleneck and larger
batches gain nothing; and how many quick ones each thread that decodes is then given ahead. With
fewer it sleeps while the server answers and reads: a tenth of the throughput (docs/performance.md).
"""
MANY, TINY_MS = 8, 0.3
"""Batches that are given at a time to a worker which takes less than so many milliseconds for each:
both ends then wake up once for several of them."""
SLOW = 20
"""Times as long as decoding that a model takes, from which decoding ahead gains next to nothing."""


def first_window(worker: Worker) -> int:
    """Return how many batches a worker is given of which nothing is known yet."""
    return AHEAD * worker.width


def window_after(answer: list[Outcome], worker: Worker, max_batch: int) -> int | None:
    """Return how many batches to give a worker at a time, None where the answer tells nothing.

    While decoding takes longer than the model, so many are decoded at once that it never waits.
    The images of one batch are that already. A picture that is refused tells nothing.

    What is sent ahead is in no batch, and bound to one replica. With a slow model it rather stays
    here, for whichever is done first, unless a replica keeps the state of its session.
    """
    infer, decode = -1.0, 0.0
    for outcome in answer:
        if outcome.failure is None:
            timing = outcome.timing
            infer = max(infer, timing.infer)
            decode += timing.decode
    if infer < 0.0:
        return None
    helpers = min(int(decode / max(infer, LEAST_MS)), worker.facts.decoders)
    quick = PLENTY if decode > LITTLE * infer else AHEAD
    each = quick if decode + infer < QUICK_MS else int(max_batch == 1)
    slow = infer > SLOW * max(decode, LEAST_MS) and infer > QUICK_MS
    late = slow and worker.width > 1 and not worker.facts.stateful
    many = MANY if decode + infer < TINY_MS else AHEAD + each * helpers
    return (1 if late else many) * worker.width

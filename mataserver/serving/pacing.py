"""How many batches to dispatch ahead to a worker, adapted to the last answer's timing.

One more than it runs, so that the next is decoded concurrently; more if decoding dominates, so that
none of its threads idles, and more if a batch takes next to no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver.engines.work import Outcome, Worker

BATCHES_PER_THREAD = 2
"""Batches in flight per worker thread that is in use."""
MIN_MS = 0.1
QUICK_MS = 3.0
"""Milliseconds below which a batch is quick: everything sent ahead completes soon."""
DECODE_BOUND_RATIO, QUICK_BATCHES = 5, 6
"""Ratio of decode to infer time from which the model is no bottleneck and larger batches gain
nothing; and the quick batches dispatched per decoding thread then. With fewer, threads sleep while
the server answers and reads: a tenth of the throughput (docs/performance.md).
"""
TINY_BATCHES, TINY_MS = 8, 0.3
"""Batches in flight for a worker that takes less than that many milliseconds for each: both ends
then wake up once for several of them."""
INFER_BOUND_RATIO = 20
"""Ratio of infer to decode time from which decoding ahead gains next to nothing."""


def first_window(worker: Worker) -> int:
    """Return the window of a worker without history."""
    return BATCHES_PER_THREAD * worker.width


def window_after(answer: list[Outcome], worker: Worker, max_batch: int) -> int | None:
    """Return the number of batches in flight for a worker, None if the answer is uninformative.

    While decoding takes longer than the model, enough batches are decoded concurrently to keep the
    model busy. The images of one batch already are. A rejected picture is uninformative.

    A batch that was sent ahead cannot grow and is bound to one replica. With a slow model it is
    better kept here, for the first replica that becomes free, unless a replica holds the session's
    state.
    """
    infer, decode = -1.0, 0.0
    for outcome in answer:
        if outcome.failure is None:
            timing = outcome.timing
            infer = max(infer, timing.infer)
            decode += timing.decode
    if infer < 0.0:
        return None
    helpers = min(int(decode / max(infer, MIN_MS)), worker.report.decoders)
    quick = QUICK_BATCHES if decode > DECODE_BOUND_RATIO * infer else BATCHES_PER_THREAD
    each = quick if decode + infer < QUICK_MS else int(max_batch == 1)
    slow = infer > INFER_BOUND_RATIO * max(decode, MIN_MS) and infer > QUICK_MS
    late = slow and worker.width > 1 and not worker.report.stateful
    many = TINY_BATCHES if decode + infer < TINY_MS else BATCHES_PER_THREAD + each * helpers
    return (1 if late else many) * worker.width

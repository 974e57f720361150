"""The process that compares photographs with those before: strangers' files are decoded there."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mataserver import BadRequest, MataError, decode_image
from mataserver_jobs.supervisor import NICE
from mataserver_reconstruct import archive, drift, shares
from mataserver_reconstruct.history import Baseline, sampled
from mataserver_reconstruct.spec import Limits

if TYPE_CHECKING:
    from mataserver import Context, Parent


class Order(Struct):
    """What is compared: the measures of an upload, or of an ``archive``, measured first.

    ``rate`` is the upload's registration rate, None where nothing was reconstructed.
    """

    baseline: Baseline
    archive: str = ""
    limits: Limits = Limits()
    current: dict[str, list[float]] = {}
    n_images: int = 0
    rate: float | None = None


class Answer(Struct):
    """The report and the measures, or the status and the sentence of what was wrong."""

    report: dict[str, Any] = {}
    measures: dict[str, list[float]] = {}
    status: int = 200
    detail: str = ""


def compare(parent: Parent) -> None:
    """Answer the order that the first message is."""
    order = next(parent.messages(Order))
    try:
        parent.send(_answer(order))
    except MataError as error:
        parent.send(Answer(status=error.status, detail=error.detail))


def _answer(order: Order) -> Answer:
    if order.archive:
        rows = _measured(Path(order.archive), order.limits)
        order.current = sampled(rows)
        order.n_images = sum(len(row) > 1 for row in rows)  # of one that is unreadable that alone
    return Answer(report(order), order.current)


def report(order: Order) -> dict[str, Any]:
    """Return the drift report of what was measured."""
    found = drift.report(
        order.current,
        order.baseline.measures,
        registration_rate=order.rate,
        rates=order.baseline.rates,
    )
    return found | {"n_images": order.n_images}


def _measured(file: Path, limits: Limits) -> list[dict[str, float]]:
    """Measure the photographs of an archive. Raises ``BadRequest`` when none can be read."""
    from mataserver_reconstruct import exif
    from mataserver_reconstruct.measures import measure

    rows: list[dict[str, float]] = []
    known = []
    with warnings.catch_warnings(action="ignore"):  # of Pillow, at what is damaged
        for _, data in archive.pictures(file, limits):
            digest = hashlib.sha256(data).hexdigest()
            try:
                rows.append(measure(decode_image(data, limits.max_pixels)))
                known.append(shares.Known(digest, exif.read(data)))
            except BadRequest:
                rows.append({})
                known.append(shares.Known(digest, None))
    if not any(rows):
        raise BadRequest("none of the photographs can be read")
    return [row | held for row, held in zip(rows, shares.held(known), strict=True)]


async def asked(ctx: Context, order: Order) -> Answer:
    """Have an order answered by a process of its own, where it takes more than a look.

    Raises ``MataError`` as the process does, and when it dies.
    """
    if not order.archive and not drift.enough(order.current, order.baseline.measures):
        return Answer(report(order), order.current)
    async with ctx.run_process(compare, nice=NICE, threads=1) as child:
        await child.send(order)
        async for answer in child.messages(Answer):
            if answer.status != 200:
                raise MataError(answer.detail, status=answer.status)
            return answer  # type: ignore[no-any-return]
        ctx.log.warning("the comparison died: %s", await child.last_words())
    raise MataError("The photographs could not be compared")

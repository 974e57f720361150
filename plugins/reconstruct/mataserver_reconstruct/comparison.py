"""Compares photographs with earlier ones in a separate process, which decodes untrusted files."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mataserver import BadRequest, MataError, decode_image
from mataserver_jobs.supervisor import NICE
from mataserver_reconstruct import archive, drift, shares
from mataserver_reconstruct.history import Baseline, sample_measures
from mataserver_reconstruct.spec import Limits

if TYPE_CHECKING:
    from mataserver import Context, Parent


class ComparisonRequest(Struct):
    """The measures of an upload, or an ``archive`` to be measured first, and the baseline.

    ``rate`` is the upload's registration rate, None where nothing was reconstructed.
    """

    baseline: Baseline
    archive: str = ""
    limits: Limits = Limits()
    current: dict[str, list[float]] = {}
    n_images: int = 0
    rate: float | None = None


class ComparisonResult(Struct):
    """The report and the measures, or the status and the detail of an error."""

    report: dict[str, Any] = {}
    measures: dict[str, list[float]] = {}
    status: int = 200
    detail: str = ""


def compare(parent: Parent) -> None:
    """Answer the request in the first message."""
    request = next(parent.messages(ComparisonRequest))
    try:
        parent.send(_compare(request))
    except MataError as error:
        parent.send(ComparisonResult(status=error.status, detail=error.detail))


def _compare(request: ComparisonRequest) -> ComparisonResult:
    if request.archive:
        rows = _measure_archive(Path(request.archive), request.limits)
        request.current = sample_measures(rows)
        request.n_images = sum(len(row) > 1 for row in rows)  # an unreadable one has one value
    return ComparisonResult(report(request), request.current)


def report(request: ComparisonRequest) -> dict[str, Any]:
    """Return the drift report of measures."""
    found = drift.report(
        request.current,
        request.baseline.measures,
        registration_rate=request.rate,
        rates=request.baseline.rates,
    )
    return found | {"n_images": request.n_images}


def _measure_archive(file: Path, limits: Limits) -> list[dict[str, float]]:
    """Measure the photographs of an archive. Raises ``BadRequest`` when none can be read."""
    from mataserver_reconstruct import exif
    from mataserver_reconstruct.measures import measure

    rows: list[dict[str, float]] = []
    known = []
    with warnings.catch_warnings(action="ignore"):  # Pillow warns of damaged files
        for _, data in archive.pictures(file):
            digest = hashlib.sha256(data).hexdigest()
            try:
                rows.append(measure(decode_image(data, limits.max_pixels)))
                known.append(shares.PhotoFacts(digest, exif.read(data)))
            except BadRequest:
                rows.append({})
                known.append(shares.PhotoFacts(digest, None))
    if not any(rows):
        raise BadRequest("none of the photographs can be read")
    return [row | held for row, held in zip(rows, shares.photo_flags(known), strict=True)]


async def run_comparison(ctx: Context, request: ComparisonRequest) -> ComparisonResult:
    """Answer a request, in a separate process unless it is trivial.

    Raises ``MataError`` as the process does, and when it dies.
    """
    if not request.archive and not drift.has_enough_data(
        request.current, request.baseline.measures
    ):
        return ComparisonResult(report(request), request.current)
    async with ctx.run_process(compare, nice=NICE, threads=1) as child:
        await child.send(request)
        async for answer in child.messages(ComparisonResult):
            if answer.status != 200:
                raise MataError(answer.detail, status=answer.status)
            return answer  # type: ignore[no-any-return]
        ctx.log.warning("the comparison died: %s", await child.last_words())
    raise MataError("The photographs could not be compared")

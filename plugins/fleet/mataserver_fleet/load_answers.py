"""Responses to a load or an unload: the result at each Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, UnsetType

from mataserver_fleet.loading import Result
from mataserver_fleet.pages import tagged

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Context
    from mataserver_fleet.loading import LoadOutcome

NO_TRITON = "There is no Triton: it is loaded as soon as there is one"


class Partial(Struct, frozen=True):
    """502: it is not done everywhere; 503: there is no Triton.

    What is wanted stays so, and is tried again. ``version`` is the one that was added first: it is
    there, and sending it again would add another.
    """

    detail: str
    error: str
    status: str
    tritons: list[Result]
    version: str | UnsetType = UNSET


def results(outcome: LoadOutcome, *, full: bool) -> list[Result]:
    """Return the result at each Triton.

    Without ``full`` each reason is its first line: what follows may be a Triton's traceback, which
    is for administrators.
    """
    if full:
        return outcome.done.tritons
    return [
        Result(triton=each.triton, status=each.status, reason=each.reason.partition("\n")[0][:300])
        for each in outcome.done.tritons
    ]


def refusal(
    ctx: Context,
    model: str,
    outcome: LoadOutcome,
    what: str,
    *,
    full: bool,
    version: str | UnsetType = UNSET,
) -> web.Response | None:
    """Return the answer where a model is not loaded or unloaded at each Triton, else None.

    ``what`` is the word for what was to be done, ``version`` one that was added.
    """
    bad = [each for each in outcome.done.tritons if each.status != "ok"]
    if bad:
        first = bad[0].reason.partition("\n")[0][:300]
        detail, status = f"{model} is not {what} at {bad[0].triton}: {first}", 502
    elif not outcome.done.tritons and what == "loaded":
        detail, status = NO_TRITON, 503
    else:
        return None
    listed = results(outcome, full=full)
    return tagged(
        ctx, Partial(detail, detail, "partial", listed, version), outcome.revision, status
    )

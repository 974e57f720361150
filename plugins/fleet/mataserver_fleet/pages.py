"""Shared by the routes: errors, tags of revisions, the caller."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import PRINCIPAL, InvalidParams

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Context, Principal

T = TypeVar("T")
JSON = "application/json"
MAX_BODY = 65_536
"""Bytes of any body but those of models' files."""
FORCE: dict[str, tuple[Any, bool, str]] = {
    "force": (bool, False, "Also where it is in use [false]."),
}
_TAG = re.compile(r'(?:W/)?"([!#-~]*)"')
_MATCH = rf"^(\*|{_TAG.pattern}( *, *{_TAG.pattern})*)\Z"
IF_MATCH: dict[str, tuple[Any, bool, str]] = {
    "If-Match": (
        Annotated[str, Meta(pattern=_MATCH, description="ETags, or *")],
        False,
        "The ETag that was read: 412 if it was changed since.",
    ),
}
_NOT_NULL = Meta(extra_json_schema={"not": {"type": "null"}})
"""Of a field whose null is seen, to be refused: of other fields null means that it is not given."""
_Version = (
    Annotated[int, Meta(ge=0, lt=2**53)]
    | Annotated[
        str,
        Meta(
            pattern=r"^(0|[1-9][0-9]{0,15})\Z", description="the number in an ETag, without quotes"
        ),
    ]
)
_UserVersion = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{1,64}\.[0-9a-f]{8}\Z", description="an ETag without its quotes")
]
Version = Annotated[_Version | UnsetType | None, _NOT_NULL]
"""What a body may say instead of ``If-Match``: a thing's ``ETag`` without the quotes."""
UserVersion = Annotated[_UserVersion | UnsetType | None, _NOT_NULL]
"""The same of a user."""


class Tags(Struct, frozen=True):
    """What a thing must be tagged with for a change of it to count; None is anything.

    ``named`` are those of ``If-Match``, of which one suffices, ``version`` is the body's.
    """

    named: frozenset[str] | None
    version: str | None


class FleetProblem(Struct, frozen=True):
    """An error: one sentence, under the name of this server and under that of MLServe's clients."""

    detail: str
    error: str


class Status(Struct, frozen=True):
    """That it is done."""

    status: str = "ok"


READ: dict[str, Any] = {"tag": "fleet", "needs": "fleet:read", "problem": FleetProblem}
"""What the routes have that read the fleet."""
BODY_ERRORS = (400, 408, 409, 413, 415, 422, 503, 507)
"""The errors of routes that change the fleet by a body."""


def problem(_status: int, detail: str) -> FleetProblem:
    """Return the body of an error."""
    return FleetProblem(detail, detail)


def flag(request: web.Request, name: str) -> bool:
    """Return a switch of the query, off unless it is there. Raises ``InvalidParams``."""
    words = request.query.getall(name, ["false"])
    if len(words) > 1:
        raise InvalidParams(f"{name}: given twice")
    word = words[0].lower()
    if word not in {"true", "1", "false", "0"}:
        raise InvalidParams(f"{name}: must be true or false")
    return word in {"true", "1"}


def caller(request: web.Request) -> Principal:
    """Return the caller; every route here requires one."""
    principal = request[PRINCIPAL]
    assert principal is not None  # noqa: S101 - for the type checker: the server saw to it
    return principal


async def optional_json(ctx: Context, request: web.Request, kind: type[T]) -> T:
    """Return the body as a ``kind``, or one that says nothing where there is no body."""
    if not request.can_read_body:
        return kind()
    async with ctx.http.read_json(request, kind) as asked:
        return asked


def tag(revision: int | str) -> str:
    """Return the ``ETag`` of a revision."""
    return f'"{revision}"'


def tagged(ctx: Context, value: object, revision: int | str, status: int = 200) -> web.Response:
    """Answer with a thing, and the ``ETag`` of its revision."""
    response = ctx.http.respond(value, status=status)
    response.headers["ETag"] = tag(revision)
    return response


def expected(request: web.Request, version: str | int | UnsetType | None = UNSET) -> Tags | None:
    """Return what ``If-Match`` and a body's ``version`` expect. Raises ``InvalidParams``.

    A tag that a proxy weakened, since it compressed the answer, counts too.
    """
    if version is None:  # nobody's "unknown" is to overwrite what others changed
        raise InvalidParams("version: must be an ETag without its quotes, got null")
    own = None if version is UNSET else str(version)
    given = ",".join(request.headers.getall("If-Match", ["*"])).strip()
    if given == "*":
        return None if own is None else Tags(None, own)
    found = [_TAG.fullmatch(each.strip()) for each in given.split(",")]
    if not all(found):
        raise InvalidParams("If-Match: must be an ETag that was read here")
    return Tags(frozenset(each[1] for each in found if each is not None), own)


def date(seconds: float | None) -> str | None:
    """Return Unix seconds as ISO 8601 in UTC, None for none."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

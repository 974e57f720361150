"""``/api/tritons``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from mataserver import AddressRefused, BadRequest, Body, Policy, Route
from mataserver_database import PARAMETERS, finish, page_of
from mataserver_fleet.handlers import Handlers
from mataserver_fleet.pages import (
    BODY_ERRORS,
    FORCE,
    IF_MATCH,
    JSON,
    MAX_BODY,
    READ,
    Status,
    caller,
    expected,
    flag,
    tagged,
)
from mataserver_fleet.repository import RepositoryList, repository
from mataserver_fleet.shared_path import SharedPaths
from mataserver_fleet.triton_client import Address, TritonClient
from mataserver_fleet.tritons import (
    ChangedTriton,
    NewTriton,
    TritonChange,
    TritonView,
    address_of,
    triton_fields,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa
    from aiohttp import web

    from mataserver_fleet.tritons import Tritons

CHECK_SECONDS = 1.0
"""How long a name is looked for before its Triton is registered."""
_NEW = {"name": "gpu-1", "host": "10.0.0.5", "port": "8000", "gpus": 1}


class TritonList(Struct, kw_only=True):
    """A page of the Tritons, and how many there are; ``next_cursor`` gives the next page."""

    tritons: list[TritonView]
    total: int
    next_cursor: str | UnsetType = UNSET


class TritonHandlers(Handlers):
    """The routes of Tritons."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        path, own = "/api/tritons/{identity}", (Body(JSON, TritonView),)
        body = BODY_ERRORS
        write = {**READ, "needs": "fleet:write", "max_body": MAX_BODY}
        return [
            Route("GET", "/api/tritons", self.index, "List the Tritons", parameters=PARAMETERS,
                  response=(Body(JSON, TritonList),), errors=(422, 503), **READ),
            Route("POST", "/api/tritons", self.add, "Register a Triton", status=201, response=own,
                  request=(Body(JSON, NewTriton, _NEW),), errors=body, **write),
            Route("GET", path, self.one, "One Triton, by id or name", response=own,
                  errors=(404, 503), **READ),
            Route("GET", path + "/repository", self.repository, "What a Triton has and serves",
                  response=(Body(JSON, RepositoryList),), errors=(400, 404, 502, 503), **READ),
            Route("PATCH", path, self.change, "Change a Triton", headers=IF_MATCH,
                  request=(Body(JSON, TritonChange, {"gpus": 2}),), errors=(*body, 404, 412),
                  response=(Body(JSON, ChangedTriton),), **write),
            Route("DELETE", path, self.remove, "Forget a Triton", headers=IF_MATCH,
                  parameters=FORCE, response=(Body(JSON, Status),),
                  errors=(404, 409, 412, 422, 503, 507), **write),
        ]  # fmt: skip

    @property
    def _tritons(self) -> Tritons:
        return self._components.tritons

    async def index(self, request: web.Request) -> web.Response:
        """Answer a part of the Tritons."""
        rows = await finish(self._tritons.page(page_of(request)))
        tritons = [TritonView(**triton_fields(row)) for row in rows.found]
        listed = TritonList(tritons=tritons, total=rows.total, next_cursor=rows.next_cursor)
        return self._ctx.http.respond(listed)

    async def add(self, request: web.Request) -> web.Response:
        """Register a Triton."""
        async with self._ctx.http.read_json(request, NewTriton) as new:
            await self._check_permitted(address_of(new, new.host or new.ip))
            self._check_path(new.path)
            row = await finish(self._tritons.add(new))
        self._note(request, "registered the Triton", row["name"])
        return self._answer(row, TritonView, 201)

    async def one(self, request: web.Request) -> web.Response:
        """Answer one Triton."""
        row = await finish(self._tritons.one(request.match_info["identity"]))
        return self._answer(row, TritonView)

    async def repository(self, request: web.Request) -> web.Response:
        """Ask a Triton for its models."""
        row = await finish(self._tritons.one(request.match_info["identity"]))
        client = TritonClient(self._ctx, Address(row["name"], row["host"], row["port"]))
        found = await repository(client, full=caller(request).may("admin"))
        return self._ctx.http.respond(found)

    async def change(self, request: web.Request) -> web.Response:
        """Change a Triton."""
        identity = request.match_info["identity"]
        known = await finish(self._tritons.one(identity))
        async with self._ctx.http.read_json(request, TritonChange) as requested:
            moved = address_of(requested, requested.host or requested.ip or known["host"])
            await self._check_permitted({**known, **moved, "port": moved["port"] or known["port"]})
            self._check_path(requested.path or None)
            tags = expected(request, requested.version)
            row = await finish(self._tritons.change(identity, requested, tags))
        self._note(request, "changed the Triton", row["name"])
        return self._answer(row, ChangedTriton)

    async def remove(self, request: web.Request) -> web.Response:
        """Forget a Triton."""
        identity, force = request.match_info["identity"], flag(request, "force")
        row = await finish(self._tritons.remove(identity, expected(request), force=force))
        self._note(request, "forgot the Triton", row["name"])
        return self._ctx.http.respond(Status())

    def _check_path(self, path: str | None) -> None:
        """Raise ``InvalidParams`` for a repository where no model may be laid."""
        if path:
            SharedPaths(self._ctx.settings.shared_folders).check(path)

    async def _check_permitted(self, row: Mapping[str, Any]) -> None:
        """Raise ``AddressRefused`` (400) for an address that this server may not ask.

        One whose name is not known now may be registered.
        """
        policy = Policy(name="host", timeout=CHECK_SECONDS)
        try:
            await self._ctx.http.check_outbound(Address("", row["host"], row["port"]).url(), policy)
        except AddressRefused:
            raise
        except BadRequest:
            pass  # its name is not known yet

    def _answer(
        self, row: sa.RowMapping, kind: type[TritonView], status: int = 200
    ) -> web.Response:
        return tagged(self._ctx, kind(**triton_fields(row)), row["revision"], status)

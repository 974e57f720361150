"""``/v1/users`` and ``/v1/me``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from mataserver import ANYBODY, Body, NotFound, Route, check_query
from mataserver_accounts.pages import (
    JSON,
    MAX_BODY,
    caller,
    caller_text,
    is_administrator,
)
from mataserver_accounts.records import Password, Role, Tags, User, UserName, UserPage
from mataserver_database import PARAMETERS, page_of

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_accounts.directory import Directory


class NewUser(Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/users``."""

    name: UserName
    password: Password
    role: Role
    tags: Tags = []


class UserChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """``PATCH /v1/users/{user}``: what is left out stays."""

    password: Password | None = None
    role: Role | None = None
    tags: Tags | None = None
    disabled: bool | None = None


class Me(Struct, kw_only=True):
    """Who asks; ``user`` is their record where a user does, themselves or by a key of theirs."""

    id: str
    name: str
    kind: str
    scopes: list[str]
    user: User | UnsetType = UNSET


class UserRoutes:
    """The routes of users."""

    def __init__(self, ctx: Context, directory: Directory) -> None:
        self._ctx = ctx
        self._directory = directory

    def routes(self) -> list[Route]:
        """Return the routes."""
        one, tag = (Body(JSON, User),), "accounts"
        new = Body(JSON, NewUser, {"name": "ada", "password": "correct horse", "role": "viewer"})
        change = (Body(JSON, UserChange, {"role": "developer"}),)
        body, path = (400, 408, 413, 415, 422, 503, 507), "/v1/users/{user}"
        return [
            Route("GET", "/v1/me", self.me, "Who asks", tag, response=(Body(JSON, Me),),
                  errors=(422, 503), needs=ANYBODY),
            Route("GET", "/v1/users", self.list, "List the users; oneself, unless an admin asks",
                  tag, response=(Body(JSON, UserPage),), parameters=PARAMETERS, errors=(422, 503),
                  needs=ANYBODY),
            Route("POST", "/v1/users", self.add, "Make a user", tag, request=(new,), response=one,
                  status=201, errors=(*body, 409), needs="admin", max_body=MAX_BODY),
            Route("GET", path, self.one, "One user, by id or name", tag, response=one,
                  errors=(404, 503), needs=ANYBODY),
            Route("PATCH", path, self.change, "Change a user", tag, request=change, response=one,
                  errors=(*body, 404, 409), needs="admin", max_body=MAX_BODY),
            Route("DELETE", path, self.remove, "Remove a user and their keys", tag, status=204,
                  errors=(404, 409, 503, 507), needs="admin"),
        ]  # fmt: skip

    async def me(self, request: web.Request) -> web.Response:
        """Answer the caller's own principal."""
        check_query(request, ())
        principal = caller(request)
        answer = Me(
            id=principal.id,
            name=principal.name,
            kind=principal.kind,
            scopes=sorted(principal.scopes),
            user=await self._own(principal.id) or UNSET,
        )
        return self._ctx.http.respond(answer)

    async def list(self, request: web.Request) -> web.Response:
        """Answer a part of the users."""
        page, accounts = page_of(request), self._directory.accounts
        if is_administrator(caller(request)):
            listed = await accounts.users(page)
        else:
            own = await self._own(caller(request).id)
            listed = UserPage(users=[] if own is None else [own], total=int(own is not None))
        return self._ctx.http.respond(listed)

    async def add(self, request: web.Request) -> web.Response:
        """Make a user."""
        async with self._ctx.http.read_json(request, NewUser) as new:
            made = await self._directory.change(
                self._directory.accounts.add_user(new.name, new.password, new.role, new.tags)
            )
        self._note(request, "made", made)
        return self._ctx.http.respond(made, status=201)

    async def one(self, request: web.Request) -> web.Response:
        """Answer one user."""
        identity, principal = request.match_info["user"], caller(request)
        user = await self._directory.accounts.user(identity)
        if user.id != principal.id and not is_administrator(principal):
            raise NotFound(f"User not found: {identity[:64]}")
        return self._ctx.http.respond(user)

    async def change(self, request: web.Request) -> web.Response:
        """Change a user."""
        async with self._ctx.http.read_json(request, UserChange) as asked:
            changed = await self._directory.change(
                self._directory.accounts.change_user(
                    request.match_info["user"],
                    password=asked.password,
                    role=asked.role,
                    tags=asked.tags,
                    disabled=asked.disabled,
                )
            )
        self._note(request, "changed", changed)
        return self._ctx.http.respond(changed)

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a user."""
        accounts = self._directory.accounts
        user = await self._directory.user_to_revoke(request.match_info["user"])
        removed = await self._directory.revoke(
            user.id, lambda: accounts.remove_user(user.id), caller_text(request)
        )
        self._note(request, "removed", removed)
        return web.Response(status=204)

    async def _own(self, identity: str) -> User | None:
        """Return the user of a principal's id, or None for a standalone key."""
        try:
            return await self._directory.accounts.user(identity)
        except NotFound:
            return None

    def _note(self, request: web.Request, what: str, user: User) -> None:
        who = caller(request)
        self._ctx.log.info("%s (%s) %s the user %s", who.name, who.id, what, user.name)

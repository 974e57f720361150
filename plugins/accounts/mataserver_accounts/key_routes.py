"""``/v1/keys``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from aiohttp import web
from msgspec import Meta, Struct

from mataserver import ANYBODY, ROLES, Body, InvalidParams, NotFound, Route
from mataserver_accounts.pages import (
    JSON,
    MAX_BODY,
    Forbidden,
    caller,
    caller_text,
    is_administrator,
)
from mataserver_accounts.records import Key, KeyName, KeyPage, MadeKey, Rate, check_scopes
from mataserver_database import PARAMETERS, page_of

if TYPE_CHECKING:
    from mataserver import Context, Principal
    from mataserver_accounts.directory import Directory

MOST_OF_ONE = 1_000
"""Keys of one user: all of them are in memory."""
_Scopes = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(min_length=1, max_length=64)]
_Name = Annotated[str, Meta(min_length=1, max_length=64)]
_Time = Annotated[float, Meta(gt=0.0, le=1e11)]


class NewKey(Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/keys``.

    ``scopes``: what it may do, by default all that its maker may; a key that is nobody's says it.
    A field that there is not is refused: a misspelt ``scopes`` would give all. ``owner``: whose it
    is, by default its maker's; ``standalone``: nobody's. Both are for administrators.
    ``expires_at`` in Unix seconds.
    """

    name: KeyName
    scopes: _Scopes | None = None
    rate: Rate | None = None
    expires_at: _Time | None = None
    owner: _Name | None = None
    standalone: bool = False


class KeyRoutes:
    """The routes of keys."""

    def __init__(self, ctx: Context, directory: Directory) -> None:
        self._ctx = ctx
        self._directory = directory

    def routes(self) -> list[Route]:
        """Return the routes."""
        path, tag = "/v1/keys/{key}", "accounts"
        new = (Body(JSON, NewKey, {"name": "door camera", "scopes": ["infer"]}),)
        return [
            Route("GET", "/v1/keys", self.list, "List the keys; one's own, unless an admin asks",
                  tag, response=(Body(JSON, KeyPage),), parameters=PARAMETERS, errors=(422, 503),
                  needs=ANYBODY),
            Route("POST", "/v1/keys", self.add, "Create a key; it is shown only once", tag,
                  request=new, response=(Body(JSON, MadeKey),), status=201, needs=ANYBODY,
                  errors=(400, 404, 408, 409, 413, 415, 422, 503, 507), max_body=MAX_BODY),
            Route("GET", path, self.one, "One key, without its secret", tag,
                  response=(Body(JSON, Key),), errors=(404, 503), needs=ANYBODY),
            Route("DELETE", path, self.remove, "Revoke a key", tag, status=204,
                  errors=(404, 503, 507), needs=ANYBODY),
        ]  # fmt: skip

    async def list(self, request: web.Request) -> web.Response:
        """Answer a part of the keys."""
        page, principal = page_of(request), caller(request)
        owner = None if is_administrator(principal) else principal.id
        found = await self._directory.accounts.keys(owner, page)
        return self._ctx.http.respond(found)

    async def add(self, request: web.Request) -> web.Response:
        """Make a key."""
        principal = caller(request)
        async with self._ctx.http.read_json(request, NewKey) as new:
            made = await self._directory.change(self._make(principal, new))
        who = (principal.name, principal.id)
        self._ctx.log.info("%s (%s) made the key %s %r", *who, made.id, made.name)
        response = self._ctx.http.respond(made, status=201)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def one(self, request: web.Request) -> web.Response:
        """Answer one key."""
        key = await self._directory.accounts.key(request.match_info["key"])
        return self._ctx.http.respond(_shown(key, caller(request)))

    async def remove(self, request: web.Request) -> web.Response:
        """Revoke a key."""
        principal = caller(request)
        key = _shown(await self._directory.key_to_revoke(request.match_info["key"]), principal)
        if principal.kind != "user" and not is_administrator(principal):
            raise Forbidden("A key cannot revoke keys: log in")
        revoke = self._directory.accounts.revoke_key
        await self._directory.revoke(key.id, lambda: revoke(key.id), caller_text(request))
        who = (principal.name, principal.id)
        self._ctx.log.info("%s (%s) revoked the key %s %r", *who, key.id, key.name)
        return web.Response(status=204)

    async def _make(self, principal: Principal, new: NewKey) -> MadeKey:
        owner, most = await self._owner(principal, new)
        scopes = check_scopes(most if new.scopes is None else new.scopes)
        beyond = set(scopes) - principal.scopes
        if beyond:
            raise Forbidden(f"scopes: you do not have these yourself: {', '.join(sorted(beyond))}")
        return await self._directory.accounts.add_key(
            new.name,
            scopes,
            owner=owner,
            rate=new.rate,
            expires_at=new.expires_at,
            most=None if new.owner is not None else MOST_OF_ONE,
        )

    async def _owner(self, principal: Principal, new: NewKey) -> tuple[str | None, frozenset[str]]:
        """Return whose a new key is, and what it may do at most.

        A key makes no other one, or whoever found it could outlive its revocation.
        """
        admin, accounts = is_administrator(principal), self._directory.accounts
        if principal.kind != "user" and not admin:
            raise Forbidden("A key cannot create keys: log in")
        if (new.owner is not None or new.standalone) and not admin:
            raise Forbidden("Only an administrator can create keys for others")
        if new.owner is not None:
            if new.standalone:
                raise InvalidParams("standalone: a key with an owner cannot be standalone")
            user = await accounts.user(new.owner)
            return user.id, principal.scopes & ROLES[user.role]
        if new.standalone and new.scopes is None:
            raise InvalidParams("scopes: a standalone key must list its scopes")
        if new.standalone or principal.kind != "user":
            return None, principal.scopes
        return principal.id, principal.scopes


def _shown(key: Key, principal: Principal) -> Key:
    """Return a key. Raises ``NotFound`` for another's."""
    if key.owner != principal.id and not is_administrator(principal):
        raise NotFound("Key not found")
    return key

"""``/api/login`` and ``/api/logout``: a token for a password, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from mataserver import Body, Route
from mataserver_fleet.pages import JSON, MAX_BODY, FleetProblem, Status

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_accounts.people import People
    from mataserver_fleet.components import Components


class LogIn(Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/login``."""

    name: Annotated[str, Meta(max_length=1024)]
    password: Annotated[str, Meta(max_length=1024)]


class LoggedIn(Struct, kw_only=True):
    """A token for ``Authorization: Bearer``, for so many seconds.

    A browser is signed in by the answer's cookie besides; what it changes carries ``csrf`` as
    ``X-CSRF-Token``.
    """

    token: str
    expires_in: int
    csrf: str


class LoginHandlers:
    """The routes of log-ins."""

    def __init__(self, ctx: Context, components: Components) -> None:
        del components  # users are the accounts', and no fleet's
        self._ctx = ctx

    def routes(self) -> list[Route]:
        """Return the routes."""
        common: dict[str, Any] = {"tag": "fleet", "problem": FleetProblem, "max_body": MAX_BODY}
        person = {"name": "ada", "password": "correct horse"}
        return [
            Route("POST", "/api/login", self.log_in, "Log in", public=True, **common,
                  request=(Body(JSON, LogIn, person),), response=(Body(JSON, LoggedIn),),
                  errors=(400, 401, 408, 413, 415, 422, 429, 503)),
            Route("POST", "/api/logout", self.log_out, "Log out", public=True, **common,
                  response=(Body(JSON, Status),), errors=(403, 503, 507)),
        ]  # fmt: skip

    @property
    def _people(self) -> People:
        people: People = self._ctx.peer("accounts").people
        return people

    async def log_in(self, request: web.Request) -> web.Response:
        """Answer a token, and begin a browser's session."""
        address = self._ctx.http.address(request)
        async with self._ctx.http.read_json(request, LogIn) as requested:
            principal, token = await self._people.log_in(
                requested.name, requested.password, address
            )
        response = web.Response(content_type=JSON, headers={"Cache-Control": "no-store"})
        csrf = self._ctx.http.sign_in(request, response, principal)
        made = LoggedIn(token=token.access_token, expires_in=token.expires_in, csrf=csrf)
        response.body = self._ctx.http.respond(made).body
        return response

    async def log_out(self, request: web.Request) -> web.Response:
        """Revoke the token that asks this, and end a browser's session."""
        response = self._ctx.http.respond(Status())
        self._ctx.http.sign_out(request, response)  # first: it may refuse the whole
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            await self._people.log_out(secret.strip())
        return response

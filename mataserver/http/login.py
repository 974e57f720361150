"""Browser sessions: started with a key, or with the link that the server printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver.errors import InvalidParams
from mataserver.http import auth, codec, examples
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import Body, Route, StatelessService
from mataserver.principals import ANYBODY

if TYPE_CHECKING:
    from mataserver.contract.service import Context
    from mataserver.http.auth import Authenticator
    from mataserver.http.browsers import BrowserSessions
    from mataserver.http.cookies import Cookies
    from mataserver.principals import Principal

MAX_BODY = 65_536
"""Maximum bytes of the body, which unauthenticated clients send into the shared budget."""
Secret = Annotated[str, Meta(min_length=1, max_length=4096)]


class LoginBody(Struct):
    """``POST /v1/session``: a key or a token, or the code of a link."""

    key: Secret | UnsetType = UNSET
    code: Secret | UnsetType = UNSET


class LoginInfo(Struct):
    """The signed-in user. ``csrf`` is sent as ``X-CSRF-Token`` with modifying requests."""

    id: str
    name: str
    kind: str
    scopes: list[str]
    csrf: str | UnsetType = UNSET


class Link(Struct):
    """A code that signs a browser in once, within ten minutes: ``/#code=…``."""

    code: str


class LoginService(StatelessService):
    """The service of browser sessions."""

    def __init__(
        self, ctx: Context, gate: Authenticator, browsers: BrowserSessions, cookies: Cookies
    ) -> None:
        self._http = ctx.http
        self._gate = gate
        self._browsers = browsers
        self._cookies = cookies

    def routes(self) -> list[Route]:
        """Return the routes."""
        info = (Body(codec.JSON, LoginInfo),)
        return [
            Route("POST", "/v1/session", self._sign_in, "Sign a browser in", "sign-in",
                  request=(Body(codec.JSON, LoginBody, examples.LOGIN),), response=info,
                  public=True, max_body=MAX_BODY,
                  errors=(400, 401, 403, 408, 413, 415, 422, 503)),
            Route("GET", "/v1/session", self._current, "Who is signed in", "sign-in",
                  response=info, errors=(422,), needs=ANYBODY),
            Route("DELETE", "/v1/session", self._sign_out, "Sign a browser out", "sign-in",
                  status=204, public=True, errors=(403,)),
            Route("POST", "/v1/session/link", self._link, "Make a link that signs a browser in",
                  "sign-in", response=(Body(codec.JSON, Link),), needs=ANYBODY),
        ]  # fmt: skip

    async def _sign_in(self, request: web.Request) -> web.Response:
        async with self._http.read_json(request, LoginBody) as asked:
            pass  # releases the body's bytes at once: only the key is needed
        principal = await self._principal(request, asked)
        response = web.Response(content_type=codec.JSON)
        login = self._cookies.sign_in(request, response, principal)
        response.body = codec.encode(_info(login.principal, login.csrf))
        return response

    async def _principal(self, request: web.Request, asked: LoginBody) -> Principal:
        if isinstance(asked.code, str):
            principal = self._browsers.redeem_code(asked.code)
            if principal is None:
                raise auth.Forbidden("The link was used already, or is older than ten minutes")
            return principal
        if not isinstance(asked.key, str):
            raise InvalidParams("key: field is required")
        shown = self._gate.credentials_of(request, "key", asked.key)
        principal = await self._gate.authenticate([shown])
        if principal is None:
            raise auth.Unauthorized("Missing credentials")
        return principal

    async def _current(self, request: web.Request) -> web.Response:
        check_query(request, ())
        login = self._cookies.find(request)
        csrf = login.csrf if login is not None else UNSET
        return codec.respond(_info(auth.caller(request), csrf))

    async def _sign_out(self, request: web.Request) -> web.Response:
        response = web.Response(status=204)
        self._http.sign_out(request, response)
        return response

    async def _link(self, request: web.Request) -> web.Response:
        return codec.respond(Link(self._browsers.make_code(auth.caller(request))))


def _info(principal: Principal, csrf: str | UnsetType) -> LoginInfo:
    scopes = sorted(principal.scopes)
    return LoginInfo(principal.id, principal.name, principal.kind, scopes, csrf)

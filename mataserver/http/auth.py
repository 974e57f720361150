"""Who asks: credentials read once per request, and the principal that they stand for.

``Authorization: Bearer KEY``, ``X-API-Key: KEY``, ``Authorization: Basic`` with the key as the
password (RFC 7617), a WebSocket's ``?token=``, or the cookie of a browser's session.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs, web

from mataserver.errors import BadRequest, MataError
from mataserver.http import proxies
from mataserver.http.browsers import SAFE, cookie_name, is_foreign, is_own, may_act
from mataserver.http.grants import GRANTS
from mataserver.principals import ANONYMOUS, Credentials, Principal
from mataserver.serving.background import BACKGROUND

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from mataserver.config.credentials import KeyRing
    from mataserver.http.browsers import Browsers, Names
    from mataserver.http.grants import Grants
    from mataserver.principals import Scheme

    Authenticate = Callable[[Credentials], Awaitable[Principal | None]]

API_KEY = "X-API-Key"
CSRF = "X-CSRF-Token"
INVALID = "Invalid API key"
FOREIGN = "A page of another origin may not send this: see cors_origins"
PRINCIPAL: web.RequestKey[Principal | None] = web.RequestKey("principal")
"""Who asks, in a request that a handler gets; None on a public route that nobody known asks."""


class Unauthorized(MataError):
    """401: no credentials, or none that can be read."""

    status = 401


class Forbidden(MataError):
    """403: a well-formed key that is not accepted, or that may not do this."""

    status = 403
    unknown = False
    """Whether the key itself is not accepted, and not what it may do."""


class UnknownKey(Forbidden):
    """403: a key that nobody knows. A route may say 401 instead."""

    unknown = True


class Pages(NamedTuple):
    """Which web pages may use a server that asks for no credentials.

    ``names`` are those by which it is known, None where that is left to a proxy; ``origins`` those
    of pages of other servers.
    """

    names: Names | None
    origins: frozenset[str] = frozenset()


class Gate:
    """Tells whose credentials a request shows, and lets it pass or not.

    The server's own keys are asked first, then each service's ``authenticate``. What a header says
    counts before a cookie, and a wrong header is never rescued by a cookie.
    """

    def __init__(
        self,
        keys: KeyRing,
        browsers: Browsers,
        grants: Grants,
        *,
        open_to: Pages | None,
        trust_proxy: bool,
    ) -> None:
        self._keys = keys
        self._browsers = browsers
        self._grants = grants
        self._anonymous = open_to is not None
        self._open_to = open_to
        self._trust_proxy = trust_proxy
        self.services: list[Authenticate] = []

    def make_code(self) -> str | None:
        """Return a code that signs the operator's browser in; None where nobody has to sign in."""
        principal = None if self._anonymous else self._keys.first
        return None if principal is None else self._browsers.make_code(principal)

    async def admit(
        self,
        request: web.Request,
        needs: str | None,
        *,
        public: bool,
        socket: bool = False,
        known: Principal | None = None,
    ) -> None:
        """Note who asks in ``request[PRINCIPAL]``, for a route that needs a scope.

        ``socket`` says that it answers WebSockets, whose ``?token=`` counts. ``known`` is who was
        judged already, by another front-end.

        Raises ``Unauthorized`` or ``Forbidden`` for whoever may not ask it, ``BadRequest`` for a
        key that is there twice, also of a route that is ``public``, which
        else is given None for whoever is not known.
        """
        try:
            principal = known or await self.principal_of(request, socket=socket)
        except MataError as error:
            # A socket is told by its close code, as whoever has no key.
            if not public or (isinstance(error, GivenTwice) and not socket):
                raise
            principal = None
        if not public:
            check_scope(principal, needs)
        request[GRANTS] = self._grants
        request[PRINCIPAL] = principal  # whoever was refused is nobody that a handler may meet
        note_priority(principal)

    async def principal_of(self, request: web.Request, *, socket: bool = False) -> Principal | None:
        """Return who asks, None where nothing is shown. Raises as ``authenticate`` does."""
        if self._open_to is not None:
            self._check_page(request, self._open_to)
            return ANONYMOUS
        given = _secrets(request, socket=socket)
        if not given:
            return self._by_cookie(request)
        # Of most requests this is all; what else tells of a request is for services to judge.
        principal = self._keys.principal(given[0].secret)
        if principal is not None:
            return principal
        return await self.authenticate([self.described(request, *each) for each in given])

    def own_key(self, request: web.Request) -> str | None:
        """Return the server's own key that let a request in; None where something else did.

        It is empty where nobody has to show one.
        """
        if self._open_to is not None:
            return ""
        given = _secrets(request, socket=False)
        secret = given[0].secret if given else None
        return secret if secret and self._keys.principal(secret) is not None else None

    def owner(self, key: str) -> Principal | None:
        """Return whose one of the server's own keys is, as ``own_key`` tells them; None of none."""
        return ANONYMOUS if self._open_to is not None else self._keys.principal(key)

    def _check_page(self, request: web.Request, pages: Pages) -> None:
        """Raise ``Forbidden`` for what a web page may not ask, where nobody has to show a key."""
        host = proxies.host(request, trusted=self._trust_proxy)
        if pages.names is not None and not pages.names.include(host):
            raise Forbidden("The Host is no name of this server: see allowed_hosts")
        acts = request.method not in SAFE or is_socket(request)
        if acts and is_foreign(request.headers, self._scheme(request), host, pages.origins):
            raise Forbidden(FOREIGN)

    async def authenticate(self, shown: Iterable[Credentials]) -> Principal | None:
        """Return whose the first credentials are that somebody knows; None where there are none.

        Raises ``Unauthorized`` or ``Forbidden`` for such as nobody knows, and what a service
        raises for its own that do not count.
        """
        if self._anonymous:
            return ANONYMOUS
        refusal: MataError | None = None
        for credentials in shown:
            try:
                principal = await self._principal(credentials)
            except MataError as error:
                principal, refusal = None, refusal or error
            if principal is not None:
                return principal
            refusal = refusal or _unknown(credentials)
        if refusal is not None:
            raise refusal
        return None

    async def admit_call(
        self,
        metadata: Iterable[tuple[str, str]],
        path: str,
        address: str,
        needs: str | None,
    ) -> Principal:
        """Return who makes a call that did not come by HTTP.

        Raises ``Unauthorized`` for whom nobody knows, ``Forbidden`` for whoever may not, and
        ``BadRequest`` for a key that is there twice.
        """
        try:
            known = await self.authenticate(of_metadata(metadata, path, address))
        except UnknownKey as error:  # 403 is said by HTTP's own routes alone
            raise Unauthorized(error.detail) from None
        principal = check_scope(known, needs)
        note_priority(principal)
        return principal

    async def _principal(self, credentials: Credentials) -> Principal | None:
        principal = self._keys.principal(credentials.secret)
        if principal is not None:
            return principal
        for authenticate in self.services:
            given: object = await authenticate(credentials)
            if isinstance(given, Principal):
                return given
            if given is not None:
                name = getattr(authenticate, "__qualname__", "authenticate")
                raise TypeError(f"{name}() gave {type(given).__name__}, not a Principal")
        return None

    def _by_cookie(self, request: web.Request) -> Principal | None:
        """Return whose a browser's session is, where its cookie counts for the request.

        Raises ``Forbidden``, and what refuses a request too many.
        """
        if hdrs.COOKIE not in request.headers:
            return None
        host = proxies.host(request, trusted=self._trust_proxy)
        cookie = request.cookies.get(cookie_name(host))
        login = self._browsers.find(cookie) if cookie else None
        if login is None:
            return None
        credentials = self.described(request, "cookie", cookie or "")
        own = is_own(request.headers, self._scheme(request), host)
        if not may_act(credentials, login, own=own, socket=is_socket(request)):
            raise Forbidden("A page of another origin, or one without its token, may not do this")
        if login.principal.count is not None:
            login.principal.count()
        return login.principal

    def _scheme(self, request: web.Request) -> str:
        return proxies.scheme(request, trusted=self._trust_proxy)

    def described(
        self, request: web.Request, scheme: Scheme, secret: str, user: str = ""
    ) -> Credentials:
        """Return credentials with what else tells whether they count for a request."""
        headers = request.headers
        return Credentials(
            scheme=scheme,
            secret=secret,
            user=user,
            method=request.method,
            path=request.path,
            origin=headers.get(hdrs.ORIGIN),
            host=proxies.host(request, trusted=self._trust_proxy),
            csrf=headers.get(CSRF, ""),
            address=proxies.client(request, trusted=self._trust_proxy),
        )


def check_scope(principal: Principal | None, needs: str | None) -> Principal:
    """Return who has the scope; raise ``Unauthorized`` for nobody, ``Forbidden`` for others."""
    if principal is None:
        raise Unauthorized("Missing Authorization header")
    if not principal.may(needs):
        scope = "every scope" if needs is None else f"the scope {needs}"
        raise Forbidden(f"{principal.name} may not do this: it needs {scope}")
    return principal


def note_priority(principal: Principal | None) -> None:
    """Have what is done from here on be background work, where a principal's can wait.

    A request is handled in a task of its own, and so in a context of its own.
    """
    if principal is not None and principal.background:
        BACKGROUND.set(True)


def caller(request: web.Request) -> Principal:
    """Return who asks a route that is not public."""
    principal = request[PRINCIPAL]
    assert principal is not None  # noqa: S101 - for the type checker: ``admit`` saw to it
    return principal


def is_socket(request: web.Request) -> bool:
    """Whether a request asks for a WebSocket."""
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def of_metadata(
    metadata: Iterable[tuple[str, str]], path: str, address: str = ""
) -> Iterator[Credentials]:
    """Yield what the metadata of a call shows, whose names are those of headers in lower case.

    Raises ``BadRequest`` for a key that is there twice.
    """
    given: dict[str, list[str]] = {"authorization": [], API_KEY.lower(): []}
    for name, value in metadata:
        if name in given:
            given[name].append(value)
    for each in _read(*(sole_value(name, values) for name, values in given.items())):
        yield Credentials(*each, "POST", path, address=address)


class GivenTwice(BadRequest):
    """400: a key that is there twice."""


def sole_value(name: str, values: Sequence[str]) -> str:
    """Return the value of what may be said once, empty where it is not said.

    Of two keys one program takes the first and the next one the last: whoever stands between a
    client and the server could have looked at another than the server does. Raises ``BadRequest``.
    """
    if len(values) > 1:
        raise GivenTwice(f"{name} is there {len(values)} times: send one")
    return values[0] if values else ""


class _Secret(NamedTuple):
    """What one header, or a WebSocket's token, shows."""

    scheme: Scheme
    secret: str
    user: str = ""


def _secrets(request: web.Request, *, socket: bool) -> list[_Secret]:
    """Return what a request shows: a WebSocket's ``?token=`` first, then its headers.

    A browser's script can set no header of a WebSocket. Elsewhere a key in a URL would open the
    door to whoever reads a log or a history. Raises ``BadRequest`` for one that is there twice.
    """
    headers = request.headers
    shown = _read(
        sole_value(hdrs.AUTHORIZATION, headers.getall(hdrs.AUTHORIZATION, ())),
        sole_value(API_KEY, headers.getall(API_KEY, ())),
    )
    if socket and is_socket(request):
        token = sole_value("token", request.query.getall("token", ()))
        if token:
            shown.insert(0, _Secret("token", token))
    return shown


def _read(authorization: str, key: str) -> list[_Secret]:
    """Return what each of two headers shows: a proxy may need one of them for itself."""
    found = []
    scheme, _, value = authorization.partition(" ")
    scheme, value = scheme.lower(), value.strip()
    if scheme == "bearer" and value:
        found.append(_Secret("bearer", value))
    elif scheme == "basic":
        user, secret = _pair(value)
        if secret:
            found.append(_Secret("basic", secret, user))
    if key:
        found.append(_Secret("key", key))
    return found


def _pair(credentials: str) -> tuple[str, str]:
    """Return user and password of a pair in base64, both empty for what is no such pair."""
    try:
        pair = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):  # a wrong encoding of text is a ValueError
        return "", ""
    user, _, password = pair.partition(":")
    return user, password


def _unknown(credentials: Credentials) -> MataError:
    """Return what is said of credentials that nobody knows: a token of users is 401, a key 403."""
    parts = credentials.secret.split(".")
    if len(parts) == 3 and parts[0].startswith("eyJ"):
        return Unauthorized("Invalid or expired token")
    return UnknownKey(INVALID)

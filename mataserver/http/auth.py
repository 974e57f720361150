"""Who asks: keys and other credentials are checked here, once per request, for a principal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs, web

from mataserver.errors import MataError
from mataserver.http import proxies, shown
from mataserver.http.browsers import SAFE, cookie_name, is_foreign, is_own, may_act
from mataserver.http.grants import GRANTS
from mataserver.http.key_owners import Owners
from mataserver.http.shown import GivenTwice, is_socket, of_metadata
from mataserver.principals import ANONYMOUS, Credentials, Principal
from mataserver.serving.background import BACKGROUND

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from mataserver.config.credentials import KeyRing
    from mataserver.http.browsers import Browsers, Names
    from mataserver.http.grants import Grants
    from mataserver.principals import Scheme

    Authenticate = Callable[[Credentials], Awaitable[Principal | None]]

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
        self.owners = Owners()

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
        given = shown.secrets(request, socket=socket)
        if not given:
            return self._by_cookie(request)
        # Of most requests this is all; what else tells of a request is for services to judge.
        principal = self._keys.principal(given[0].secret)
        if principal is not None:
            return principal
        return await self.authenticate([self.described(request, *each) for each in given])

    def sole_key(self, request: web.Request) -> str | None:
        """Return the key that alone let a request in; None where something else did, or helped.

        It is empty where nobody has to show one. Whose it is ``owner`` tells.
        """
        if self._open_to is not None:
            return ""
        given = shown.secrets(request, socket=False)
        secret = given[0].secret if given else ""
        if secret and self._keys.principal(secret) is not None:
            return secret
        alone = len(given) == 1 and self.owners.decide and request.get(PRINCIPAL) is not None
        return secret if alone else None

    def owner(self, key: str) -> Principal | None:
        """Return whose a key is now, as ``sole_key`` tells them; a service counts a request by it.

        None where nobody knows it, and where that is not all that is to be asked.
        """
        if self._open_to is not None:
            return ANONYMOUS
        return self._keys.principal(key) or self.owners.of(key)

    def _check_page(self, request: web.Request, pages: Pages) -> None:
        """Raise ``Forbidden`` for what a web page may not ask, where nobody has to show a key."""
        host = proxies.host(request, trusted=self._trust_proxy)
        if pages.names is not None and not pages.names.include(host):
            raise Forbidden("The Host is no name of this server: see allowed_hosts")
        acts = request.method not in SAFE or is_socket(request)
        if acts and is_foreign(request.headers, self._scheme(request), host, pages.origins):
            raise Forbidden(FOREIGN)

    async def authenticate(self, given: Iterable[Credentials]) -> Principal | None:
        """Return whose the first credentials are that somebody knows; None where there are none.

        Raises ``Unauthorized`` or ``Forbidden`` for such as nobody knows, and what a service
        raises for its own that do not count.
        """
        if self._anonymous:
            return ANONYMOUS
        refusal: MataError | None = None
        for credentials in given:
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


def _unknown(credentials: Credentials) -> MataError:
    """Return what is said of credentials that nobody knows: a token of users is 401, a key 403."""
    parts = credentials.secret.split(".")
    if len(parts) == 3 and parts[0].startswith("eyJ"):
        return Unauthorized("Invalid or expired token")
    return UnknownKey(INVALID)

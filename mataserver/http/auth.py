"""Authentication: resolves keys and other credentials to a principal, once per request."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs, web

from mataserver.errors import MataError
from mataserver.http import proxies, request_credentials
from mataserver.http.browsers import SAFE_METHODS, cookie_name, is_cookie_valid, is_foreign, is_own
from mataserver.http.key_owners import KeyOwners, ask
from mataserver.http.request_credentials import DuplicateValue, credentials_of_metadata, is_socket
from mataserver.principals import ANONYMOUS, Credentials
from mataserver.serving.background import BACKGROUND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver.config.credentials import KeyRing
    from mataserver.contract.routes import Route
    from mataserver.http.browsers import BrowserSessions, HostNames
    from mataserver.http.key_owners import Authenticate
    from mataserver.http.revocation import Revocations
    from mataserver.principals import Principal, Scheme

CSRF = "X-CSRF-Token"
INVALID_KEY = "Invalid API key"
FOREIGN_ORIGIN = "A page of another origin may not send this: see cors_origins"
PRINCIPAL: web.RequestKey[Principal | None] = web.RequestKey("principal")
"""The caller, for handlers; None on a public route without valid credentials."""


class Unauthorized(MataError):
    """401: missing or unreadable credentials."""

    status = 401


class Forbidden(MataError):
    """403: a well-formed key that is not accepted, or lacks a permission."""

    status = 403


class UnknownKey(Forbidden):
    """403: an unknown key. A route may answer 401 instead."""


class AllowedPages(NamedTuple):
    """The web pages allowed to use a server without credentials.

    ``names`` are the server's host names, None if a proxy checks them; ``origins`` are those of
    other servers' pages.
    """

    names: HostNames | None
    origins: frozenset[str] = frozenset()


class Authenticator:
    """Authenticates and authorizes requests.

    Checks the server's own keys first, then each service's ``authenticate``. Headers take
    precedence over a cookie, except for a password of Basic: it may be a proxy's.
    """

    def __init__(
        self,
        keys: KeyRing,
        browsers: BrowserSessions,
        grants: Revocations,
        *,
        allowed: AllowedPages | None,
        trust_proxy: bool,
    ) -> None:
        self._keys = keys
        self._browsers = browsers
        self.grants = grants
        self._allowed = allowed
        self._trust_proxy = trust_proxy
        self.authenticators: list[Authenticate] = []
        self.owners = KeyOwners()

    def make_code(self) -> str | None:
        """Return a one-time sign-in code for the operator's browser; None if none is needed."""
        principal = None if self._allowed is not None else self._keys.first
        return None if principal is None else self._browsers.make_code(principal)

    async def admit(self, request: web.Request, route: Route, known: Principal | None) -> None:
        """Authenticate a request for a route; set ``request[PRINCIPAL]``.

        ``known`` is a principal that another front-end has authenticated.

        Raises ``Unauthorized`` or ``Forbidden`` for an unauthorized caller, and ``BadRequest`` for
        a duplicate key, even on a public route; otherwise a public route gets None for an
        unknown caller.
        """
        try:
            principal = known or await self._principal_of(request, socket=route.socket)
        except MataError as error:
            # On a WebSocket route the error is reported by the close code, like a missing key.
            if not route.public or (isinstance(error, DuplicateValue) and not route.socket):
                raise
            principal = None
        if not route.public:
            check_scope(principal, route.needs)
        self.grants.attach(request, principal)
        request[PRINCIPAL] = principal  # handlers never see a rejected caller
        mark_background(principal)

    async def _principal_of(self, request: web.Request, *, socket: bool) -> Principal | None:
        """Return the caller, None without credentials. Raises as ``authenticate`` does.

        ``socket`` marks a WebSocket route, where ``?token=`` counts.
        """
        if self._allowed is not None:
            self._check_page(request, self._allowed)
            return ANONYMOUS
        given = request_credentials.presented_secrets(request, socket=socket)
        # The common case; other properties of the request matter to services only.
        principal = self._keys.principal(given[0].secret) if len(given) == 1 else None
        if principal is not None:
            return principal
        principal = await self.authenticate([self.credentials_of(request, *each) for each in given])
        return principal or self._by_cookie(request)

    def sole_key(self, request: web.Request) -> str | None:
        """Return the key if it alone admitted the request; None if anything else contributed.

        Empty if the server requires no key. ``owner`` resolves it again later. The request must
        have no cookie: beside one, a password of Basic that is no key could be a proxy's.
        """
        if self._allowed is not None:
            return ""
        given = request_credentials.presented_secrets(request, socket=False)
        if len(given) != 1:  # a second one may become a key later
            return None
        secret = given[0].secret
        known = self._keys.principal(secret) or (self.owners.can_decide and request.get(PRINCIPAL))
        return secret if known else None

    def owner(self, key: str) -> Principal | None:
        """Return the current owner of a key from ``sole_key``; a service counts it as a request.

        None if it is unknown, or if more than the key must be checked.
        """
        if self._allowed is not None:
            return ANONYMOUS
        return self._keys.principal(key) or self.owners.find(key)

    def _check_page(self, request: web.Request, pages: AllowedPages) -> None:
        """Raise ``Forbidden`` for requests of foreign web pages, on a server without keys."""
        host = proxies.host(request, trusted=self._trust_proxy)
        if pages.names is not None and not pages.names.matches(host):
            raise Forbidden("The Host header is not a name of this server: see allowed_hosts")
        acts = request.method not in SAFE_METHODS or is_socket(request)
        if acts and is_foreign(request.headers, self._scheme(request), host, pages.origins):
            raise Forbidden(FOREIGN_ORIGIN)

    async def authenticate(self, given: Iterable[Credentials]) -> Principal | None:
        """Return the principal of the only known credentials; None without any but a password.

        Raises ``DuplicateValue`` if two different keys are known, ``Unauthorized`` or ``Forbidden``
        for unknown ones, ``CredentialsRevoked``, and what a service raises for invalid ones.
        """
        if self._allowed is not None:
            return ANONYMOUS
        found: list[Principal] = []
        refusal: MataError | None = None
        seen = self.grants.total
        for credentials in request_credentials.without_repeats(given):
            try:
                principal = await self._principal(credentials)
            except MataError as error:
                principal, refusal = None, refusal or error
            if principal is not None:
                found.append(principal)
            elif credentials.scheme != "basic":
                refusal = refusal or UnknownKey(INVALID_KEY)
        if len(found) > 1:  # a proxy may have checked the other one
            raise DuplicateValue("Authorization and X-API-Key hold two different keys: send one")
        if refusal is not None and not found:  # an unknown one beside it is a proxy's own
            raise refusal
        principal = found[0] if found else None
        self.grants.check(principal, seen)
        return principal

    async def admit_call(
        self,
        metadata: Iterable[tuple[str, str]],
        path: str,
        address: str,
        needs: str | None,
    ) -> Principal:
        """Authenticate and authorize a call that did not arrive by HTTP.

        Raises ``Unauthorized`` for an unknown caller, ``Forbidden`` for a missing scope, and
        ``BadRequest`` for a duplicate key.
        """
        try:
            known = await self.authenticate(credentials_of_metadata(metadata, path, address))
        except UnknownKey as error:  # only HTTP's own routes answer 403
            raise Unauthorized(error.detail) from None
        principal = check_scope(known, needs)
        mark_background(principal)
        return principal

    async def _principal(self, credentials: Credentials) -> Principal | None:
        principal = self._keys.principal(credentials.secret)
        if principal is not None:
            return principal
        for authenticate in self.authenticators:
            principal = await ask(authenticate, credentials)
            if principal is not None:
                return principal
        return None

    def _by_cookie(self, request: web.Request) -> Principal | None:
        """Return the principal of a browser's session, if its cookie is valid for the request.

        Raises ``Forbidden``, and the rate limit's error.
        """
        if hdrs.COOKIE not in request.headers:
            return None
        host = proxies.host(request, trusted=self._trust_proxy)
        cookie = request.cookies.get(cookie_name(host))
        login = self._browsers.find(cookie) if cookie else None
        if login is None:
            return None
        credentials = self.credentials_of(request, "cookie", cookie or "")
        own = is_own(request.headers, self._scheme(request), host)
        if not is_cookie_valid(credentials, login, own=own, socket=is_socket(request)):
            raise Forbidden("Only a page of this server that sends its token may do this")
        if login.principal.count is not None:
            login.principal.count()
        return login.principal

    def _scheme(self, request: web.Request) -> str:
        return proxies.scheme(request, trusted=self._trust_proxy)

    def credentials_of(
        self, request: web.Request, scheme: Scheme, secret: str, user: str = ""
    ) -> Credentials:
        """Return credentials with the properties of the request that affect their validity."""
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
    """Return the principal; raise ``Unauthorized`` without one, ``Forbidden`` without the scope."""
    if principal is None:
        raise Unauthorized("Missing Authorization header")
    if not principal.may(needs):
        scope = "every scope" if needs is None else f"the scope {needs}"
        raise Forbidden(f"{principal.name} may not do this: it needs {scope}")
    return principal


def mark_background(principal: Principal | None) -> None:
    """Mark the current context as background work if the principal's requests can wait.

    Each request has a task, and thereby a context, of its own.
    """
    if principal is not None and principal.background:
        BACKGROUND.set(True)


def caller(request: web.Request) -> Principal:
    """Return the caller of a route that is not public."""
    principal = request[PRINCIPAL]
    assert principal is not None  # noqa: S101 - for the type checker: ensured by ``admit``
    return principal

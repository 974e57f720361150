"""Signing browsers in and out by cookies on answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.http import origins, proxies
from mataserver.http.browsers import SESSION_SECONDS, cookie_name

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.http.browsers import BrowserSession, BrowserSessions
    from mataserver.principals import Principal


class Cookies:
    """The cookies of browser sessions; their names include the port of the request."""

    def __init__(self, browsers: BrowserSessions, *, trust_proxy: bool) -> None:
        self._browsers = browsers
        self._trust_proxy = trust_proxy

    def sign_in(
        self, request: web.Request, response: web.Response, principal: Principal
    ) -> BrowserSession:
        """Start a session for a principal, set its cookie on the answer; return the session."""
        cookie, login = self._browsers.begin(principal)
        place = proxies.public_address(request, trusted=self._trust_proxy)
        response.set_cookie(
            cookie_name(place.host),
            cookie,
            max_age=int(SESSION_SECONDS),
            path="/",
            secure=place.secure,
            httponly=True,
            samesite="Lax",
        )
        return login

    def sign_out(self, request: web.Request, response: web.Response) -> None:
        """End the session of a request's cookie, if any, and delete the cookie.

        Raises ``Forbidden`` where a page of another origin asks this: browsers add the cookie.
        """
        cookie = self._cookie(request)
        if not cookie:  # another site's request lacks it, and yet would delete it by the answer
            return
        origins.check(request, (), trust_proxy=self._trust_proxy)
        self._browsers.end(cookie)
        response.del_cookie(self._name(request), path="/")

    def find(self, request: web.Request) -> BrowserSession | None:
        """Return the session of a request's cookie, or None."""
        return self._browsers.find(self._cookie(request))

    def _cookie(self, request: web.Request) -> str:
        return request.cookies.get(self._name(request), "")

    def _name(self, request: web.Request) -> str:
        return cookie_name(proxies.host(request, trusted=self._trust_proxy))

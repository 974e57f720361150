"""Signs browsers in and out: the session behind a cookie begins and ends with an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.http import proxies
from mataserver.http.browsers import SESSION_SECONDS, cookie_name

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.http.browsers import Login
    from mataserver.http.routing import State
    from mataserver.principals import Principal


def sign_in(
    state: State, request: web.Request, response: web.Response, principal: Principal
) -> Login:
    """Begin a session as somebody; the answer carries its cookie. Return the session."""
    cookie, login = state.browsers.begin(principal)
    place = proxies.place(request, trusted=state.settings.trust_proxy)
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


def sign_out(state: State, request: web.Request, response: web.Response) -> None:
    """End the session of a request's cookie, if there is one; the answer takes the cookie away."""
    state.browsers.end(session(state, request))
    response.del_cookie(_name(state, request), path="/")


def session(state: State, request: web.Request) -> str:
    """Return the cookie of a request's session, or an empty text."""
    return request.cookies.get(_name(state, request), "")


def _name(state: State, request: web.Request) -> str:
    return cookie_name(proxies.place(request, trusted=state.settings.trust_proxy).host)

"""Principals and the sessions of browsers."""

from __future__ import annotations

import pytest

from mataserver.http import browsers
from mataserver.http.browsers import (
    BrowserSessions,
    cookie_name,
    is_cookie_valid,
    is_foreign,
    is_own,
    same_origin,
)
from mataserver.principals import ANONYMOUS, READS, ROLES, SCOPES, Credentials, Principal, key_id

VIEWER = Principal("u1", "Ada", "user", ROLES["viewer"])
CAMERAS = Principal("key:1", "cams", "key", frozenset({"infer"}))


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self):
        return self.now


def test_scopes():
    """A principal may what its scopes say, an admin everything; None asks for every scope."""
    assert ANONYMOUS.unrestricted
    assert all(ANONYMOUS.may(scope) for scope in (*SCOPES, None, "any"))
    assert CAMERAS.may("infer")
    assert CAMERAS.may("any")
    assert not any(CAMERAS.may(scope) for scope in ("models:write", "admin", None))
    assert {scope for scope in SCOPES if VIEWER.may(scope)} == ROLES["viewer"]


def test_the_id_of_a_key_tells_nothing_of_it():
    """The same key has the same id, another another, and neither shows the key."""
    assert key_id("secret-key") == key_id("secret-key") != key_id("secret-keys")
    assert "secret" not in key_id("secret-key")
    assert len(key_id("secret-key")) == len("key:") + 12


def test_secrets_are_not_shown():
    """What is logged of credentials holds neither the secret nor the CSRF token."""
    assert "hidden" not in repr(Credentials("bearer", "hidden", csrf="hidden"))


def test_a_session_lasts_while_it_is_used():
    """Each use counts the time anew; without one it ends, and so it does when it is ended."""
    clock = Clock()
    known = BrowserSessions(clock)
    cookie, login = known.begin(VIEWER)
    for _ in range(3):
        clock.now += browsers.SESSION_SECONDS - 1
        assert known.find(cookie) == login
    clock.now += browsers.SESSION_SECONDS + 1
    assert known.find(cookie) is None
    other, _ = known.begin(CAMERAS)
    known.end(other)
    assert known.find(other) is None
    assert known.find("unknown") is None


def test_a_code_counts_once_and_soon():
    """A code begins one session; a second try, a late one and a wrong one begin none."""
    clock = Clock()
    known = BrowserSessions(clock)
    code = known.make_code(VIEWER)
    assert known.redeem_code(code) is VIEWER
    assert known.redeem_code(code) is None
    late = known.make_code(VIEWER)
    clock.now += browsers.CODE_SECONDS + 1
    assert known.redeem_code(late) is None


def test_sessions_are_bounded():
    """However many begin, the newest are kept and one that is used stays."""
    known = BrowserSessions()
    used, _ = known.begin(VIEWER)
    for _ in range(browsers.MAX_SESSIONS + 10):
        known.begin(CAMERAS)
        assert known.find(used) is not None


def test_every_session_of_a_principal_ends():
    """Who is no more has neither sessions nor codes; others keep theirs."""
    known = BrowserSessions()
    hers, _ = known.begin(VIEWER)
    theirs, _ = known.begin(CAMERAS)
    code = known.make_code(VIEWER)
    known.end_all("")  # most principals have no grant: it names none of them
    assert known.find(hers) is not None
    known.end_all("u1")
    assert known.find(hers) is None
    assert known.redeem_code(code) is None
    assert known.find(theirs) is not None


@pytest.mark.parametrize("scopes", ["models:read", ["infer"], {"infer"}, None])
def test_scopes_are_a_frozenset(scopes):
    """In a text every part of it would count as a scope."""
    with pytest.raises(TypeError, match="scopes: a frozenset, not"):
        Principal("u1", "Ada", "user", scopes)


def test_scopes_are_those_that_there_are():
    """A scope that is misspelt is told when somebody is let in, by name."""
    with pytest.raises(ValueError, match="scopes: 'infr' is none of infer, models:read"):
        Principal("u1", "Ada", "user", frozenset({"infr", "models:read"}))


def test_nobody_has_every_scope_unasked():
    """Who makes a principal says what it may do."""
    with pytest.raises(TypeError, match="scopes"):
        Principal("u1", "Ada", "user")


def test_a_session_ends_with_what_it_rests_on():
    """A key that ends or is revoked takes along what it began, and nothing else of its owner's."""
    clock, wall = Clock(), Clock()
    known = BrowserSessions(clock, wall)
    wall.now = 1_000_000.0
    passing = Principal("u1", "Ada", "key", READS, grant="k1", until=wall.now + 60)
    lasting = Principal("u1", "Ada", "key", READS, grant="k2")
    hers, other = known.begin(passing)[0], known.begin(lasting)[0]
    code = known.make_code(passing)
    wall.now += 59
    assert known.find(hers) is not None
    wall.now += 1
    assert known.find(hers) is None
    assert known.redeem_code(code) is None
    assert known.find(other) is not None
    known.end_all("k2")
    assert known.find(other) is None


@pytest.mark.parametrize(
    ("method", "origin", "csrf", "socket", "counts"),
    [
        ("GET", None, False, False, True),
        ("POST", "http://box:8110", True, False, True),
        ("POST", "http://box:8110", False, False, False),
        ("POST", "http://evil.example", True, False, False),
        ("POST", None, True, False, False),
        ("POST", "null", True, False, False),
        ("GET", "http://box:8110", False, True, True),
        ("GET", "http://evil.example", False, True, False),
        ("GET", None, True, True, False),
    ],
)
def test_when_a_cookie_counts(method, origin, csrf, socket, counts):
    """What changes something needs the page's own origin and token; a WebSocket the origin."""
    _, login = BrowserSessions().begin(VIEWER)
    shown = login.csrf if csrf else ""
    credentials = Credentials(
        "cookie", "x", method=method, origin=origin, host="box:8110", csrf=shown
    )
    own = is_own({} if origin is None else {"Origin": origin}, "", "box:8110")
    assert is_cookie_valid(credentials, login, own=own, socket=socket) is counts


def test_names_of_cookies_and_origins():
    """Two servers of one machine do not share a cookie; only the page's own origin is the same."""
    assert cookie_name("box:8110") == "mataserver_8110"
    assert cookie_name("[::1]:80") == "mataserver_80"
    assert cookie_name("box") == cookie_name("[::1]") == "mataserver"
    assert same_origin("https://Box:8110", "", "box:8110")
    assert not same_origin("http://box:8110.evil.example", "", "box:8110")
    assert not same_origin("ftp://box:8110", "", "box:8110")
    assert not same_origin("http://", "", "")


def test_an_origin_has_a_scheme():
    """What was asked by TLS is no page's without it, nor the other way round, where one knows."""
    assert same_origin("https://box", "https", "box")
    assert not same_origin("http://box", "https", "box")
    assert not same_origin("https://box", "http", "box")
    assert not same_origin("ftp://box", "ftp:", "box")


@pytest.mark.parametrize(
    ("site", "own"),
    [(None, True), ("same-origin", True), ("none", True), ("same-site", False), ("?", False)],
)
def test_a_browser_knows_its_page(site, own):
    """Which site a browser tells goes before what the server makes of ``Origin`` and ``Host``."""
    told = {} if site is None else {"Sec-Fetch-Site": site}
    headers = {"Origin": "http://box", **told}
    assert is_own(headers, "", "box") is own
    assert is_foreign(headers, "", "box", ()) is not own
    assert not is_foreign(headers, "", "box", ("http://box",))


def test_a_token_that_is_no_text_does_not_count():
    """Any bytes may stand in a header."""
    _, login = BrowserSessions().begin(VIEWER)
    own = {"origin": "http://box:8110", "host": "box:8110"}
    credentials = Credentials("cookie", "x", method="POST", csrf="\udcff\udcfe", **own)
    assert not is_cookie_valid(credentials, login, own=True, socket=False)


def test_who_signs_in_without_end_ends_nobody_elses_session():
    """Each principal has room for so many sessions and codes; the oldest of its own give way."""
    known = BrowserSessions()
    theirs, _ = known.begin(Principal("u2", "bea", "user", READS))
    code = known.make_code(Principal("u2", "bea", "user", READS))
    mine = [known.begin(VIEWER)[0] for _ in range(browsers.MAX_SESSIONS + 1)]
    for _ in range(browsers.MAX_SESSIONS + 1):
        known.make_code(VIEWER)
    assert known.find(theirs) is not None
    assert known.redeem_code(code) is not None
    kept = [cookie for cookie in mine if known.find(cookie) is not None]
    assert kept == mine[-browsers.MAX_SESSIONS_OF_ONE :]

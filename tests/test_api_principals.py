"""Who may do what: scopes of keys, the sessions of browsers, and what belongs to whom."""

from __future__ import annotations

import base64
import re

import aiohttp
import pytest

from api_answers import asking, problem
from conftest import POINTS
from mataserver import testing
from mataserver.principals import SCOPES

KEYS = [
    {"key": "all-key"},
    {"key": "infer-key", "name": "cams", "scopes": ["infer"]},
    {"key": "other-key", "name": "door", "scopes": ["infer"]},
    {"key": "read-key", "name": "eyes", "scopes": ["models:read"]},
    {"key": "write-key", "name": "hands", "scopes": ["models:write"]},
    {"key": "admin-key", "name": "boss", "scopes": ["admin"]},
]
NEEDS = {
    ("GET", "/docs"): "",
    ("GET", "/health"): "",
    ("GET", "/metrics"): "",
    ("GET", "/openapi.json"): "",
    ("GET", "/openai/v1/models"): "models:read",
    ("GET", "/openai/v1/models/{model_id}"): "models:read",
    ("GET", "/ready"): "",
    ("GET", "/redoc"): "",
    ("GET", "/static/{name}"): "",
    ("GET", "/v1/health"): "",
    ("GET", "/v1/models"): "models:read",
    ("GET", "/v1/models/{model_id}"): "models:read",
    ("DELETE", "/v1/models/{model_id}"): "models:write",
    ("GET", "/v1/pages"): "any",
    ("GET", "/v1/plugins"): "models:read",
    ("GET", "/v1/session"): "any",
    ("GET", "/v1/settings"): "admin",
    ("DELETE", "/v1/session"): "",
    ("POST", "/v1/session"): "",
    ("POST", "/v1/session/link"): "any",
    ("GET", "/v1/sessions"): "infer",
    ("GET", "/v1/sessions/{session_id}"): "infer",
    ("GET", "/v1/sessions/{session_id}/snapshot"): "infer",
    ("DELETE", "/v1/sessions/{session_id}"): "infer",
    ("POST", "/v1/sessions"): "infer",
    ("GET", "/v1/stream/{session_id}"): "",
    ("GET", "/v2"): "models:read",
    ("GET", "/v2/health/live"): "",
    ("GET", "/v2/health/ready"): "",
    ("GET", "/v2/models/{model_id}"): "models:read",
    ("GET", "/v2/models/{model_id}/ready"): "models:read",
    ("GET", "/v2/models/{model_id}/versions/{version}"): "models:read",
    ("GET", "/v2/models/{model_id}/versions/{version}/ready"): "models:read",
    ("POST", "/openai/v1/chat/completions"): "infer",
    ("POST", "/v1/chat/completions"): "infer",
    ("POST", "/v1/infer"): "infer",
    ("POST", "/v1/infer/upload"): "infer",
    ("DELETE", "/openai/v1/models/{model_id}"): "models:write",
    ("POST", "/v1/models/pin"): "models:write",
    ("POST", "/v1/models/pull"): "models:write",
    ("GET", "/v1/pulls"): "models:read",
    ("DELETE", "/v1/pulls/{model_id}"): "models:write",
    ("POST", "/v1/models/unpin"): "models:write",
    ("POST", "/v1/models/unload"): "models:write",
    ("POST", "/v1/models/warmup"): "models:write",
    ("POST", "/v2/models/{model_id}/infer"): "infer",
    ("POST", "/v2/models/{model_id}/versions/{version}/infer"): "infer",
    ("POST", "/v2/repository/index"): "models:read",
    ("POST", "/v2/repository/models/{model_id}/load"): "models:write",
    ("POST", "/v2/repository/models/{model_id}/unload"): "models:write",
}
"""The scope that each route needs; nothing for what answers without credentials."""


@pytest.fixture
async def server(data_dir):
    """A server with keys of several scopes."""
    async with testing.serving(
        data_dir, entry_points=POINTS, engine="thread", api_keys=KEYS
    ) as served:
        yield served


@pytest.fixture
async def http(server):
    """A session that shows no key, and keeps cookies of addresses too."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(server.url, cookie_jar=jar) as session:
        yield session


def bearer(key):
    """Return the header of a key."""
    return {"Authorization": f"Bearer {key}"}


def test_every_route_needs_what_the_table_says(server):
    """No route is open by chance: each stands in the table with the scope that it needs."""
    table = {
        (route.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)): (
            "" if route.public else route.needs
        )
        for route in server.composed.table.routes
    }
    assert table == NEEDS
    assert set(table.values()) <= {*SCOPES, "", "any"}


@pytest.mark.parametrize("route", [route for route, needs in NEEDS.items() if needs], ids=" ".join)
async def test_scopes(http, route):
    """Each route answers who has its scope or is an admin; others 403, nobody 401."""
    method, path = route
    path = path.format(model_id="fake-detect", version="1", session_id="sess_0")

    async def status(key):
        headers = bearer(key) if key else {}
        async with http.request(method, path, headers=headers) as response:
            return response.status, await response.text()

    assert (await status(None))[0] == 401
    assert (await status("wrong-key"))[0] in (
        {401} if "openai" in path or "chat" in path else {403}
    )
    keys = {"infer": "infer-key", "models:read": "read-key", "models:write": "write-key"}
    for scope, key in keys.items():
        code, text = await status(key)
        if scope == NEEDS[route] or NEEDS[route] == "any":
            assert code not in {401, 403}, text
        else:
            assert code == 403
            assert f"needs the scope {NEEDS[route]}" in text
    for key in ("all-key", "admin-key"):
        assert (await status(key))[0] not in {401, 403}


async def sign_in(http, **shown):
    """Sign a browser in; return its CSRF token."""
    async with http.post("/v1/session", json=shown) as response:
        body = await response.json()
        assert response.status == 200, body
        return body["csrf"]


def shown(key):
    """Return each way to show a key: headers and query."""
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    return {
        "Bearer": (bearer(key), ""),
        "Basic": ({"Authorization": f"Basic {basic}"}, ""),
        "X-API-Key": ({"X-API-Key": key}, ""),
        "query": ({}, f"?token={key}"),
    }


@pytest.mark.parametrize("way", shown("k"))
async def test_ways_to_show_a_key(http, way):
    """On every route each header is judged alike; a key in the URL is none."""
    keys = {"infer": "infer-key", "models:read": "read-key", "models:write": "write-key"}
    for (method, path), needs in NEEDS.items():
        if not needs:
            continue
        place = path.format(model_id="fake-detect", version="1", session_id="sess_0")
        is_401 = "openai" in path or "chat" in path or way == "Basic"  # it may be a proxy's
        refused = {401} if is_401 else {403}
        right = keys.get(needs, "admin-key")
        other = next(key for scope, key in keys.items() if scope != needs)
        for key, expected in ((right, None), (other, {403}), ("wrong-key", refused)):
            headers, query = shown(key)[way]
            async with http.request(method, place + query, headers=headers) as response:
                code = response.status
            if way == "query":
                assert code == 401, (path, key)
            elif expected is None or (key == other and needs == "any"):
                assert code not in {401, 403}, (path, key)
            else:
                assert code in expected, (path, key)


async def test_a_cookie_on_every_route(http, server):
    """A cookie reads, but for other origins; it acts with ``Origin`` and its token alone."""
    csrf = await sign_in(http, key="all-key")
    own = {"Origin": server.url, "X-CSRF-Token": csrf}
    half = (
        {},
        {"Origin": server.url},
        {"X-CSRF-Token": csrf},
        {**own, "Origin": "http://x.example"},
    )
    for (method, path), needs in NEEDS.items():
        if not needs:
            continue
        place = path.format(model_id="fake-detect", version="1", session_id="sess_0")
        for headers in (*half, own):
            async with http.request(method, place, headers=headers) as response:
                accepted = response.status not in {401, 403}
            reads = method == "GET" and headers.get("Origin", server.url) == server.url
            assert accepted == (reads or headers is own), (method, path, headers)


async def test_a_browser_signs_in(http, server):
    """A cookie stands for the key from then on; what changes something needs the page's token."""
    csrf = await sign_in(http, key="infer-key")
    (cookie,) = http.cookie_jar
    assert cookie.key == f"mataserver_{http._base_url.port}"
    assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "Lax", "")
    assert "infer-key" not in cookie.value
    async with http.get("/v1/session") as response:
        known = await response.json()
    assert (known["name"], known["scopes"], known["csrf"]) == ("cams", ["infer"], csrf)
    async with http.get("/v1/sessions") as response:
        assert response.status == 200
    body = {"model": "fake-detect"}
    own = {"Origin": server.url, "X-CSRF-Token": csrf}
    async with http.post("/v1/sessions", json=body, headers=own) as response:
        assert response.status == 201
    for headers in (
        {},
        {"Origin": server.url},
        {"X-CSRF-Token": csrf},
        {**own, "X-CSRF-Token": "x"},
        {**own, "Origin": "http://evil.example"},
    ):
        async with http.post("/v1/sessions", json=body, headers=headers) as response:
            await problem(response, 403)
    async with http.delete("/v1/session") as response:
        assert response.status == 204
    async with http.get("/v1/sessions") as response:
        await problem(response, 401)


async def test_a_wrong_header_is_not_rescued_by_a_cookie(http):
    """Who shows a wrong key is refused, signed in or not."""
    await sign_in(http, key="all-key")
    async with http.get("/v1/models", headers=bearer("wrong-key")) as response:
        await problem(response, 403)
    async with http.get("/v1/models", headers=bearer("infer-key")) as response:
        await problem(response, 403)


async def test_a_stolen_cookie_is_worth_nothing_after_the_sign_out(http, server):
    """The server forgets the session, whatever the browser still keeps."""
    await sign_in(http, key="all-key")
    (cookie,) = http.cookie_jar
    kept = {"Cookie": f"{cookie.key}={cookie.value}"}
    async with aiohttp.ClientSession(server.url, headers=kept) as thief:
        async with thief.get("/v1/models") as response:
            assert response.status == 200
        async with http.delete("/v1/session") as response:
            assert response.status == 204
        async with thief.get("/v1/models") as response:
            await problem(response, 401)


async def test_a_link_signs_in_once(http):
    """A code stands for whoever made it, once; a wrong one, or a wrong key, signs nobody in."""
    async with http.post("/v1/session/link", headers=bearer("read-key")) as response:
        code = (await response.json())["code"]
    assert len(base64.urlsafe_b64decode(code + "=")) >= 16
    await sign_in(http, code=code)
    async with http.get("/v1/session") as response:
        assert (await response.json())["name"] == "eyes"
    for body, status in (
        ({"code": code}, 403),
        ({"code": "x"}, 403),
        ({"key": "wrong-key"}, 403),
        ({}, 422),
        ({"key": ""}, 422),
    ):
        async with http.post("/v1/session", json=body) as response:
            await problem(response, status)


async def test_a_socket_by_cookie(http, server):
    """A WebSocket is opened with the cookie by the server's own pages alone."""
    csrf = await sign_in(http, key="infer-key")
    own = {"Origin": server.url, "X-CSRF-Token": csrf}
    async with http.post("/v1/sessions", json={"model": "fake-detect"}, headers=own) as response:
        path = f"/v1/stream/{(await response.json())['session_id']}"
    async with http.ws_connect(path, headers={"Origin": server.url}) as socket:
        await socket.send_str('{"type":"ping"}')
        assert await socket.receive_json() == {"type": "pong"}
    for headers in ({}, {"Origin": "http://evil.example"}):
        async with http.ws_connect(path, headers=headers) as socket:
            await socket.receive()
            assert socket.close_code == 4001


async def test_sessions_belong_to_their_makers(http):
    """Another key's session is not found and not listed; an admin sees all."""
    async with http.post(
        "/v1/sessions", json={"model": "fake-detect"}, headers=bearer("infer-key")
    ) as response:
        session = (await response.json())["session_id"]

    async def seen(key):
        async with http.get(f"/v1/sessions/{session}", headers=bearer(key)) as response:
            one = response.status
        async with http.get("/v1/sessions", headers=bearer(key)) as response:
            return one, len(await response.json())

    assert await seen("infer-key") == (200, 1)
    assert await seen("other-key") == (404, 0)
    assert await seen("admin-key") == (200, 1)
    async with http.ws_connect(f"/v1/stream/{session}?token=other-key") as socket:
        await socket.receive()
        assert socket.close_code == 4004
    async with http.ws_connect(f"/v1/stream/{session}?token=read-key") as socket:
        await socket.receive()
        assert socket.close_code == 4001
    async with http.delete(f"/v1/sessions/{session}", headers=bearer("other-key")) as response:
        assert response.status == 404
    async with http.delete(f"/v1/sessions/{session}", headers=bearer("infer-key")) as response:
        assert response.status == 204


async def test_an_open_server_asks_nobody(data_dir, png):
    """With ``auth_mode: none`` whoever asks is anonymous and may everything."""
    async with (
        testing.serving(data_dir, engine="thread", auth_mode="none") as served,
        aiohttp.ClientSession(served.url) as http,
    ):
        async with http.get("/v1/session") as response:
            assert (await response.json())["id"] == "anonymous"
        async with http.post("/v1/infer", json=asking("fake-detect", png)) as response:
            assert response.status == 200

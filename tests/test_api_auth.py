"""Who may ask: keys in the right place, in the wrong place, and in none."""

from __future__ import annotations

import base64

import aiohttp
import pytest

from api_answers import detail_of, exchange, problem
from conftest import picture
from mataserver import testing

MISSING = "Missing Authorization header"
INVALID = "Invalid API key"
GUARDED = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/fake-detect"),
    ("POST", "/v1/models/pull"),
    ("POST", "/v1/models/warmup"),
    ("POST", "/v1/models/unload"),
    ("POST", "/v1/infer"),
    ("POST", "/v1/infer/upload"),
    ("GET", "/v1/sessions"),
    ("POST", "/v1/sessions"),
    ("GET", "/v1/sessions/sess_000000000000"),
    ("DELETE", "/v1/sessions/sess_000000000000"),
    ("GET", "/v1/plugins"),
]


@pytest.fixture
async def stranger(server):
    """An HTTP session without a key."""
    async with aiohttp.ClientSession(server.url) as session:
        yield session


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_every_other_route_needs_a_key(stranger, method, path):
    """Without a key each route is 401 with the documented text, and with a wrong one 403."""
    async with stranger.request(method, path) as response:
        assert await problem(response, 401) == MISSING
        assert response.headers["WWW-Authenticate"] == "Bearer"
    headers = {"Authorization": "Bearer wrong"}
    async with stranger.request(method, path, headers=headers) as response:
        assert await problem(response, 403) == INVALID


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic",
        "Basic dGVzdC1rZXk=",
        "Basic ?",
        "Basic dXNlcjo=",
        "Basic //8=",
        "test-key",
        "Token test-key",
    ],
)
async def test_a_malformed_header_is_a_missing_one(stranger, value):
    """Another scheme, an empty token and a pair that cannot be read are 401, not 403."""
    async with stranger.get("/v1/models", headers={"Authorization": value}) as response:
        assert await problem(response, 401) == MISSING


@pytest.mark.parametrize(
    "request_",
    [
        {"params": {"token": "test-key"}},
        {"params": {"api_key": "test-key"}},
        {"headers": {"Cookie": "token=test-key; Authorization=Bearer test-key"}},
        {"headers": {"Proxy-Authorization": "Bearer test-key"}},
    ],
    ids=["query token", "query api_key", "cookie", "proxy"],
)
async def test_a_key_in_the_wrong_place_is_none(stranger, request_):
    """REST takes the key from its two headers and from nowhere else."""
    async with stranger.get("/v1/models", **request_) as response:
        assert await problem(response, 401) == MISSING


def basic(user: str, password: str) -> str:
    """Return the header of HTTP's Basic scheme."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


WAYS = {
    "X-API-Key": lambda key: {"X-API-Key": key},
    "lower case": lambda key: {"x-api-key": key},
    "Basic": lambda key: {"Authorization": basic("anyone", key)},
    "Basic without a user": lambda key: {"Authorization": basic("", key)},
    "beside a proxy's own": lambda key: {
        "Authorization": basic("proxy", "its-own"),
        "X-API-Key": key,
    },
}


@pytest.mark.parametrize("way", WAYS)
async def test_further_ways_to_show_a_key(stranger, way):
    """``X-API-Key`` and the password of Basic are keys too; a wrong password is no key at all."""
    wrong = (401, MISSING) if way.startswith("Basic") else (403, INVALID)
    async with stranger.get("/v1/models", headers=WAYS[way]("test-key")) as response:
        assert response.status == 200
    async with stranger.get("/v1/models", headers=WAYS[way]("wrong")) as response:
        assert await problem(response, wrong[0]) == wrong[1]


async def test_a_browser_behind_a_proxy_with_a_password(server):
    """It sends the proxy's password with each request: the cookie counts beside it."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(server.url, cookie_jar=jar) as browser:
        behind = {"Authorization": basic("proxy", "its-own")}
        async with browser.post("/v1/session", json={"key": "test-key"}, headers=behind) as answer:
            assert answer.status == 200
        async with browser.get("/v1/models", headers=behind) as answer:
            assert answer.status == 200
        async with browser.get("/v1/models", headers={"X-API-Key": "wrong"}) as answer:
            assert await problem(answer, 403) == INVALID


async def test_a_key_that_looks_like_a_token(stranger):
    """Without a service that knows tokens it is a wrong key like any other."""
    headers = {"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"}
    async with stranger.get("/v1/models", headers=headers) as response:
        assert await problem(response, 403) == INVALID


@pytest.mark.parametrize("way", WAYS)
async def test_a_websocket_takes_them_too(stranger, server, way):
    """A socket is open to the same headers: no session of that name is the next thing it says."""
    for key, code in (("test-key", 4004), ("wrong", 4001)):
        async with stranger.ws_connect("/v1/stream/sess_0", headers=WAYS[way](key)) as socket:
            await socket.receive()
            assert socket.close_code == code


@pytest.mark.parametrize(
    "shown",
    [
        [("Authorization", "Bearer wrong"), ("Authorization", "Bearer test-key")],
        [("Authorization", "Bearer test-key"), ("Authorization", basic("any", "test-key"))],
        [("X-API-Key", "wrong"), ("X-API-Key", "test-key")],
    ],
)
async def test_a_key_that_is_there_twice(stranger, shown):
    """A proxy may have looked at the other one: 400, and on a socket as without a key."""
    async with stranger.get("/v1/models", headers=shown) as response:
        assert await problem(response, 400) == f"{shown[0][0]} is there 2 times: send one"
    async with stranger.get("/health", headers=shown) as response:  # which nobody needs a key for
        assert response.status == 400
    async with stranger.ws_connect("/v1/stream/sess_0", headers=shown) as socket:
        await socket.receive()
        assert socket.close_code == 4001


TWO_KEYS = "Authorization and X-API-Key hold two different keys: send one"


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
async def test_two_different_keys(data_dir, scheme):
    """Two keys of the server are 400 on every route: whoever is in front may have checked one.

    The same key in both headers is one, and an unknown one is a proxy's own.
    """

    def both(first, second):
        shown = f"Bearer {first}" if scheme == "Bearer" else basic("any", first)
        return {"Authorization": shown, "X-API-Key": second}

    async with (
        testing.serving(data_dir, engine="thread", api_keys=["one", "two"]) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        for path in ("/v1/models", "/health"):
            for _ in range(4):  # the last ones could be of a known head
                for headers in (both("one", "two"), both("two", "one")):
                    async with session.get(path, headers=headers) as response:
                        assert await problem(response, 400) == TWO_KEYS
            for headers in (both("one", "one"), both("one", "proxy"), both("proxy", "two")):
                async with session.get(path, headers=headers) as response:
                    assert response.status == 200
        headers = both("one", "two")
        async with session.ws_connect("/v1/stream/sess_0", headers=headers) as socket:
            await socket.receive()
            assert socket.close_code == 4001


async def test_a_token_that_is_there_twice(stranger):
    """``?token=`` of a socket as well."""
    async with stranger.ws_connect("/v1/stream/sess_0?token=wrong&token=test-key") as socket:
        await socket.receive()
        assert socket.close_code == 4001


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_case_insensitive(stranger, scheme):
    """HTTP's scheme names have no case."""
    headers = {"Authorization": f"{scheme} test-key"}
    async with stranger.get("/v1/models", headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "token", ["test-ke", "test-key2", "TEST-KEY", "test-key test-key", "x" * 4000]
)
async def test_a_key_must_match_whole(stranger, token):
    """Beginnings, extensions and other cases of a key are 403."""
    async with stranger.get("/v1/models", headers={"Authorization": f"Bearer {token}"}) as response:
        assert await problem(response, 403) == INVALID


async def test_a_token_that_is_no_text(server):
    """Bytes that are no UTF-8 are a wrong key like any other."""
    head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n"
    status, _, body = await exchange(server, head)
    assert (status, detail_of(body)) == (403, INVALID)


async def test_every_configured_key_is_accepted(data_dir):
    """Each of api_keys and api_key opens the server."""
    async with (
        testing.serving(data_dir, engine="thread", api_keys=["one", "two"], api_key="three") as it,
        aiohttp.ClientSession(it.url) as session,
    ):
        for key in ("one", "two", "three"):
            headers = {"Authorization": f"Bearer {key}"}
            async with session.get("/v1/models", headers=headers) as response:
                assert response.status == 200


async def test_auth_mode_none_asks_nobody(data_dir):
    """With auth_mode none every request is served, whatever its header says."""
    async with (
        testing.serving(data_dir, engine="thread", auth_mode="none") as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            async with session.get("/v1/models", headers=headers) as response:
                assert response.status == 200


async def test_the_key_is_checked_before_the_body(stranger):
    """A stranger learns nothing about bodies and models: 401 comes first."""
    headers = {"Content-Type": "image/png"}
    async with stranger.post("/v1/infer?model=none", data=picture(), headers=headers) as response:
        await problem(response, 401)


async def test_an_unknown_route_is_404_without_a_key(stranger):
    """There is nothing to guard where there is no route."""
    async with stranger.get("/v3/models") as response:
        assert await problem(response, 404) == "Not found"

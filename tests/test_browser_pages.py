"""Web pages of others: what they may have a browser send, with and without a key."""

from __future__ import annotations

import contextlib

import aiohttp
import pytest

from conftest import POINTS, picture
from mataserver import config, testing
from mataserver.config import ConfigError
from stream_peers import open_session

PNG = picture()
EVIL = "https://evil.example"
INFER = {"params": {"model": "fake-detect"}, "data": PNG}
IMAGE = {"Content-Type": "image/png"}


@contextlib.asynccontextmanager
async def serving(data_dir, **settings):
    """Run a server that asks for no key; yield an HTTP session without one."""
    chosen = {"engine": "thread", "auth_mode": "none", "entry_points": POINTS} | settings
    async with (
        testing.serving(data_dir, **chosen) as served,
        aiohttp.ClientSession(served.url) as http,
    ):
        yield http, served.url.removeprefix("http://")


async def status(http, method, path, headers=None, **request):
    """Return the status of an answer."""
    async with http.request(method, path, headers=headers, **request) as response:
        await response.read()
        return response.status


async def infer(http, headers=None):
    """Infer on a picture; return the status."""
    return await status(http, "POST", "/v1/infer", {**IMAGE, **(headers or {})}, **INFER)


async def test_what_no_page_sends_is_served(data_dir):
    """Programs need no Origin; the server's own page may do everything, by whatever it is known."""
    async with serving(data_dir) as (http, place):
        assert await infer(http) == 200
        assert await infer(http, {"Origin": f"http://{place}"}) == 200
        assert (
            await infer(http, {"Origin": "https://proxied", "Sec-Fetch-Site": "same-origin"}) == 200
        )
        port = place.rpartition(":")[2]
        for host in ("localhost", "127.0.0.1", "[::1]", "192.168.1.20", "page.localhost"):
            own = {"Host": f"{host}:{port}", "Origin": f"http://{host}:{port}"}
            assert await infer(http, own) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_pages_of_others_change_nothing(data_dir, headers):
    """Every route that changes something is refused to them, and inference; reading is not."""
    async with serving(data_dir) as (http, _):
        assert await infer(http, headers) == 403
        for method, path in (
            ("POST", "/v1/sessions"),
            ("POST", "/v1/models/unload"),
            ("POST", "/v1/models/pull"),
            ("DELETE", "/v1/models/fake-detect"),
            ("POST", "/v1/chat/completions"),
            ("POST", "/v2/models/fake-detect/infer"),
            ("POST", "/v1/session/link"),
        ):
            assert await status(http, method, path, headers, json={}) == 403, path
        assert await status(http, "GET", "/v1/models", headers) == 200
        assert await status(http, "GET", "/health", headers) == 200


async def test_a_form_of_another_page(data_dir):
    """A form is refused before it is read."""
    async with serving(data_dir) as (http, _):
        form = aiohttp.FormData({"model": "fake-detect"})
        form.add_field("file", PNG, filename="a.png")
        assert await status(http, "POST", "/v1/infer/upload", {"Origin": EVIL}, data=form) == 403


async def test_a_listed_page_may(data_dir):
    """What ``cors_origins`` lists may act; others still not."""
    async with serving(data_dir, cors_origins=["https://shop.example"]) as (http, _):
        assert await infer(http, {"Origin": "https://shop.example"}) == 200
        assert await infer(http, {"Origin": EVIL}) == 403


async def test_sockets_of_other_pages(data_dir):
    """A stream that another page opens is closed with 4001; the server's own is served."""
    async with serving(data_dir) as (http, place):
        path = f"/v1/stream/{await open_session(http)}"
        async with http.ws_connect(path, headers={"Origin": EVIL}) as socket:
            await socket.receive()
            assert socket.close_code == 4001
        async with http.ws_connect(path, headers={"Origin": f"http://{place}"}) as socket:
            await socket.send_bytes(PNG)
            assert (await socket.receive_json())["detections"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8110",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[::1].evil.example",
        "[::1]evil",
        "localhost:evil.example",
        "evil",
    ],
)
async def test_a_name_that_leads_here(data_dir, host):
    """A page whose domain leads to this machine is refused, also for reading: only Host tells."""
    async with serving(data_dir) as (http, _):
        own = {"Host": host, "Origin": f"http://{host}"}
        assert await infer(http, own) == 403
        assert await status(http, "GET", "/v1/models", {"Host": host}) == 403
        assert await status(http, "GET", "/health", {"Host": host}) == 200


async def test_names_that_are_listed(data_dir):
    """A name of ``allowed_hosts`` is the server's, in any case and with any port; a star is all."""
    async with serving(data_dir, allowed_hosts=["vision.local"]) as (http, _):
        assert await status(http, "GET", "/v1/models", {"Host": "Vision.Local:8110"}) == 200
        assert await status(http, "GET", "/v1/models", {"Host": "evil.example"}) == 403
    async with serving(data_dir, allowed_hosts=["*"]) as (http, _):
        assert await status(http, "GET", "/v1/models", {"Host": "evil.example"}) == 200
    with pytest.raises(ConfigError, match="allowed_hosts"):
        config.load(environ={}, directory=data_dir, allowed_hosts=["http://a"])


async def test_behind_a_trusted_proxy(data_dir):
    """The proxy's page may act by the name that the proxy tells, whatever Host it sends itself."""
    told = {"X-Forwarded-Host": "vision.example", "X-Forwarded-Proto": "https"}
    page, other = {"Origin": "https://vision.example"}, {"Origin": EVIL}
    async with serving(data_dir, trust_proxy=True) as (http, _):
        for host in ({}, {"Host": "vision.example"}, {"Host": "upstream"}):
            assert await infer(http, {**told, **page, **host}) == 200
            assert await infer(http, {**told, **host}) == 200
            assert await infer(http, {**told, **other, **host}) == 403
        form = aiohttp.FormData({"model": "fake-detect"})
        form.add_field("file", PNG, filename="a.png")
        path = "/v1/infer/upload"
        assert await status(http, "POST", path, {**told, **page}, data=form) == 200
    async with serving(data_dir, trust_proxy=True, allowed_hosts=["vision.example"]) as (http, _):
        assert await infer(http, {**told, **page}) == 200
        rebound = {"X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"}
        assert await infer(http, rebound) == 403


async def test_a_page_without_tls_behind_a_proxy_with_it(data_dir):
    """Who answers by HTTP in the server's name is another origin: a network may put words in it."""
    told = {"X-Forwarded-Host": "vision.example", "X-Forwarded-Proto": "https"}
    own, clear = {"Origin": "https://vision.example"}, {"Origin": "http://vision.example"}
    async with serving(data_dir, trust_proxy=True) as (http, _):
        assert await infer(http, {**told, **own}) == 200
        assert await infer(http, {**told, **clear}) == 403
        assert await infer(http, {**told, "X-Forwarded-Proto": "http", **clear}) == 200
        assert await infer(http, {**told, "X-Forwarded-Proto": "http", **own}) == 403
    async with serving(data_dir, auth_mode="api_key", trust_proxy=True) as (http, _):
        async with http.post("/v1/session", json={"key": "test-key"}, headers=told) as response:
            csrf = (await response.json())["csrf"]
            cookie = response.headers["Set-Cookie"].partition(";")[0]
        shown = {**told, "Cookie": cookie, "X-CSRF-Token": csrf}
        assert await infer(http, {**shown, **own}) == 200
        assert await infer(http, {**shown, **clear}) == 403
        assert await infer(http, {**shown, **own, "Sec-Fetch-Site": "cross-site"}) == 403
        asked = {"json": {"model": "fake-detect"}, "headers": {**shown, **own}}
        async with http.post("/v1/sessions", **asked) as response:
            path = f"/v1/stream/{(await response.json())['session_id']}"
        async with http.ws_connect(path, headers={**shown, **clear}) as socket:
            await socket.receive()
            assert socket.close_code == 4001


async def test_a_form_behind_a_trusted_proxy_with_a_key(data_dir):
    """With a key too a form is taken from the page that the proxy tells."""
    told = {"X-Forwarded-Host": "vision.example", "Origin": "https://vision.example"}
    chosen = {"auth_mode": "api_key", "trust_proxy": True}
    async with serving(data_dir, **chosen) as (http, _):
        form = aiohttp.FormData({"model": "fake-detect"})
        form.add_field("file", PNG, filename="a.png")
        key = {"Authorization": "Bearer test-key"}
        assert await status(http, "POST", "/v1/infer/upload", {**told, **key}, data=form) == 200


async def test_a_cookie_and_an_origin(http):
    """A request whose credential is the cookie tells no other Origin, also where it reads."""
    async with http.post("/v1/session", json={"key": "test-key"}) as response:
        cookie = response.headers["Set-Cookie"].partition(";")[0]
    own = str(http._base_url).rstrip("/")  # what aiohttp keeps of the server's URL
    async with aiohttp.ClientSession(own, headers={"Cookie": cookie}) as browser:
        assert await status(browser, "GET", "/v1/models") == 200
        assert await status(browser, "GET", "/v1/models", {"Origin": own}) == 200
        for origin in (EVIL, "null", "http://127.0.0.1:1"):
            assert await status(browser, "GET", "/v1/models", {"Origin": origin}) == 403
            assert await status(browser, "DELETE", "/v1/session", {"Origin": origin}) == 403
        assert await status(browser, "GET", "/v1/models") == 200


@pytest.mark.parametrize(("origins", "wanted"), [([], 403), ([EVIL], 204)])
async def test_another_sites_sign_out_without_the_cookie(data_dir, origins, wanted):
    """Its request lacks the cookie, which the browser would delete if the answer said so."""
    async with (
        serving(data_dir, cors_origins=origins) as (http, _),
        http.delete("/v1/session", headers={"Origin": EVIL}) as response,
    ):
        assert response.status == wanted
        assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize(
    "path",
    [
        "/v1/infer",
        "/v1/sessions",
        "/v1/models/unload",
        "/v1/session",
        "/v1/chat/completions",
        "/v1/models/pull",
        "/v2/models/fake-detect/infer",
    ],
)
@pytest.mark.parametrize("kind", ["text/plain", "text/plain;charset=UTF-8"])
async def test_json_is_no_plain_text(http, path, kind):
    """A route that takes JSON takes no text, which a page sends anywhere without asking."""
    body = b'{"model": "fake-detect"}'
    assert await status(http, "POST", path, {"Content-Type": kind}, data=body) == 415


# keys in URLs


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake-detect", "/v1/sessions"])
async def test_a_key_in_a_url_opens_no_other_route(server, path):
    """``?token=`` counts where WebSockets are answered alone, whatever a request says of itself."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with aiohttp.ClientSession(server.url) as http:
        for headers in ({}, upgrade, {"Upgrade": "websocket"}):
            assert await status(http, "GET", f"{path}?token=test-key", headers) == 401
        path = "/v1/infer?model=fake-detect&token=test-key"
        assert await status(http, "POST", path, {**upgrade, **IMAGE}, data=PNG) == 401

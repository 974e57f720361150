"""Sessions over REST: create, list, look at, delete; the WebSocket is in test_stream.py."""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp
import pytest

from api_answers import detail_of, exchange, head_of, problem, refused, until
from mataserver import testing

PATH = "/v1/sessions"
FIELDS = {
    "session_id": str,
    "model": str,
    "task": str,
    "created_at": float,
    "connected": bool,
    "frames": int,
    "results": int,
    "dropped": int,
}


@pytest.fixture
def cached_detector(data_dir, tmp_path, monkeypatch):
    """A hub model of the fake type in a cache of its own; both detect and track serve it."""
    folder = tmp_path / "hub" / "models--org--detector"
    snapshot = folder / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "fake"}')
    (snapshot / "model.safetensors").write_bytes(bytes(2_000_000))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    registry = data_dir / "model_registry.json"
    content = json.loads(registry.read_text())
    entry = {"task": "detect", "source": "hf", "pulled_at": 1.0}
    content["models"]["org/detector"] = entry
    registry.write_text(json.dumps(content))
    return "org/detector"


async def create(http, **body):
    """Create a session, which must be 201; return the answer."""
    asked = {"model": "fake-detect", **body}
    async with http.post(PATH, json=asked) as response:
        assert response.status == 201, await response.text()
        return await response.json()


async def test_a_new_session(server, http):
    """POST answers 201 with an id of sess_ and 12 hex digits, and where to stream to."""
    made = await create(http)
    assert set(made) == {"session_id", "ws_url"}
    assert re.fullmatch(r"sess_[0-9a-f]{12}", made["session_id"])
    assert made["ws_url"] == f"ws{server.url[4:]}/v1/stream/{made['session_id']}"


async def test_ids_differ(http):
    """Two sessions have two ids."""
    assert (await create(http))["session_id"] != (await create(http))["session_id"]


@pytest.mark.parametrize(
    ("trusted", "header", "scheme"),
    [
        (False, "https", "ws"),
        (True, "https", "wss"),
        (True, "HTTPS, http", "wss"),
        (True, "http", "ws"),
        (True, "", "ws"),
        (True, "gopher", "ws"),
    ],
)
async def test_ws_url_behind_a_proxy(data_dir, trusted, header, scheme):
    """X-Forwarded-Proto makes the URL wss, only where the proxy is trusted."""
    async with (
        testing.serving(data_dir, engine="thread", trust_proxy=trusted) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        headers = {"X-Forwarded-Proto": header}
        async with http.post(PATH, json={"model": "fake-detect"}, headers=headers) as response:
            assert (await response.json())["ws_url"].startswith(f"{scheme}://")


PUBLIC = {
    "X-Forwarded-Host": "cams.example:8443, inner",
    "X-Forwarded-Prefix": "/vision/v%20a/",
    "X-Forwarded-Proto": "https",
}


@pytest.mark.parametrize(
    ("trusted", "headers", "url"),
    [
        (True, PUBLIC, "wss://cams.example:8443/vision/v%20a/v1/stream/"),
        (True, {"X-Forwarded-Host": "cams.example"}, "ws://cams.example/v1/stream/"),
        (True, {"X-Forwarded-Prefix": "/a"}, "ws://box.local/a/v1/stream/"),
        (True, {"X-Forwarded-Prefix": "/"}, "ws://box.local/v1/stream/"),
        (False, PUBLIC, "ws://box.local/v1/stream/"),
    ],
)
async def test_ws_url_has_the_proxys_host_and_prefix(data_dir, trusted, headers, url):
    """The address is the one that the client asked the first proxy at, where that is trusted."""
    async with (
        testing.serving(data_dir, engine="thread", trust_proxy=trusted) as served,
        aiohttp.ClientSession(served.url, headers={**served.headers, "Host": "box.local"}) as http,
        http.post(PATH, json={"model": "fake-detect"}, headers=headers) as response,
    ):
        made = await response.json()
        assert made["ws_url"] == url + made["session_id"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-Host", "evil/path"),
        ("X-Forwarded-Host", "user@host"),
        ("X-Forwarded-Prefix", "no-slash"),
        ("X-Forwarded-Prefix", "/a?b"),
        ("X-Forwarded-Prefix", "//a"),
    ],
)
async def test_a_proxy_that_tells_no_address(data_dir, name, value):
    """What names no host and no path is 400, and no session is made."""
    async with (
        testing.serving(data_dir, engine="thread", trust_proxy=True) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        made = await refused(http, 400, PATH, json={"model": "fake-detect"}, headers={name: value})
        assert "is not a" in made
        async with http.get(PATH) as response:
            assert await response.json() == []


@pytest.mark.parametrize("host", ["box.local", "box.local:8110", "[::1]:8110", "10.0.0.1"])
async def test_ws_url_names_the_host_that_was_asked(server, host):
    """The URL's host is the one that the client used."""
    status, body = await create_by_hand(server, host.encode())
    assert status == 201
    assert json.loads(body)["ws_url"].startswith(f"ws://{host}/v1/stream/sess_")


@pytest.mark.parametrize(
    "host", [b"\xff\xfe", b"a b", b"evil/path", b"user@host", b'a"b', b"x" * 300]
)
async def test_a_host_that_is_none(server, http, host):
    """A Host header that names no host is 400, and no session is made."""
    status, body = await create_by_hand(server, host)
    assert (status, detail_of(body)) == (400, "The Host header is not a host name")
    async with http.get(PATH) as response:
        assert await response.json() == []
    head = b"GET /health HTTP/1.1\r\nHost: %b\r\n\r\n" % host
    status, _, body = await exchange(server, head)
    assert (status, detail_of(body)) == (400, "The Host header is not a host name")


async def create_by_hand(server, host: bytes):
    """Create a session with a Host header of raw bytes; return status and body."""
    content = b'{"model":"fake-detect"}'
    headers = ("Content-Type: application/json", f"Content-Length: {len(content)}")
    head = head_of(server, PATH, *headers).replace(b"Host: localhost", b"Host: " + host)
    status, _, body = await exchange(server, head + content)
    return status, body


async def test_list_and_one(http):
    """GET lists the sessions, oldest first, and shows one; types as documented."""
    ids = [(await create(http))["session_id"] for _ in range(3)]
    async with http.get(PATH) as response:
        listed = await response.json()
    assert [each["session_id"] for each in listed] == ids
    for each in listed:
        assert {name: type(value) for name, value in each.items()} == FIELDS
    async with http.get(f"{PATH}/{ids[1]}") as response:
        assert await response.json() == listed[1]


async def test_the_model_is_loaded_and_held(data_dir):
    """A session's model is loaded at once and not unloaded while the session lives."""
    async with (
        testing.serving(data_dir, engine="thread", keep_alive=0) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):

        async def state():
            async with http.get("/v1/models/fake-detect") as response:
                return (await response.json())["state"]

        made = await create(http)
        assert await state() == "ready"
        async with http.delete(f"{PATH}/{made['session_id']}") as response:
            assert response.status == 204

        async def gone():
            return await state() == "unloaded"

        await until(gone)


async def test_delete(http):
    """DELETE is 204 with an empty body; a second one, and GET, are the documented 404."""
    name = (await create(http))["session_id"]
    path = f"{PATH}/{name}"
    async with http.delete(path) as response:
        assert response.status == 204
        assert await response.read() == b""
    for method in ("DELETE", "GET"):
        async with http.request(method, path) as response:
            assert await problem(response, 404) == f"Session not found: {name}"


@pytest.mark.parametrize("name", ["sess_3f8a1b2c9d4e", "x", "%ff", "x" * 500, "..%2f..", "a%00"])
async def test_unknown_sessions(server, name):
    """Whatever is no live session is 404."""
    status, _, body = await exchange(server, head_of(server, f"{PATH}/{name}", method="DELETE"))
    assert status == 404
    assert "ot found" in json.loads(body)["detail"]


async def test_the_limit(data_dir):
    """One session too many is 503 with the documented text; a deleted one makes room."""
    async with (
        testing.serving(data_dir, engine="thread", max_sessions=2) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        made = [await create(http) for _ in range(2)]
        detail = await refused(http, 503, PATH, json={"model": "fake-detect"})
        assert detail == "Maximum concurrent sessions reached (limit: 2)"
        await http.delete(f"{PATH}/{made[0]['session_id']}")
        await create(http)


async def test_the_limit_is_ten_by_default(http):
    """Ten sessions may live at once, also when they are asked for at the same time."""

    async def ask():
        async with http.post(PATH, json={"model": "fake-detect"}) as response:
            return response.status

    answers = await asyncio.gather(*(ask() for _ in range(12)))
    assert sorted(answers) == [201] * 10 + [503] * 2


async def test_expiry(data_dir):
    """A session without a connection ends after its time to live."""
    async with (
        testing.serving(data_dir, engine="thread", session_ttl=0.1) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        path = f"{PATH}/{(await create(http))['session_id']}"

        async def gone():
            async with http.get(path) as response:
                return response.status == 404

        await until(gone)


@pytest.mark.parametrize("task", ["detect", None])
async def test_task_may_repeat_the_models_own(http, task):
    """The override may name the model's own task, or be null."""
    made = await create(http, task=task)
    async with http.get(f"{PATH}/{made['session_id']}") as response:
        assert (await response.json())["task"] == "detect"


async def test_a_detector_may_be_tracked(cached_detector, http):
    """Detect may be overridden by track, where a tracker serves the model."""
    made = await create(http, model=cached_detector, task="track")
    async with http.get(f"{PATH}/{made['session_id']}") as response:
        assert (await response.json())["task"] == "track"


async def test_a_cached_model_has_a_size(cached_detector, http):
    """A hub model is listed with source hf and its size in MB of 1e6 bytes."""
    async with http.get(f"/v1/models/{cached_detector}") as response:
        info = await response.json()
    assert (info["source"], info["size_mb"]) == ("hf", 2.0)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "model: field is required"),
        ({"model": 1}, 422, "model"),
        ({"model": ""}, 422, "model"),
        ([], 422, "object"),
        ({"model": "none"}, 404, "Model not found: none"),
        ({"model": "fake-detect", "task": 1}, 422, "task"),
        ({"model": "fake-detect", "task": "segment"}, 422, "serves detect, not 'segment'"),
        ({"model": "fake-detect", "task": "nonsense"}, 422, "serves detect, not 'nonsense'"),
        ({"model": "fake-detect", "task": "track"}, 422, "serves detect, not 'track'"),
        ({"model": "fake-track", "task": "detect"}, 422, "serves track, not 'detect'"),
        ({"model": "fake-detect", "params": []}, 422, "params"),
        ({"model": "fake-detect", "params": {"confidence": 2}}, 422, "params.confidence"),
        ({"model": "fake-detect", "params": {"foo": 2}}, 422, "params.foo: unknown parameter"),
        ({"model": "fake-detect", "params": {"max_tokens": 5000}}, 422, "at most 4096"),
    ],
)
async def test_sessions_that_are_refused(http, body, status, said):
    """Parameters are checked when the session is made, and no session is left."""
    assert said in await refused(http, status, PATH, json=body)
    async with http.get(PATH) as response:
        assert await response.json() == []


async def test_a_plain_get_of_the_stream(http):
    """The stream's URL without an upgrade is 400."""
    made = await create(http)
    async with http.get(f"/v1/stream/{made['session_id']}") as response:
        assert response.status == 400
        await problem(response, 400)

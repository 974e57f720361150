"""What a service may do with what it is given: describe, refuse, stream, claim, wait."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import pytest

from api_answers import exchange, head_of
from lab_service import LAB, TOKEN, http_fixture, read, server_fixture  # noqa: F401 - fixtures
from mataserver.testing import serving
from service_plugins import plugin  # noqa: F401 - a fixture
from stream_peers import RawPeer

pytestmark = pytest.mark.undocumented("the service answers what its routes do not declare")


async def test_a_described_route_is_documented(http):
    """It stands in the OpenAPI document with its body, its answers and the scope that it needs."""
    _, document = await read(http, "/openapi.json")
    operation = document["paths"]["/lab/orders"]["post"]
    assert (operation["summary"], operation["tags"]) == ("Order something", ["lab"])
    assert operation["security"] == [{"key": ["infer"]}]
    assert {"201", "400", "401", "403", "410", "422", "429"} <= set(operation["responses"])
    assert "Retry-After" in operation["responses"]["429"]["headers"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Order"}
    assert "/lab/plain" not in document["paths"]


async def test_answers_and_refusals(http):
    """A body is decoded strictly, and every error below the prefix has the service's own form."""
    assert await read(http, "/lab/orders", "POST", json={"what": "rope"}) == (201, {"what": "rope"})
    refusals = [
        await read(http, "/lab/orders", "POST", json={"what": "tea"}),
        await read(http, "/lab/orders", "POST", json={"what": 1}),
        await read(http, "/lab/nothing"),
        await read(http, "/lab/me", "DELETE"),
        await read(http, "/lab/me", headers={"Authorization": ""}),
    ]
    assert [status for status, _ in refusals] == [400, 422, 404, 405, 401]
    for status, body in refusals:
        assert set(body) == {"wrong", "code"}
        assert body["code"] == status


async def test_who_asks(http, server):
    """The service's own token counts on every route that its scopes allow, and nowhere else."""
    assert await read(http, "/lab/me") == (200, {"name": "the lab"})
    assert (await read(http, "/v1/sessions"))[0] == 200
    assert (await read(http, "/v1/models"))[0] == 403
    assert (await read(http, "/lab/plain"))[0] == 403
    assert (await read(http, "/lab/plain", headers=server.headers))[0] == 200
    wrong = {"Authorization": "Bearer lab-other"}
    assert await read(http, "/lab/me", headers=wrong) == (
        400, {"wrong": "no token of the lab", "code": 400},
    )  # fmt: skip
    assert await read(http, "/lab/open", headers=wrong) == (200, {"name": None})
    stranger = {"Authorization": "Bearer x"}
    assert (await read(http, "/lab/me", headers=stranger))[0] == 403
    assert (await read(http, "/lab/mine", headers=stranger))[0] == 401


async def test_a_route_for_the_requests_that_it_knows(http, server):
    """A service may answer some requests of a route that exists; the others stay what they were."""
    assert await read(http, "/v1/models?lab=1") == (200, {"models": "the lab's"})
    assert isinstance((await read(http, "/v1/models", headers=server.headers))[1], list)


async def test_a_claimed_host(server):
    """A request to a host that a service claims is its own, whatever the path, without our key."""
    head = b"GET /v1/models HTTP/1.1\r\nHost: lab.example\r\nConnection: close\r\n\r\n"
    status, _, body = await exchange(server, head)
    assert (status, json.loads(body)) == (200, {"claimed": "/v1/models"})


async def test_a_claimed_request_may_wait_to_be_asked_for_its_body(http, server):
    """``Expect`` on a claimed request is held neither against our key nor against a route's limit.

    It is counted as claimed, not as the route that its path happens to be.
    """
    head = b"POST /v1/infer HTTP/1.1\r\nHost: lab.example\r\nContent-Length: 99000000\r\n"
    head += b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
    status, _, _ = await exchange(server, head)
    assert status == 100
    async with http.get("/metrics") as response:
        assert 'route="claimed"' in await response.text()


@pytest.mark.parametrize("how", ["length", "chunked", "expect"])
async def test_the_limit_of_a_route(http, server, how):
    """More than a route's ``max_body`` is 413, announced or not; what fits is saved to the byte."""
    data = b"x" * 2_500_000
    assert (await read(http, "/lab/files", "POST", data=io.BytesIO(data)))[1]["written"] == len(
        data
    )
    over = 3_000_001
    if how == "length":
        status, body = await read(http, "/lab/files", "POST", data=io.BytesIO(b"x" * over))
    elif how == "chunked":

        async def pieces():
            for _ in range(4):
                yield b"x" * 1_000_000

        status, body = await read(http, "/lab/files", "POST", data=pieces())
    else:
        head = head_of(server, "/lab/files", f"Content-Length: {over}", "Expect: 100-continue")
        status, _, raw = await exchange(server, head)
        body = json.loads(raw)
    assert status == 413
    assert "3000000 bytes" in body["wrong"]


async def test_a_route_may_take_more_than_the_server(plugin, data_dir):  # noqa: F811
    """A route's limit stands in place of the server's: 40 MB are saved where 32 are the rule."""
    source = LAB.replace("max_body=3_000_000", "max_body=50_000_000")
    async with (
        serving(data_dir, entry_points=[plugin(source)]) as served,
        aiohttp.ClientSession(served.url, headers=TOKEN) as http,
    ):
        data = b"y" * 40_000_000
        form = aiohttp.FormData({"note": "large"}, quote_fields=False)
        form.add_field("file", io.BytesIO(data), filename="größe.bin")
        status, body = await read(http, "/lab/files", "POST", data=form)
        assert (status, body["size"], body["written"]) == (200, len(data), len(data))
        assert (body["name"], body["fields"]) == ("größe.bin", {"note": "large"})


async def test_events(http):
    """Events are names and values; a failure before the first is an ordinary error."""
    async with http.get("/lab/events") as response:
        assert response.content_type == "text/event-stream"
        assert await response.text() == (
            'event: step\ndata: {"n":1}\n\nid: second\nevent: result\ndata: {"n":2}\n\n'
        )
    async with http.get("/lab/events?late=1") as response:
        assert (await response.text()).endswith('event: error\ndata: {"detail":"nothing more"}\n\n')
    assert (await read(http, "/lab/events?fail=1"))[0] == 404


async def test_sockets(http):
    """A WebSocket of messages, a relay with its protocol, and what is none."""
    async with http.ws_connect("/lab/socket") as socket:
        for name in ("X-Request-Id", "Server-Timing"):
            assert name in socket._response.headers
        await socket.send_str("quiet")
        assert await socket.receive_str() == "QUIET"
    async with http.ws_connect("/lab/relay", protocols=("lab",)) as socket:
        assert socket.protocol == "lab"
        await socket.send_bytes(b"frame")
        assert await socket.receive_bytes() == b"frame"
    assert (await read(http, "/lab/socket"))[0] == 400


async def test_sockets_are_watched(http):
    """A frame without a mask closes both kinds with 1002; the key may stand in their URL."""
    place = str(http._base_url).rstrip("/")  # what aiohttp keeps of the server's URL
    for path in ("/lab/socket", "/lab/relay"):
        async with RawPeer.connected(f"{place}{path}?token=test-key") as peer:
            await peer.send(bytes([0x81, 5]) + b"hello")
            assert await peer.close_code() == 1002


async def test_sockets_end_with_the_server(plugin, data_dir):  # noqa: F811
    """At a shutdown both kinds are closed with 1001."""
    async with aiohttp.ClientSession(headers=TOKEN) as http:
        async with serving(data_dir, entry_points=[plugin(LAB)]) as served:
            first = await http.ws_connect(f"{served.url}/lab/socket")
            second = await http.ws_connect(f"{served.url}/lab/relay")
            reading = [asyncio.create_task(each.receive()) for each in (first, second)]
        for task in reading:
            await task
        assert (first.close_code, second.close_code) == (1001, 1001)


async def test_outbound(plugin, data_dir):  # noqa: F811
    """Addresses of the server's own network are refused unless ``outbound_hosts`` names them."""
    for hosts, status in (([], 400), (["127.0.0.0/8"], 200)):
        async with (
            serving(data_dir, entry_points=[plugin(LAB)], outbound_hosts=hosts) as served,
            aiohttp.ClientSession(served.url, headers=TOKEN) as http,
        ):
            found = await read(http, "/lab/out", params={"url": f"{served.url}/v1/health"})
            assert found[0] == status, found


async def test_readiness(http, data_dir):
    """What a service waits for makes ``/ready`` 503; else its own facts, and tasks that failed."""
    assert await read(http, "/ready") == (200, {"status": "ready", "device": "a lamp"})
    (data_dir / "cold").touch()
    status, body = await read(http, "/ready")
    assert (status, body["waiting"]) == (503, {"lab": "warming up"})
    (data_dir / "cold").unlink()
    await read(http, "/lab/work")
    assert (await read(http, "/ready"))[1]["failed_tasks"] == {"lab: count": "RuntimeError"}


async def test_pages(http, server):
    """The navigation shows the pages that who asks may see."""
    page = {
        "title": "The lab",
        "path": "/lab/plain",
        "icon": "*",
        "plugin": "lab",
        "group": "work",
    }
    assert await read(http, "/v1/pages") == (200, [page])
    assert len((await read(http, "/v1/pages", headers=server.headers))[1]) == 2

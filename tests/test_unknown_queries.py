"""Parameters of the query that a route does not know, or has twice; bodies that it does not take.

Lists refuse unknown parameters; elsewhere they are ignored, and the answer says so.
"""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from api_answers import problem
from conftest import picture
from mataserver import Credentials, Route, testing
from mataserver.http import request_warnings
from service_plugins import plugin  # noqa: F401 - a fixture

LISTS = ("models", "sessions", "plugins", "pages", "settings", "session")


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_refuses_them(http, name):
    """It would be answered with all that the parameter was to leave out."""
    path = f"/v1/{name}"
    async with http.get(path) as response:
        assert response.status == 200
    async with http.get(path, params={"taks": "detect"}) as response:
        assert (await problem(response, 422)).startswith("taks: unknown parameter")


@pytest.mark.parametrize("query", ["include=params&include=params", "include=params&include=x"])
async def test_a_parameter_is_given_once(http, query):
    """Of two, one would be ignored: which of them, a proxy before the server may see otherwise."""
    async with http.get(f"/v1/models/fake-detect?{query}") as response:
        assert await problem(response, 422) == "include: given twice"


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/ready", "/metrics", "/openapi.json"])
async def test_an_open_route_ignores_them(http, path):
    """Monitors and browsers add what keeps caches away."""
    async with http.get(path, params={"_": "17"}) as response:
        assert response.status == 200


async def warned(http, method, path, **sent):
    """Return the status of an answer, and its warning."""
    async with http.request(method, path, **sent) as response:
        return response.status, response.headers.get("X-Warning")


async def test_a_single_thing_names_them(http):
    """What was meant is said: a misspelt parameter, and a field of the body."""
    async with http.post("/v1/sessions", json={"model": "fake-detect"}) as response:
        session = f"/v1/sessions/{(await response.json())['session_id']}"
    assert await warned(http, "GET", session) == (200, None)
    said = "since: unknown parameter, ignored. a\\r\\n\\xfc: unknown parameter, ignored"
    assert await warned(http, "GET", f"{session}?since=1&a%0d%0a%c3%bc=2") == (200, said)
    assert (await warned(http, "GET", f"{session}x?since=1"))[1] is None
    said = "model: ignored in the query; write it into the body"
    asked = {"model": "fake-detect"}
    assert await warned(http, "POST", "/v1/models/warmup?model=other", json=asked) == (200, said)
    both = f"{said}. modle: unknown field, ignored"
    asked["modle"] = "x"
    assert await warned(http, "POST", "/v1/models/warmup?model=other", json=asked) == (200, both)


async def test_a_body_where_none_is_taken(http):
    """It is named, unless it says nothing."""
    said = "the body: ignored, this route takes none"
    linked = "/v1/session/link"
    assert await warned(http, "POST", linked) == (200, None)
    assert await warned(http, "POST", linked, json={}) == (200, None)
    assert await warned(http, "POST", linked, json={"minutes": 1}) == (200, said)

    async def pieces():
        yield b'{"minutes":'
        yield b"1}"

    assert await warned(http, "POST", linked, data=pieces()) == (200, said)
    both = f"a: unknown parameter, ignored. {said}"
    assert await warned(http, "POST", f"{linked}?a=1", json={"minutes": 1}) == (200, both)


READS = """
class Service(Base):
    def routes(self):
        async def sent(request):
            async with self.ctx.http.read_body(request) as data:
                return web.Response(text=data.decode())
        async def asked(request):
            return web.Response(text=await request.text())
        async def unread(request):
            return web.Response(text="unread")
        return [Route("POST", f"/{each.__name__}", each, "Mine", response=(Body("text/plain"),))
                for each in (sent, asked, unread)]
"""


async def test_a_body_that_is_read_though_no_route_says_so(plugin, data_dir):  # noqa: F811
    """A plugin's route that does not describe what it reads does not say that it is ignored."""
    async with (
        testing.serving(data_dir, entry_points=[plugin(READS, "reads")]) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        for body in (b"x" * 100, b"x" * 1_000_000):
            assert await warned(http, "POST", "/sent", data=body) == (200, None)
            assert await warned(http, "POST", "/asked", data=body) == (200, None)
        said = "the body: ignored, this route takes none"
        assert await warned(http, "POST", "/unread", data=b"x" * 100) == (200, said)


STREAMS = """
class Service(Base):
    def routes(self):
        async def streamed(request):
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            await response.write_eof(b"streamed")
            return response
        return [Route("POST", "/streamed", streamed, "Mine", response=(Body("text/plain"),))]
"""


async def test_an_answer_that_its_handler_sends(plugin, data_dir, caplog):  # noqa: F811
    """It names parameters too; a body, which may be read later, neither it nor the log names."""
    async with (
        testing.serving(data_dir, entry_points=[plugin(STREAMS, "streams")]) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        said = "a: unknown parameter, ignored"
        assert await warned(http, "POST", "/streamed", data=b"x" * 100) == (200, None)
        assert await warned(http, "POST", "/streamed?a=1", data=b"x" * 100) == (200, said)
    assert said in caplog.text
    assert "the body: ignored" not in caplog.text


async def handler(_request):
    """Never asked here."""


def warning_of(query, **described):
    """Return the warning about a request with this query and no body."""
    request = make_mocked_request("GET", f"/v1/mine?{query}")
    request_warnings.warn_of_ignored(request, Route("GET", "/v1/mine", handler, **described))
    return request.get(request_warnings.WARNING)


def test_a_route_that_describes_nothing_warns_of_nothing():
    """A plugin's handler may read what its route does not describe."""
    assert warning_of("size=1") is None
    assert warning_of("size=1", summary="Mine") is None
    described = {"summary": "Mine", "status": 204}
    assert warning_of("size=1", **described) == "size: unknown parameter, ignored"


def test_of_many_parameters_a_few_are_compared(monkeypatch):
    """The others are counted: each comparison takes long, and a query may hold a thousand."""
    compared = []

    def similar(name, _known):
        compared.append(name)
        return ""

    monkeypatch.setattr(request_warnings, "similar", similar)
    query = "&".join(f"a{number}=1" for number in range(1000))
    said = warning_of(query, summary="Mine", parameters={"limit": (int, False, "How many.")})
    assert said.endswith("a3: unknown parameter, ignored. 996 more")
    assert compared == ["a0", "a1", "a2", "a3"]


def test_credentials_say_whether_there_are_any():
    """A service that authenticates may ask them."""
    assert Credentials("bearer", "secret").given
    assert not Credentials().given


async def test_the_parameters_of_a_model_are_known(http):
    """Of an image's query the model's own take effect, so nothing is said to be ignored."""
    query = "model=fake-detect&seconds=0.01"
    sent = {"data": picture(), "headers": {"Content-Type": "image/png"}}
    assert await warned(http, "POST", f"/v1/infer?{query}", **sent) == (200, None)
    async with http.post(f"/v1/infer?{query}&secods=1", **sent) as response:
        assert response.status == 422

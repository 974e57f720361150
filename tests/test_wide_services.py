"""What a service may do with what it is given: describe, refuse, stream, claim, wait."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import shutil
import weakref

import aiohttp
import pytest

from api_answers import answer, connection, exchange, head_of, problem, until
from mataserver.errors import MataError
from mataserver.http import uploads
from mataserver.testing import serving
from service_plugins import plugin  # noqa: F401 - a fixture
from stream_peers import RawPeer

LAB = """
import asyncio
from pathlib import Path
from mataserver import ANYBODY, PRINCIPAL, Body, NotFound, Page, Policy, Principal, Route

class Order(Struct):
    what: str

class Service(Base):
    def routes(self):
        json = "application/json"
        return [
            Route("POST", "/lab/orders", self.order, "Order something", "lab", needs="infer",
                  request=(Body(json, Order),), response=(Body(json, Order),), status=201,
                  errors=(400, 410, 422, 429)),
            Route("GET", "/lab/me", self.me, "Who asks", "lab", needs=ANYBODY),
            Route("GET", "/lab/open", self.me, "Anybody", "lab", public=True),
            Route("GET", "/lab/mine", self.me, denied=401),
            Route("POST", "/lab/files", self.save, needs="infer", max_body=3_000_000),
            Route("POST", "/lab/many", self.many, needs="infer", max_body=3_000_000),
            Route("POST", "/lab/slow", self.save, needs="infer", body_timeout="idle"),
            Route("GET", "/lab/events", self.events, needs="infer"),
            Route("GET", "/lab/socket", self.socket, needs="infer", socket=True),
            Route("GET", "/lab/relay", self.relay, needs="infer", socket=True),
            Route("GET", "/lab/out", self.out, needs="infer"),
            Route("GET", "/lab/work", self.work, needs="infer"),
            Route("GET", "/v1/models", self.models, when=lambda r: "lab" in r.query, public=True),
            web.get("/lab/plain", self.me),
        ]

    async def order(self, request):
        async with self.ctx.http.read_json(request, Order) as order:
            if order.what == "tea":
                raise BadRequest("there is no tea")
            return self.ctx.http.respond(order, status=201, request=request)

    async def me(self, request):
        principal = request[PRINCIPAL]
        return web.json_response({"name": principal and principal.name})

    async def models(self, request):
        return web.json_response({"models": "the lab's"})

    async def save(self, request):
        path = self.ctx.data_dir / "upload"
        saved = await self.ctx.http.save_body(request, path)
        fields = dict(saved.fields)
        return web.json_response({"size": saved.size, "name": saved.name, "fields": fields,
                                  "written": path.stat().st_size})

    async def many(self, request):
        folder = self.ctx.data_dir / "many"
        folder.mkdir()
        most = int(request.query.get("most", 4))
        saved = await self.ctx.http.save_files(request, folder, most=most)
        files = [[f.field, f.name, f.size, f.path.read_text()] for f in saved.files]
        return web.json_response({"files": files, "fields": dict(saved.fields)})

    async def events(self, request):
        async def found():
            if "fail" in request.query:
                raise NotFound("nothing to tell")
            yield "step", {"n": 1}
            if "late" in request.query:
                raise NotFound("nothing more")
            yield "result", {"n": 2}, "second"
        return await self.ctx.http.events(request, found())

    async def socket(self, request):
        async with self.ctx.http.socket(request) as socket:
            async for message in socket:
                await socket.send(message.upper())

    async def relay(self, request):
        async with self.ctx.http.raw_socket(request, protocols=("lab",)) as socket:
            async for message in socket:
                await socket.send_bytes(message.data)

    async def out(self, request):
        async with self.ctx.http.outbound("GET", request.query["url"], Policy("url")) as answer:
            return web.json_response({"status": answer.status, "size": len(await answer.read())})

    async def work(self, request):
        async def fail():
            raise RuntimeError("secret detail")
        self.ctx.tasks.spawn(fail(), "count")
        return web.json_response({})

    def error_forms(self):
        return {"/lab": lambda status, detail: {"wrong": detail, "code": status}}

    def claims(self, request):
        return self.claimed if request.host == "lab.example" else None

    async def claimed(self, request):
        return web.json_response({"claimed": request.path})

    def waiting(self):
        return {"lab": "warming up"} if (self.ctx.data_dir / "cold").exists() else {}

    def ready(self):
        return {"device": "a lamp"}

    def pages(self):
        return [Page("The lab", "/lab/", "*"), Page("Secrets", "/lab/secrets", needs="admin")]

    async def authenticate(self, credentials):
        if credentials.secret.startswith("lab-"):
            if credentials.secret != "lab-token":
                raise BadRequest("no token of the lab")
            return Principal("lab:1", "the lab", "lab", frozenset({"infer"}))
        return None
"""
TOKEN = {"Authorization": "Bearer lab-token"}


@pytest.fixture
async def server(plugin, data_dir):  # noqa: F811 - pytest's way
    """A server with the lab."""
    async with serving(data_dir, entry_points=[plugin(LAB)], engine="thread") as served:
        yield served


@pytest.fixture
async def http(server):
    """A session with the token that the lab knows."""
    async with aiohttp.ClientSession(server.url, headers=TOKEN) as session:
        yield session


async def read(http, path, method="GET", **more):
    """Return status and decoded answer."""
    async with http.request(method, path, **more) as response:
        return response.status, json.loads(await response.read() or b"null")


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


async def test_many_files(http, data_dir):
    """Every file of a form is written, under a name of ours; the fields are told, bounds hold."""

    def form(*files, **fields):
        made = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
        for name, value in fields.items():
            made.add_field(name, value)
        for name in files:
            made.add_field("files[]", io.BytesIO(name.encode()), filename=name)
        return made

    async def ask(**request):
        shutil.rmtree(data_dir / "many", ignore_errors=True)
        return await read(http, "/lab/many", "POST", **request)

    status, body = await ask(data=form("1/a.bin", "../b", name="m"))
    assert status == 200
    assert body["files"] == [["files[]", "1/a.bin", 7, "1/a.bin"], ["files[]", "../b", 4, "../b"]]
    assert body["fields"] == {"name": "m"}
    assert sorted(path.name for path in (data_dir / "many").iterdir()) == ["0", "1"]
    assert (await ask(data=form("a", "b", "c", "d", "e")))[0] == 400
    assert (await ask(data=form(name="x" * 70_000)))[0] == 422
    assert (await ask(json={}))[0] == 415
    cut = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await ask(data=b"--x\r\nContent-Disp", headers=cut))[0] == 400


async def test_many_texts_beside_files(http, data_dir):
    """Texts are kept in memory and count for nobody: a form of many files has few of them too."""
    for count, expected in ((64, 200), (65, 422)):
        shutil.rmtree(data_dir / "many", ignore_errors=True)
        form = aiohttp.FormData({f"f{n}": "x" for n in range(count)}, default_to_multipart=True)
        for name in "abc":
            form.add_field("files[]", io.BytesIO(b"y"), filename=name)
        status, body = await read(http, "/lab/many?most=1000", "POST", data=form)
        assert status == expected, body
    assert "at most 64 fields" in body["wrong"]


async def test_uploads_of_other_origins(http, data_dir):
    """A page of another origin cannot have a browser upload anything: it is not asked first."""
    elsewhere = {"Origin": "https://elsewhere.example"}
    status, body = await read(http, "/lab/files", "POST", data=b"x", headers=elsewhere)
    assert status == 403, body
    assert not (data_dir / "upload").exists()


async def test_uploads_that_fail_leave_nothing(http, server, data_dir):
    """A client that leaves, a form without the file, and a broken one leave no file behind."""
    async with connection(server) as (_, writer):
        head = head_of(server, "/lab/files", "Content-Length: 1000000")
        writer.write(head.replace(b"test-key", b"lab-token") + b"x" * 100_000)
        await writer.drain()
        await until(lambda: list(data_dir.glob(".*.part")))
    await until(lambda: not list(data_dir.glob(".*.part")))
    form = aiohttp.FormData({"note": "none"})
    form.add_field("other", b"x", filename="a")
    assert (await read(http, "/lab/files", "POST", data=form))[0] == 422
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await read(http, "/lab/files", "POST", data=b"--y", headers=broken))[0] == 400
    assert not (data_dir / "upload").exists()


async def test_an_upload_that_goes_on_arriving(plugin, data_dir):  # noqa: F811
    """With "idle" the time counts from the last byte, not from the first."""
    async with (
        serving(data_dir, entry_points=[plugin(LAB)], body_timeout=0.4) as served,
        aiohttp.ClientSession(served.url, headers=TOKEN) as http,
    ):

        async def slowly():
            for _ in range(6):
                await asyncio.sleep(0.15)
                yield b"x" * 1000

        async def stalling():
            yield b"x"
            await asyncio.sleep(5)
            yield b"x"

        assert (await read(http, "/lab/slow", "POST", data=slowly()))[1]["size"] == 6000
        assert (await read(http, "/lab/files", "POST", data=slowly()))[0] == 408
        assert (await read(http, "/lab/slow", "POST", data=stalling()))[0] == 408


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
        "path": "/lab/",
        "icon": "*",
        "plugin": "lab",
        "group": "work",
    }
    assert await read(http, "/v1/pages") == (200, [page])
    assert len((await read(http, "/v1/pages", headers=server.headers))[1]) == 2


ORDERED = """
class Service(Base):
    requires = {requires}

    async def __aenter__(self):
        self.note("{name}+")
        return self

    async def __aexit__(self, *exc):
        self.note("{name}-")

    def routes(self):
        async def peer(request):
            found = self.ctx.peer("b", optional=True)
            told = {{"peer": type(found).__name__, "peers": sorted(self.ctx.peers()),
                     "address": await self.ctx.address()}}
            return web.json_response(told)
        return [web.get("/{name}", peer)]
"""


async def test_services_stand_on_others(plugin, data_dir):  # noqa: F811
    """What a service requires is entered before it and left after it; it finds the others."""
    points = [
        plugin(ORDERED.format(name="a", requires=("b", "c")), "a"),
        plugin(ORDERED.format(name="b", requires=("c",)), "b"),
        plugin(ORDERED.format(name="c", requires=()), "c"),
    ]
    async with (
        serving(data_dir, entry_points=points) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        assert await read(http, "/a") == (
            200, {"peer": "Service", "peers": ["a", "b", "c"], "address": served.url},
        )  # fmt: skip
    assert (data_dir / "events").read_text() == "c+ b+ a+ a- b- c- "


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        ({"a": ("absent",)}, "it requires the plugin absent, which is not in use"),
        ({"a": ("b",), "b": ("a",)}, "it requires itself"),
        ({"a": ("b",), "b": ("absent",)}, "it requires the plugin b, which is not in use"),
    ],
)
async def test_services_that_lack_something(plugin, data_dir, requires, reason):  # noqa: F811
    """An absence and a circle are told; whoever does not depend on it goes on."""
    names = {"a": (), "b": (), "c": ()} | requires
    points = [
        plugin(ORDERED.format(name=name, requires=needs), name) for name, needs in names.items()
    ]
    async with (
        serving(data_dir, entry_points=points) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        plugins = {each["name"]: each for each in (await read(http, "/v1/plugins"))[1]}
        assert plugins["a"]["error"]
        assert reason in plugins["a"]["error"] + plugins["b"].get("error", "")
        assert "error" not in plugins["c"]
        assert (await read(http, "/a"))[0] == 404
        assert (await read(http, "/c"))[0] == 200


async def test_plugins_are_switched_off(plugin, data_dir):  # noqa: F811
    """A disabled plugin is listed with the reason, and nothing of it is imported."""
    point = plugin("raise RuntimeError('imported')", "off")
    settings = {"plugins": {"disabled": ["off"], "strict": True}}
    async with (
        serving(data_dir, entry_points=[point], **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        (listed,) = (await read(http, "/v1/plugins"))[1]
        assert listed["error"] == "it is switched off by plugins.disabled"
    with pytest.raises(MataError, match=r"no plugin 'of' is installed; did you mean off\?"):
        async with serving(data_dir, entry_points=[point], plugins={"disabled": ["of"]}):
            pass


async def test_a_folder_of_files(plugin, data_dir, tmp_path):  # noqa: F811
    """A folder of package data is served with tags and a strict policy, and nothing beside it."""
    package = tmp_path / "modules" / "lab_pages"
    (package / "site" / "img").mkdir(parents=True)
    (package / "__init__.py").write_text("SECRET = 1")
    (package / "site" / "index.html").write_text("<p>hello</p>")
    (package / "site" / "long.js").write_text("// one and the same\n" * 100)
    (package / "site" / "img" / "dot.svg").write_text("<svg/>")
    source = """
from mataserver import static
class Service(Base):
    def routes(self):
        made = {"long.js": lambda: b"// made\\n", "new.txt": lambda: b"new"}
        return (
            *static("/site", "lab_pages", "site"), *static("/made", "lab_pages", "site", made=made)
        )
"""
    async with (
        serving(data_dir, entry_points=[plugin(source)]) as served,
        aiohttp.ClientSession(served.url) as http,
    ):
        async with http.get("/site/") as response:
            assert (response.status, await response.text()) == (200, "<p>hello</p>")
            assert response.content_type == "text/html"
            assert "unsafe-inline" not in response.headers["Content-Security-Policy"]
            tag = {"If-None-Match": response.headers["ETag"]}
        async with http.get("/site/", headers=tag) as response:
            assert response.status == 304
        async with http.get("/site/img/dot.svg") as response:
            assert response.content_type == "image/svg+xml"
        for form, size in (("gzip", 200), ("identity", 2000)):
            async with http.get("/site/long.js", headers={"Accept-Encoding": form}) as response:
                assert await response.text() == "// one and the same\n" * 100
                assert int(response.headers["Content-Length"]) <= size
                assert response.headers["ETag"].endswith('-gzip"') == (form == "gzip")
        for name, text in (("long.js", "// made\n"), ("new.txt", "new"), ("", "<p>hello</p>")):
            async with http.get(f"/made/{name}") as response:
                assert await response.text() == text
        for path in (
            "/site/missing",
            "/site/new.txt",
            "/site/..%2f__init__.py",
            "/site/img",
            "/site/%2e%2e/x",
        ):
            async with http.get(path) as response:
                await problem(response, 404)


async def test_a_request_is_answered_while_an_upload_runs(http, server):
    """An upload that takes its time holds up nobody."""
    async with connection(server) as (reader, writer):
        head = head_of(server, "/lab/files", "Content-Length: 20")
        writer.write(head.replace(b"test-key", b"lab-token") + b"x" * 10)
        await writer.drain()
        assert (await read(http, "/lab/me"))[0] == 200
        writer.write(b"x" * 10)
        await writer.drain()
        status, _, _ = await answer(reader)
        assert status == 200


async def test_an_upload_that_is_broken_off_leaves_nothing(server, data_dir, monkeypatch):
    """Its texts go with it, not only once Python collects cycles: large texts do not cause that."""
    kept = weakref.WeakSet()

    class Watched(uploads._Parts):
        def __init__(self, *args):
            super().__init__(*args)
            kept.add(self)

    monkeypatch.setattr(uploads, "_Parts", Watched)
    gc.collect()
    gc.disable()
    try:
        for path in ("/lab/files", "/lab/many"):
            head = head_of(
                server,
                path,
                "Content-Type: multipart/form-data; boundary=x",
                "Content-Length: 90000",
            )
            part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 60_000
            async with connection(server) as (_, writer):
                writer.write(head + part)
                await until(lambda: kept)
            await until(lambda: not kept)
    finally:
        gc.enable()

"""A service that uses all that it is given, and a server with it."""

from __future__ import annotations

import json

import aiohttp
import pytest

from mataserver.testing import serving

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
            Route("GET", "/lab/me", self.me, "Who asks", "lab", needs=ANYBODY,
                  response=(Body(json, dict),)),
            Route("GET", "/lab/open", self.me, "Anybody", "lab", public=True,
                  response=(Body(json, dict),)),
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
        return [Page("The lab", "/lab/plain", "*"), Page("Secrets", "/lab/me", needs="admin")]

    async def authenticate(self, credentials):
        if credentials.secret.startswith("lab-"):
            if credentials.secret != "lab-token":
                raise BadRequest("no token of the lab")
            return Principal("lab:1", "the lab", "lab", frozenset({"infer"}))
        return None
"""


TOKEN = {"Authorization": "Bearer lab-token"}


@pytest.fixture(name="server")
async def server_fixture(plugin, data_dir):
    """A server with the lab."""
    async with serving(data_dir, entry_points=[plugin(LAB)], engine="thread") as served:
        yield served


@pytest.fixture(name="http")
async def http_fixture(server):
    """A session with the token that the lab knows."""
    async with aiohttp.ClientSession(server.url, headers=TOKEN) as session:
        yield session


async def read(http, path, method="GET", **more):
    """Return status and decoded answer."""
    async with http.request(method, path, **more) as response:
        return response.status, json.loads(await response.read() or b"null")

"""Plugins with services, written for one test: their source, and the fixtures that write them."""

from __future__ import annotations

import importlib.metadata
import itertools
import textwrap

import pytest

from conftest import register
from mataserver import plugins as plugin_host

_NUMBERS = itertools.count()

PREAMBLE = """
from aiohttp import web
from msgspec import Struct
from mataserver import Backend, BadRequest, Body, Classification, ClassifyResult, Route, hookimpl

class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    greeting: str = "hello"

class Base:
    def __init__(self, ctx):
        self.ctx = ctx

    def note(self, what):
        with (self.ctx.data_dir / "events").open("a") as file:
            file.write(what + " ")

    def routes(self):
        return []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        pass

@hookimpl
def settings():
    return Settings

@hookimpl
def service(ctx):
    return Service(ctx)
"""
LAB = """
class Service(Base):
    def routes(self):
        return [
            web.get("/v1/lab/{name}", self.greet),
            Route("GET", "/v1/lab", self.socket, socket=True),
        ]

    async def greet(self, request):
        name = request.match_info["name"]
        if name == "nobody":
            raise BadRequest("nobody is no name")
        if name == "broken":
            raise RuntimeError("secret detail at /some/path")
        return web.json_response({"said": f"{self.ctx.settings.greeting} {name}"})

    async def socket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    def ping(self):
        return {"lab": "open"}

class Model:
    def __init__(self):
        self.computed = 0
        self.closed = False

    def predict(self, images, params):
        return [ClassifyResult([Classification("any", 1.0)]) for _ in images]

    def numbers(self, stop):
        try:
            for number in range(stop):
                self.computed += 1
                yield number
            raise BadRequest("there are no more numbers")
        finally:
            self.closed = True

    def seen(self):
        return self.computed, self.closed

    def lock(self):
        import threading
        return threading.Lock()

    def _secret(self):
        return "secret"

def load(spec, ctx):
    return Model()

@hookimpl
def backends():
    return [Backend(name="lab", task="classify", source="pip", load=load)]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a service's module and return its entry point."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def written(source, name="lab"):
        module = f"service_under_test_{next(_NUMBERS)}"
        (folder / f"{module}.py").write_text(PREAMBLE + textwrap.dedent(source))
        return importlib.metadata.EntryPoint(name, module, plugin_host.GROUP)

    return written


@pytest.fixture
def folder(tmp_path):
    """A data directory with the fake models and the lab's."""
    models = {
        f"fake-{task}": task for task in ("detect", "segment", "depth", "track", "ocr", "vlm")
    }
    register(tmp_path / "data", {**models, "lab": "classify"})
    return tmp_path / "data"


async def read(http, path, **options):
    """Return status and decoded answer of a GET."""
    async with http.get(path, **options) as answer:
        return answer.status, await answer.json()

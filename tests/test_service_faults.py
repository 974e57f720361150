"""Services that are wrong: each is out of use with its reason, or stops the start."""

from __future__ import annotations

import aiohttp
import pytest

from mataserver.plugins import PluginError
from mataserver.testing import serving
from service_plugins import LAB, folder, plugin, read

__all__ = ["folder", "plugin"]


REFUSED = {
    "raises": ("def Service(ctx): raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "no service": ("def Service(ctx): return 5", "service() must return an object with routes()"),
    "routes raise": (
        "class Service(Base):\n    def routes(self): return 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
    "no route": (
        "class Service(Base):\n    def routes(self): return ['/v1/lab']",
        "routes() gave a str, not a mataserver.Route",
    ),
    "route of the core": (
        "class Service(Base):\n    def routes(self): return [web.get('/health', print)]",
        "already: GET /health",
    ),
    "the same route twice": (
        "class Service(Base):\n    def routes(self): return [web.get('/v1/lab', print)] * 2",
        "exists already: GET /v1/lab",
    ),
    "the same route with another variable": (
        """
        class Service(Base):
            def routes(self):
                return [web.get('/v1/lab/{a}', print), web.get('/v1/lab/{b}', print)]
        """,
        "exists already: GET /v1/lab/{b}",
    ),
    "a method beside all of them": (
        """
        class Service(Base):
            def routes(self):
                return [web.route('*', '/v1/lab', print), web.get('/v1/lab', print)]
        """,
        "exists already: GET /v1/lab",
    ),
    "a method twice, in small letters": (
        """
        class Service(Base):
            def routes(self):
                return [Route('get', '/v1/lab', print), web.get('/v1/lab', print)]
        """,
        "exists already: GET /v1/lab",
    ),
    "a path that is none": (
        "class Service(Base):\n    def routes(self): return [Route('GET', 'v1/lab', print)]",
        "its route cannot be served: GET v1/lab: path should be started with /",
    ),
    "a variable that is none": (
        "class Service(Base):\n    def routes(self): return [Route('GET', '/v1/{lab', print)]",
        "its route cannot be served: GET /v1/{lab: Invalid path",
    ),
    "a variable twice": (
        "class Service(Base):\n    def routes(self): return [Route('GET', '/{a}/{a}', print)]",
        "its route cannot be served: GET /{a}/{a}: Bad pattern",
    ),
    "a method that is none": (
        "class Service(Base):\n    def routes(self): return [Route('GE T', '/v1/lab', print)]",
        "its route cannot be served: GE T /v1/lab: GE T is not allowed HTTP method",
    ),
    "a handler that is none": (
        "class Service(Base):\n    def routes(self): return [Route('GET', '/v1/lab', 5)]",
        "its route cannot be served: GET /v1/lab: 5",
    ),
    "an answer without a schema": (
        """
        class Service(Base):
            def routes(self):
                own = (Body('application/json', Base),)
                return [Route('GET', '/v1/lab', print, 'A lab', response=own)]
        """,
        "its routes cannot be described: ",
    ),
    "a status that there is not": (
        """
        class Service(Base):
            def routes(self):
                return [Route('GET', '/v1/lab', print, 'A lab', errors=(299,))]
        """,
        "its routes cannot be described: 299 is not a valid HTTPStatus",
    ),
    "forms of errors that are none": (
        "class Service(Base):\n    def error_forms(self): return {'lab': print}",
        "error_forms() must give functions by prefix, not 'lab'",
    ),
    "a form of everybody's errors": (
        "class Service(Base):\n    def error_forms(self): return {'/v1': print}",
        "error_forms(): /v1 holds errors of others, too: name a part",
    ),
    "forms of errors that fail": (
        "class Service(Base):\n    def error_forms(self): return 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
}


@pytest.mark.parametrize(("source", "reason"), REFUSED.values(), ids=REFUSED)
async def test_a_broken_service_is_out_of_use_with_its_reason(plugin, folder, source, reason):
    """Whatever is wrong with one service, the server starts and the next service is in use."""
    points = [plugin(source, name="a-broken"), plugin(LAB, name="lab")]
    async with (
        serving(folder, entry_points=points) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        assert await read(http, "/v1/lab/you") == (200, {"said": "hello you"})
        assert (await read(http, "/health"))[1]["status"] == "ok"
        broken, sound = (await read(http, "/v1/plugins"))[1]
    assert reason in broken["error"]
    assert "error" not in sound


async def test_two_services_with_one_route(plugin, folder):
    """The second plugin is refused, and its backends are out of use with it."""
    source = """
    class Service(Base):
        def routes(self):
            return [web.get("/v1/lab/{other}", print)]

    def load(spec, ctx): ...

    @hookimpl
    def backends():
        return [Backend(name="other", task="detect", source="pip", load=load)]
    """
    points = [plugin(LAB, name="first"), plugin(source, name="second")]
    async with serving(folder, entry_points=points) as server:
        found = server.composed.plugins
        assert found.found[1].error == "its route exists already: GET /v1/lab/{other}"
        assert found.pip_backend("other") is None
        assert found.pip_backend("lab") is not None


async def test_who_is_not_admitted_is_out_of_use(plugin, folder):
    """A service may look at the others before the server listens: one it refuses is told why."""
    judge = """
    from mataserver import Conflict

    class Service(Base):
        def routes(self):
            return []

        def admits(self, name, service):
            if getattr(service, "noisy", False):
                raise Conflict(f"{name} is too noisy")
    """
    noisy = """
    class Service(Base):
        noisy = True

        def routes(self):
            return [web.get("/v1/noise", self.make)]

        async def make(self, request):
            return web.Response()
    """
    points = [plugin(noisy, name="a"), plugin(judge, name="b"), plugin(LAB, name="c")]
    async with serving(folder, entry_points=points) as server:
        found = {each.name: each.error for each in server.composed.plugins.found}
        assert found == {"a": "a is too noisy", "b": None, "c": None}
        async with aiohttp.ClientSession(server.url, headers=server.headers) as http:
            assert (await read(http, "/v1/lab/you"))[0] == 200
            assert (await read(http, "/v1/noise"))[0] == 404


async def test_strict_stops_the_start_at_a_broken_service(plugin, folder):
    """With ``plugins.strict`` a service that cannot be made is an error that names its plugin."""
    point = plugin("def Service(ctx): raise RuntimeError('no luck')")
    with pytest.raises(PluginError, match="plugin lab: RuntimeError: no luck"):
        async with serving(folder, entry_points=[point], plugins={"strict": True}):
            pass

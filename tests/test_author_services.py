"""What a service says in the server's place is its own affair alone: errors, health and events."""

from __future__ import annotations

import pytest

from service_plugins import plugin

__all__ = ["plugin"]


async def read(http, path):
    """Return status and decoded answer of a GET."""
    async with http.get(path) as answer:
        return answer.status, await answer.json()


FORM = """
class Service(Base):
    def error_forms(self):
        return {"/forms": lambda status, detail: {"NAME": detail}}
"""


async def test_two_forms_of_the_same_errors(plugin, mata_server, mata_client):
    """The second plugin is refused; it replaced the form of the first."""
    points = [plugin(FORM.replace("NAME", name), name=name) for name in ("first", "second")]
    server = await mata_server(*points)
    http = await mata_client(server=server)
    assert await read(http, "/forms/nothing") == (404, {"first": "Not found"})
    errors = {each.name: each.error for each in server.composed.plugins.found}
    assert errors["first"] is None
    assert errors["second"] == "error_forms(): another plugin has the form of /forms"


async def test_a_plugin_replaces_nothing_of_the_servers_health(plugin, mata_client):
    """A balancer asks for the status: what a plugin calls so as well is its own affair."""
    source = """
    class Service(Base):
        def ping(self):
            return {"status": "mine", "version": 7, "lab": 1}

        def ready(self):
            return {"status": "no", "lab": 1}
    """
    http = await mata_client(plugin(source))
    status, told = await read(http, "/health")
    assert (status, told["status"], told["lab"]) == (200, "ok", 1)
    assert told["version"] != 7
    assert await read(http, "/ready") == (200, {"status": "ready", "lab": 1})


@pytest.mark.parametrize(("said", "told"), [("ok", "ok"), ("mine", "healthy")])
async def test_the_word_of_a_plugins_protocol(plugin, mata_server, mata_client, said, told):
    """A protocol that has "ok" keeps it whatever is configured; no other status is a plugin's."""
    points = [
        plugin(f"class Service(Base):\n    def ping(self): return {answer}", name=name)
        for name, answer in (("one", {"status": said}), ("two", {"status": "no"}), ("three", {}))
    ]
    http = await mata_client(server=await mata_server(*points, health_status="healthy"))
    assert (await read(http, "/health"))[1]["status"] == told


@pytest.mark.undocumented("the plugin's events are wrong, which is 500")
async def test_events_of_several_lines_and_none(plugin, mata_client):
    """A name with a line break would be another field of the event; no event is no failure."""
    source = """
    class Service(Base):
        def routes(self):
            return [Route("GET", "/events/{name}", self.events, needs="infer")]

        async def events(self, request):
            return await self.ctx.http.events(request, self.told(request.match_info["name"]))

        async def told(self, name):
            if name == "numbered":
                yield name, 1, 7
            elif name != "none":
                yield name, 1
    """
    http = await mata_client(plugin(source))
    found = {}
    for name in ("sound", "numbered", "none", "a%0Ddata:2", "a%0Adata:2"):
        async with http.get(f"/events/{name}") as answer:
            found[name] = (answer.status, await answer.text())
    assert found["sound"] == (200, "event: sound\ndata: 1\n\n")
    assert found["numbered"] == (200, "id: 7\nevent: numbered\ndata: 1\n\n")
    assert found["none"] == (200, "")
    assert {status for name, (status, _) in found.items() if "%" in name} == {500}


@pytest.mark.undocumented("a plugin gives no events, which is 500")
async def test_what_gives_events(plugin, mata_client, caplog):
    """Any async iterable does; of anything else the log says what it is not."""
    source = """
    from mataserver import NotFound

    class Iterator:
        left = 2

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return "left", self.left

    class Iterable:
        async def __aiter__(self):
            try:
                yield "left", 0
                raise NotFound("no more")
            finally:
                log.append("closed")

    log = []
    GIVEN = {"iterator": Iterator, "iterable": Iterable, "list": lambda: [("left", 0)]}

    class Service(Base):
        def routes(self):
            return [
                Route("GET", "/events/{name}", self.events, needs="infer"),
                Route("GET", "/log", self.log, needs="infer"),
            ]

        async def events(self, request):
            return await self.ctx.http.events(request, GIVEN[request.match_info["name"]]())

        async def log(self, request):
            return self.ctx.http.respond(log)
    """
    http = await mata_client(plugin(source))
    found = {}
    for name in ("iterator", "iterable", "list"):
        async with http.get(f"/events/{name}") as answer:
            found[name] = (answer.status, await answer.text())
    assert found["iterator"] == (200, "event: left\ndata: 1\n\nevent: left\ndata: 0\n\n")
    failed = 'event: error\ndata: {"detail":"no more"}\n\n'
    assert found["iterable"] == (200, f"event: left\ndata: 0\n\n{failed}")
    assert await read(http, "/log") == (200, ["closed"])
    assert found["list"][0] == 500
    assert "TypeError: 'list' object is not an async iterable" in caplog.text

"""Services that stand on each other, are switched off, or keep files of their own."""

from __future__ import annotations

import aiohttp
import pytest

from api_answers import problem
from lab_service import read
from mataserver.errors import MataError
from mataserver.testing import serving
from service_plugins import plugin  # noqa: F401 - a fixture

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
            tag = response.headers["ETag"]
        # A proxy that compresses makes a tag weak; a cache may ask about several.
        for asked, status in ((tag, 304), (f"W/{tag}", 304), (f'"other", {tag}', 304), ("x", 200)):
            async with http.get("/site/", headers={"If-None-Match": asked}) as response:
                assert (asked, response.status) == (asked, status)
        async with http.get("/site/img/dot.svg") as response:
            assert response.content_type == "image/svg+xml"
        for form, is_compressed in (
            ("gzip", True),
            ("br;q=1, GZIP;q=0.5", True),
            ("*", True),
            ("identity", False),
            ("gzip;q=0, *", False),
        ):
            async with http.get("/site/long.js", headers={"Accept-Encoding": form}) as response:
                assert await response.text() == "// one and the same\n" * 100
                assert (int(response.headers["Content-Length"]) < 200) == is_compressed
                assert response.headers["ETag"].endswith('-gzip"') == is_compressed
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

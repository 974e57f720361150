"""What an author of a service gets wrong is told at once and by name, and opens nothing."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest

from mataserver import MataError, Page, Route
from mataserver.testing import serving
from service_plugins import plugin  # noqa: F401 - a fixture

NEEDS = """
class Service(Base):
    def routes(self):
        return [Route("GET", "/wrong", print, {given})]
"""
ROUTE = NEEDS.replace("/wrong", "/v1/models")
METHOD = """
class Service(Base):
    {method}
        return None
"""
REFUSED = {
    "scope": (NEEDS.format(given="needs='infr'"), "GET /wrong: needs='infr' is none of infer,"),
    "public": (
        NEEDS.format(given="public=True, needs='infer'"),
        "GET /wrong is public, so it answers everybody: it cannot need 'infer'",
    ),
    "handler": (
        NEEDS.format(given="public=True").replace("print", "lambda: None"),
        "GET /wrong: its handler is called with (request), and takes ()",
    ),
    "when": (
        NEEDS.format(given="when=bool"),
        "its route claims none that exists: GET /wrong",
    ),
    "plain": (METHOD.format(method="def authenticate(self, credentials):"), "must be async def"),
    "told": (METHOD.format(method="def on_result(self, event):"), "on_result() must be async def"),
    "routes": (
        METHOD.format(method="def routes(self):"),
        "routes() must return routes, not a NoneType",
    ),
    "required": (
        "class Service(Base):\n    requires = 'jobs'\n",
        "requires must be a tuple of the names of plugins",
    ),
    "forms": (
        "class Service(Base):\n    error_forms = lambda self: {'/forms': lambda status: {}}\n",
        "error_forms(): the function of /forms is called with (status, detail), and takes (status)",
    ),
    "size": (
        NEEDS.format(given="max_body='10MB'"),
        "GET /wrong: max_body='10MB' is not a number of bytes",
    ),
    "patience": (
        NEEDS.format(given="body_timeout='idel'"),
        "GET /wrong: body_timeout='idel' is none of total, idle",
    ),
    "number": (
        NEEDS.format(given="error_headers={'X-Tries': 3}"),
        "GET /wrong: error_headers: header 'X-Tries' is int, not text",
    ),
    "pairs": (
        NEEDS.format(given="error_headers=[('X-Tries', '3')]"),
        "GET /wrong: error_headers must be texts by the names of headers",
    ),
    "claims": (METHOD.format(method="async def claims(self, request):"), "must be a plain def"),
    "none": ("class Service(Base):\n    waiting = {}\n", "waiting must be a method, not a dict"),
    "whose": (
        NEEDS.format(given="error_form=lambda status: {}"),
        "GET /wrong: error_form is called with (status, detail), and takes (status)",
    ),
    "awaited": (
        ROUTE.format(given="when=when") + "\nasync def when(request):\n    return True\n",
        "GET /v1/models: when must be a plain def, not async def",
    ),
    **{
        f"takes-{name}": (
            METHOD.format(method=f"{kind} {name}(self, {taken}):"),
            f"{name}() is called with ({given}), and takes ({taken})",
        )
        for kind, name, given, taken in (
            ("async def", "authenticate", "credentials", "credentials, path"),
            ("async def", "on_result", "event", ""),
            ("async def", "session_source", "source, fps", "source"),
            ("def", "admits", "name, service", "name"),
            ("def", "claims", "request", ""),
            ("def", "owner_of", "secret", ""),
            ("def", "reconfigure", "settings", ""),
            ("def", "pages", "", "request"),
            ("def", "ping", "", "request"),
            ("def", "ready", "", "request"),
            ("def", "waiting", "", "request"),
        )
    },
}
"""By the plugin's name: its source, and why it is not in use."""

LOOSE = """
from mataserver import Principal

class Service(Base):
    async def __aenter__(self):
        self.folder = self.ctx.data_dir / "loose"
        self.folder.mkdir(parents=True)
        return self

    def routes(self):
        return [
            Route("GET", "/loose/{name}", self.loose, needs="infer"),
            Route("GET", "/plain/{name}", self.plain, needs="infer"),
            Route("GET", "/unsendable/{name}", self.unsendable, needs="infer"),
            Route("POST", "/loose/file", self.keep, needs="infer", max_body=100_000),
        ]

    async def loose(self, request):
        return {"nothing": None, "mapping": {"a": 1}}[request.match_info["name"]]

    async def unsendable(self, request):
        return {
            "number": lambda: web.Response(headers={"X-Frame": 3}),
            "lines": lambda: web.Response(headers={"Content-Disposition": "filename=a\\nb.png"}),
            "status": lambda: web.Response(status=42),
        }[request.match_info["name"]]()

    def plain(self, request):
        return self.loose(request) if request.match_info["name"] == "mapping" else None

    def pages(self):
        return [{"title": "Loose", "path": "/loose/"}]

    def error_forms(self):
        return {
            "/formed": lambda status, detail: {"status": status, "why": detail["why"]},
            "/forgotten": self.forget,
        }

    def forget(self, status, detail):
        {"status": status}

    async def keep(self, request):
        saved = await self.ctx.http.save_body(request, self.folder / "newest")
        return self.ctx.http.respond({"size": saved.size})

    async def authenticate(self, credentials):
        if credentials.secret == "loose":
            return {"id": "loose", "scopes": ["admin"]}
        return None
"""


@pytest.fixture
async def loose(plugin, mata_client):  # noqa: F811
    """A client of a server with the service of ``LOOSE``."""
    return await mata_client(plugin(LOOSE, name="loose"))


async def test_a_service_that_would_answer_otherwise_than_meant_is_not_in_use(
    plugin,  # noqa: F811
    tmp_path,
):
    """Scopes that there are not, and methods that are awaited and are no coroutines."""
    points = [plugin(source, name=name) for name, (source, _) in REFUSED.items()]
    async with (
        serving(tmp_path / "data", entry_points=points) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        async with http.get("/v1/plugins") as answer:
            found = {each["name"]: each["error"] for each in await answer.json()}
        async with http.get("/wrong") as answer:
            assert answer.status == 404
    for name, (_, reason) in REFUSED.items():
        assert reason in found[name]


async def test_an_optional_method_that_is_none_is_absent(plugin, tmp_path):  # noqa: F811
    """So a service leaves out a method of its base class; nothing calls it."""
    names = "authenticate on_result session_source admits claims error_forms owner_of pages ping"
    names += " ready reconfigure waiting"
    source = f"class Service(Base):\n    {' = '.join(names.split())} = None\n"
    points = [plugin(source, name="without"), plugin("class Service(Base): pass", name="other")]
    async with (
        serving(tmp_path / "data", entry_points=points) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        async with http.get("/v1/plugins") as answer:
            assert not any(each.get("error") for each in await answer.json())
        async with http.get("/ready") as answer:
            assert answer.status == 200
        async with http.get("/v1/models", headers={"Authorization": "Bearer wrong"}) as answer:
            assert answer.status == 403
        async with http.post("/v1/sessions", json={"model": "a", "source": "b"}) as answer:
            assert answer.status in {404, 422}
        assert not server.composed.observers
        assert not server.composed.hosting.reconfigurable_sections


@pytest.mark.parametrize("folder", ["loose", "plain"])
@pytest.mark.parametrize(("name", "returned"), [("nothing", "NoneType"), ("mapping", "dict")])
async def test_a_handler_that_returns_no_response(loose, caplog, folder, name, returned):
    """The answer has the form of every error, and the log says what was wrong with which route.

    Also of one that is a plain function, which may return what is to be awaited.
    """
    answer = await loose.get(f"/{folder}/{name}")
    assert (answer.status, await answer.json()) == (500, {"detail": "Internal server error"})
    assert answer.headers["X-Request-Id"]
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.getMessage().startswith(f"GET /{folder}/{name} failed")
    assert f"its handler returned {returned}, not a response" in caplog.text


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("number", "header 'X-Frame' is int, not text"),
        ("lines", "header 'Content-Disposition' has a line break or another control character"),
        ("status", "the status 42"),
    ],
)
async def test_a_response_that_cannot_be_sent(loose, caplog, name, problem):
    """It is an error like any other: the client is answered, and keeps its connection."""
    answer = await loose.get(f"/unsendable/{name}")
    assert (answer.status, await answer.json()) == (500, {"detail": "Internal server error"})
    assert answer.headers["X-Request-Id"]
    assert "Connection" not in answer.headers
    assert problem in caplog.text


async def test_pages_that_are_none(loose, caplog):
    """They cost the others nothing: the list is that of the other plugins, and the log says why."""
    answer = await loose.get("/v1/pages")
    assert (answer.status, await answer.json()) == (200, [])
    assert "it gave a dict, not a mataserver.Page" in caplog.text


async def test_a_page_that_no_route_serves(plugin, mata_client, caplog):  # noqa: F811
    """It would be a link to a 404: it is not listed, which the log says once, at the start."""
    source = """
from mataserver import Page

class Service(Base):
    def routes(self):
        return [Route("GET", "/here/{name}", print), Route("POST", "/there/", print)]

    def pages(self):
        return [Page(path, path) for path in ("/nowhere/", "/there/", "/here/a%20b?c#d")]
"""
    client = await mata_client(plugin(source))
    for _ in range(2):
        listed = await (await client.get("/v1/pages")).json()
        assert [each["path"] for each in listed] == ["/here/a%20b?c#d"]
    told = [each for each in caplog.messages if "is not listed: no route serves it" in each]
    assert [each.split()[2] for each in told] == ["/nowhere/", "/there/"]


@pytest.mark.parametrize("path", ["https://elsewhere.example/", "//elsewhere.example/", "lab/"])
def test_a_page_of_another_host(path):
    """A page is the server's own: it is told where the page is made."""
    with pytest.raises(MataError, match="its path must begin with a single /"):
        Page("The lab", path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/formed/nothing", "Service.error_forms.<locals>.<lambda> failed: 404 is told"),
        ("/forgotten/nothing", "it gave None, not the body of an error"),
    ],
)
async def test_a_form_of_errors_that_fails(loose, caplog, path, said):
    """The error keeps its status, in the server's own form; the log says whose form it is."""
    answer = await loose.get(path)
    assert (answer.status, await answer.json()) == (404, {"detail": "Not found"})
    assert said in caplog.text


@pytest.mark.undocumented("the plugin that authenticates fails")
async def test_who_is_no_principal_is_not_let_in(loose, caplog):
    """The log names the method that gave something else."""
    answer = await loose.get("/v1/models", headers={"Authorization": "Bearer loose"})
    assert answer.status == 500
    assert "Service.authenticate() gave dict, not a Principal" in caplog.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"group": "admin"}, "the page /lab/: group='admin' is none of use, work, operate"),
        ({"needs": "infr"}, "the page /lab/: needs='infr' is none of"),
    ],
)
def test_a_page_that_no_navigation_would_show(given, said):
    """It is told where the page is made."""
    with pytest.raises(MataError, match=said):
        Page("The lab", "/lab/", **given)


def test_a_route_may_need_nothing_but_what_there_is():
    """What the server itself knows is taken: a scope, anybody, and every scope."""
    for needs in ("infer", "any", None):
        assert Route("GET", "/lab", print, needs=needs).needs == needs


async def test_an_upload_that_fails_leaves_the_file_that_was_there(loose, mata_data_dir):
    """The new file takes the old one's place when it is whole; nothing else is left."""
    newest = mata_data_dir / "loose" / "newest"
    assert (await loose.post("/loose/file", data=b"old")).status == 200

    async def too_much():
        for _ in range(3):
            yield bytes(50_000)

    assert (await loose.post("/loose/file", data=too_much())).status == 413
    assert newest.read_bytes() == b"old"
    assert list(newest.parent.iterdir()) == [newest]


async def test_two_uploads_at_once_are_not_mixed(loose, mata_data_dir):
    """Each is written by itself: the file is one of the two, the one that ended last."""
    newest, first_is_kept = mata_data_dir / "loose" / "newest", asyncio.Event()

    async def slow():
        yield b"a" * 1000
        await first_is_kept.wait()
        yield b"a" * 1000

    upload = asyncio.create_task(loose.post("/loose/file", data=slow()))
    async with asyncio.timeout(20):
        while not list(newest.parent.glob(".*.part")):
            await asyncio.sleep(0.01)
    assert (await loose.post("/loose/file", data=b"b" * 10)).status == 200
    assert newest.read_bytes() == b"b" * 10
    first_is_kept.set()
    assert (await upload).status == 200
    assert newest.read_bytes() == b"a" * 2000


async def test_the_data_directory_may_be_a_text(tmp_path):
    """As ``tempfile`` gives it."""
    async with serving(str(tmp_path / "data"), entry_points=()) as server:
        assert server.url


@pytest.mark.parametrize(
    ("method", "reply", "status", "told"),
    [
        ("ready", "{'x': object()}", 200, {"status": "ready"}),
        ("waiting", "{'x': 5}", 503, {"lab": "it cannot tell whether it is ready"}),
        ("waiting", "{'x': object()}", 503, {"lab": "it cannot tell whether it is ready"}),
    ],
)
async def test_what_readiness_cannot_tell(plugin, mata_client, method, reply, status, told):  # noqa: F811
    """What is no JSON, or no text where there are texts, is logged and does not fail ``/ready``."""
    client = await mata_client(
        plugin(f"class Service(Base):\n    def {method}(self): return {reply}")
    )
    answer = await client.get("/ready")
    found = await answer.json()
    assert (answer.status, found.get("waiting", found)) == (status, told)

"""What the public door gives services of answers and sessions, and what it gives away: nothing."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import pytest

from api_answers import answer, connection, head_of, problem, until
from conftest import picture
from service_plugins import plugin  # noqa: F401 - a fixture
from stream_peers import delete_session, open_session

PNG = picture()

LAB = """
import json
from mataserver import ANYBODY, PRINCIPAL, MataError, Principal, Route, SessionSource, Unavailable

class Service(Base):
    def __init__(self, ctx):
        super().__init__(ctx)
        self.told, self.asked, self.left, self.opened, self.closed = [], 0, [], 0, 0
        self.slow = None

    def routes(self):
        return [
            Route("POST", "/lab/me", self.me, needs=ANYBODY),
            Route("GET", "/lab/app", self.app, public=True),
            Route("POST", "/lab/work", self.work, public=True),
        ]

    async def me(self, request):
        async with self.ctx.http.read_body(request) as body:
            return web.json_response({"name": request[PRINCIPAL].name, "size": len(body)})

    async def app(self, request):
        kept = {str(key): str(request.app[key]) for key in request.app}
        return web.json_response({"kept": kept, "config": str(dict(request.config_dict))})

    async def work(self, request):
        self.ctx.check_running()
        self.ctx.http.check_origin(request)
        async with self.ctx.http.read_body(request) as data:
            return web.json_response({"found": await self.ctx.http.decode(data, json.loads)})

    async def authenticate(self, credentials):
        if not credentials.secret.startswith("lab-"):
            return None
        self.asked += 1
        if credentials.secret == "lab-later":
            return Principal("lab:2", "the lab", "lab", frozenset({"infer"}), background=True)
        if credentials.secret != "lab-token":
            raise Unavailable("the lab is closed")
        return Principal("lab:1", "the lab", "lab", frozenset({"infer"}))

    async def on_result(self, event):
        self.told.append(event)
        if event.answer().task == "ocr":
            raise RuntimeError("a bug of the lab")
        if self.slow is not None:
            await self.slow.wait()

    async def session_source(self, source, fps):
        if not source.startswith("http://lab/"):
            return None
        if source.endswith("/locked"):
            raise Unavailable("the lab is closed")
        return SessionSource(self.frames, "the lab's lamp")

    async def frames(self):
        self.opened += 1
        try:
            for picture in self.pictures:
                yield picture
            raise MataError("the lamp is out")
        finally:
            self.closed += 1
"""


@pytest.fixture
async def lab(plugin, mata_server, data_dir):  # noqa: F811 - the fixture
    """A server with the lab's plugin."""
    return await mata_server(
        plugin(LAB), "cameras", data_dir=data_dir, engine="thread", observe_infer=True
    )


@pytest.fixture
def service(lab):
    """The lab's service."""
    return lab.service("lab")


@pytest.fixture
async def client(lab, mata_client):
    """A client of the server."""
    return await mata_client(server=lab)


async def infer(client, model="fake-detect", **headers):
    """Infer the picture."""
    headers = {"Content-Type": "image/png", **headers}
    async with client.post(f"/v1/infer?model={model}", data=PNG, headers=headers) as response:
        assert response.status == 200
        return await response.read()


# what is given away


async def test_a_request_gives_nothing_of_the_server_away(client):
    """What a handler reaches of the application is aiohttp's alone."""
    async with client.get("/lab/app") as response:
        assert await response.json() == {"kept": {}, "config": "{}"}


# who asks


async def test_a_stream_without_the_key(lab):
    """It is closed with 4001, also by a server of a plugin's tests, which listens by aiohttp."""
    async with (
        aiohttp.ClientSession() as stranger,
        stranger.ws_connect(f"{lab.url}/v1/stream/sess_000000000000") as ws,
    ):
        assert (await ws.receive(timeout=10)).data == 4001


@pytest.mark.parametrize(
    ("secret", "status", "said"),
    [("lab-token", 200, b'"the lab"'), ("lab-other", 503, b"the lab is closed")],
)
async def test_expect_asks_a_service_once(lab, service, secret, status, said):
    """With ``Expect`` a service judges credentials once, whether it takes them or not."""
    async with connection(lab) as (reader, writer):
        head = head_of(lab, "/lab/me", "Content-Length: 4", "Expect: 100-continue")
        writer.write(head.replace(b"Bearer test-key", f"Bearer {secret}".encode()))
        if status == 200:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(b"four")
        found, _, body = await answer(reader)
    assert (found, said in body) == (status, True)
    assert service.asked == 1


async def test_what_a_handler_leans_on(lab, client):
    """Pages of other origins are refused, large bodies decoded, and it stops with the server."""
    large = io.BytesIO(json.dumps(["x" * 2_000_000]).encode())
    async with client.post("/lab/work", data=large) as response:
        assert len((await response.json())["found"][0]) == 2_000_000
    headers = {"Origin": "http://elsewhere.test"}
    async with client.post("/lab/work", data=b"[]", headers=headers) as response:
        await problem(response, 403)
    lab.composed.lifecycle.stopping.set()
    async with client.post("/lab/work", data=b"[]") as response:
        assert await problem(response, 503) == "The server is shutting down"


# on_result


async def test_a_service_is_told_of_inferences(client, service):
    """Where ``observe_infer`` says so it gets the picture and the answer, in either form."""
    body = await infer(client)
    await infer(client, Accept="application/msgpack")
    await until(lambda: len(service.told) == 2)
    plain, packed = service.told
    assert (plain.kind, plain.model, plain.task) == ("infer", "fake-detect", "detect")
    assert (plain.image, plain.body, plain.session_id) == (PNG, body, None)
    assert (plain.packed, packed.packed) == (False, True)
    labels = [[each.label for each in event.answer().detections] for event in (plain, packed)]
    assert labels == [["64x48"], ["64x48"]]


async def test_inferences_are_nobodys_unless_the_setting_says_so(
    plugin,  # noqa: F811 - the fixture
    mata_client,
    mata_server,
    data_dir,
):
    """By default a service is told of streams and cameras alone."""
    server = await mata_server(plugin(LAB), data_dir=data_dir, engine="thread")
    client = await mata_client(server=server)
    await infer(client)
    session = await open_session(client)
    async with client.ws_connect(f"/v1/stream/{session}") as socket:
        await socket.send_bytes(PNG)
        await socket.receive_str(timeout=10)
    service = server.service("lab")
    await until(lambda: service.told)
    (event,) = service.told
    assert (event.kind, event.session_id, event.frame_id) == ("stream", session, 0)
    assert event.image == PNG


async def test_a_service_that_fails_is_told_of_the_next(client, service, caplog):
    """What ``on_result`` raises is logged, ends nothing, and nobody waits for it."""
    await infer(client, "fake-ocr")
    await infer(client)
    await until(lambda: len(service.told) == 2)
    assert "on_result() of the plugin lab failed" in caplog.text
    assert "a bug of the lab" in caplog.text
    async with client.get("/ready") as response:
        assert "failed_tasks" not in await response.json()


async def test_a_slow_service_misses_the_oldest(client, service):
    """Answers go on; what does not fit into the queue is counted."""
    service.slow = asyncio.Event()
    await infer(client)
    await until(lambda: service.told)
    for _ in range(35):
        await infer(client)
    async with client.get("/metrics") as response:
        text = await response.text()
    assert 'mataserver_results_unobserved_total{plugin="lab"} 3.0' in text
    service.slow.set()
    await until(lambda: len(service.told) == 33)


# session_source


async def test_a_service_gives_the_frames_of_a_session(client, service):
    """They are inferred and shown like a camera's; it is opened again where it ends."""
    service.pictures = [picture(width=80), picture(width=96)]
    asked = {"model": "fake-detect", "source": "http://lab/lamp"}
    async with client.post("/v1/sessions", json=asked) as response:
        session = (await response.json())["session_id"]
    assert service.opened == 0
    async with client.ws_connect(f"/v1/stream/{session}") as socket:
        labels = []
        while len(labels) < 3:
            message = await socket.receive_json(timeout=10)
            if message.get("type") == "error":
                assert message["detail"] == "The camera gives no frames: the lamp is out"
            else:
                labels.append(message["detections"][0]["label"])
    assert (labels[0], set(labels)) == ("80x48", {"80x48", "96x48"})
    assert service.opened >= 2
    async with client.get(f"/v1/sessions/{session}") as response:
        assert (await response.json())["camera"]["source"] == "the lab's lamp"
    assert await delete_session(client, session) == 204
    await until(lambda: service.closed == service.opened)
    await until(lambda: service.told)
    assert {event.kind for event in service.told} == {"camera"}


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        ("http://lab/locked", 503, "the lab is closed"),
        ("http://elsewhere/", 422, "source: this host is not one of camera_hosts"),
    ],
)
async def test_sources_that_are_refused(client, source, status, said):
    """What a service refuses is refused; what is not its own is the server's to judge."""
    asked = {"model": "fake-detect", "source": source}
    async with client.post("/v1/sessions", json=asked) as response:
        assert await problem(response, status) == said


async def test_without_the_package(http):
    """Without the plugin of cameras a client is told what to install."""
    asked = {"model": "fake-detect", "source": "rtsp://127.0.0.1/"}
    async with http.post("/v1/sessions", json=asked) as response:
        said = await problem(response, 422)
    assert said == (
        "source: no plugin here reads it: for cameras pip install mataserver-cameras"
        " (./plugins/cameras in a checkout)"
    )


# sessions


async def test_a_service_has_sessions(lab, client, service):
    """It makes, lists, uses and ends them, and they are those of the API."""
    sessions = service.ctx.sessions
    made = await sessions.create("fake-track", params={"confidence": 0.5})
    assert [each.id for each in sessions.list()] == [made.id]
    async with client.get("/v1/sessions") as response:
        assert [each["session_id"] for each in await response.json()] == [made.id]
    with sessions.attach(made.id, lambda _code, _reason: None) as session:
        found = [(await session.step(PNG)).detections[0].track_id for _ in range(2)]
        async with client.get(f"/v1/sessions/{made.id}") as response:
            told = await response.json()
        with (
            pytest.raises(Exception, match="has a connection already"),
            sessions.attach(made.id, lambda _code, _reason: None),
        ):
            pass
    assert found == [1, 2]
    assert (told["connected"], told["frames"], told["results"]) == (True, 2, 2)
    await sessions.close(made.id)
    assert sessions.list() == []


async def test_a_session_that_is_deleted_is_left(client, service):
    """Who uses a session is told to leave it, and the delete waits for that."""
    sessions = service.ctx.sessions
    session, left = await open_session(client), asyncio.Event()
    with sessions.attach(session, lambda _code, _reason: left.set()):
        deleting = asyncio.create_task(delete_session(client, session))
        await asyncio.wait_for(left.wait(), 10)
        assert not deleting.done()
    assert await deleting == 204


async def test_sessions_have_owners(client, service):
    """Of a principal's sessions another one sees none."""
    sessions = service.ctx.sessions
    lab = await service.authenticate(_Token())
    session = await sessions.create("fake-detect", owner=lab)
    assert sessions.get(session.id, lab).owner == "lab:1"
    headers = {"Authorization": "Bearer lab-token"}
    async with client.get(f"/v1/sessions/{session.id}", headers=headers) as response:
        assert response.status == 200
    await open_session(client)
    assert [each.id for each in sessions.list(lab)] == [session.id]
    assert len(sessions.list()) == 2


class _Token:
    secret = "lab-token"


def test_aiohttp_is_what_the_fixtures_give(client):
    """A client is aiohttp's own, so all that its documentation says holds."""
    assert isinstance(client.session, aiohttp.ClientSession)


async def test_a_principal_whose_requests_can_wait_waits_for_the_others(client, lab):
    """While a request is under way, one of a background principal is not begun; then it is."""
    await infer(client)  # the model is loaded
    pool = lab.composed.pool
    later = {"Authorization": "Bearer lab-later"}
    background = pool._background
    with background.foreground():
        waiting = asyncio.create_task(infer(client, **later))
        await until(background._turn_lock.locked)
        await infer(client)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 10)

"""Several servers on one shared directory, each a real one, asked for what another holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from dataclasses import dataclass

import aiohttp
import pytest

from api_answers import problem
from conftest import FAKES, register
from mataserver import testing
from mataserver.app.maintenance import MaintenanceIntervals
from stream_peers import PNG, closed_with, delete_session, eventually, open_session, server_apart

QUICK = MaintenanceIntervals(reconcile=0.05, beat=0.05, silence=0.5)
GONE = "Session not found: the server that held it is gone"


@dataclass(frozen=True, slots=True)
class Front:
    """A front-end and a session of a client of it."""

    served: testing.Served
    http: aiohttp.ClientSession


@contextlib.asynccontextmanager
async def front(folder, name, **settings):
    """Run a front-end with a data directory of its own."""
    data = folder / name
    data.mkdir(exist_ok=True)
    chosen = {"engine": "thread", "shared_dir": str(folder / "shared"), "pace": QUICK} | settings
    async with (
        testing.serving(data, **chosen) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield Front(served, http)


@pytest.fixture
def shared(tmp_path):
    """A shared directory in which every fake model is registered."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    return tmp_path / "shared"


@pytest.fixture
async def pair(shared):
    """Two front-ends that know of each other."""
    async with front(shared.parent, "one") as one, front(shared.parent, "two") as two:
        await eventually(lambda: sees(one, 2))
        await eventually(lambda: sees(two, 2))
        yield one, two


async def frontends(each):
    """Return what a front-end tells of all."""
    async with each.http.get("/v1/frontends") as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def sees(each, count):
    """Whether a front-end knows that many that live."""
    return sum(found["alive"] for found in await frontends(each)) == count


def entry_of(shared, address):
    """Return the file of the front-end that says it is at an address."""
    paths = (shared / "frontends").glob("*.json")
    [path] = [path for path in paths if json.loads(path.read_bytes())["address"] == address]
    return path


# what one of them holds


async def test_a_session_is_found_from_every_front_end(pair):
    """Each tells of it, lists it once and ends it, wherever it was made."""
    one, two = pair
    session = await open_session(one.http)
    for each in pair:
        async with each.http.get(f"/v1/sessions/{session}") as response:
            assert (response.status, (await response.json())["session_id"]) == (200, session)
            assert response.headers["X-Request-Id"]
        async with each.http.get("/v1/sessions") as response:
            assert [found["session_id"] for found in await response.json()] == [session]
    async with two.http.head(f"/v1/sessions/{session}") as response:
        assert response.status == 200
    assert await delete_session(two.http, session) == 204
    async with one.http.get(f"/v1/sessions/{session}") as response:
        assert await problem(response, 404) == f"Session not found: {session}"
    async with two.http.get(f"/v1/sessions/{session}") as response:
        assert await problem(response, 404) == f"Session not found: {session}"


async def test_a_stream_by_another_front_end(pair):
    """Frames, pings and the protocol chosen pass; the session counts them where it is."""
    one, two = pair
    session = await open_session(one.http)
    path = f"/v1/stream/{session}"
    async with two.http.ws_connect(path, protocols=["mata.v1.msgpack"]) as ws:
        assert ws.protocol == "mata.v1.msgpack"
        await ws.send_bytes(PNG)
        assert (await ws.receive(timeout=20)).type is aiohttp.WSMsgType.BINARY
    async with two.http.ws_connect(path) as ws:
        for number in (1, 2):
            await ws.send_bytes(PNG)
            assert (await ws.receive_json(timeout=20))["frame_id"] == number
        async with one.http.get(f"/v1/sessions/{session}") as response:
            told = await response.json()
        assert (told["connected"], told["frames"]) == (True, 3)
        assert await delete_session(one.http, session) == 204
        assert await closed_with(ws) == 1000


async def test_a_token_in_the_url_stays_here(pair):
    """A browser's ``?token=`` is judged by whom it asked, and is not sent on."""
    one, two = pair
    session = await open_session(one.http)
    async with (
        aiohttp.ClientSession(two.served.url) as browser,
        browser.ws_connect(f"/v1/stream/{session}?token=test-key") as ws,
    ):
        await ws.send_bytes(PNG)
        assert (await ws.receive_json(timeout=20))["frame_id"] == 0
    async with (
        aiohttp.ClientSession(two.served.url) as browser,
        browser.ws_connect(f"/v1/stream/{session}?token=wrong") as ws,
    ):
        assert await closed_with(ws) == 4001


KEYS = [{"key": key, "name": key, "scopes": ["infer"]} for key in ("anna", "bert")]


async def test_a_session_is_its_owners_from_everywhere(shared):
    """Whoever may not know of a session is not told of it by another front-end either."""
    folder, keys = shared.parent, {"api_keys": ["test-key", *KEYS]}
    async with front(folder, "one", **keys) as one, front(folder, "two", **keys) as two:
        await eventually(lambda: sees(two, 2))
        anna, bert = ({"Authorization": f"Bearer {name}"} for name in ("anna", "bert"))
        asked = {"model": "fake-detect"}
        async with one.http.post("/v1/sessions", json=asked, headers=anna) as response:
            path = f"/v1/sessions/{(await response.json())['session_id']}"
        async with two.http.get(path, headers=anna) as response:
            assert response.status == 200
        async with two.http.get(path, headers=bert) as response:
            await problem(response, 404)
        async with two.http.get("/v1/sessions", headers=bert) as response:
            assert await response.json() == []


async def test_a_front_end_vouches_for_keys_of_its_own(shared):
    """The one that holds a session need not know the key; without that word it refuses it."""
    async with (
        front(shared.parent, "one") as one,
        front(shared.parent, "two", api_keys=["another"]) as two,
    ):
        await eventually(lambda: sees(two, 2))
        session = await open_session(one.http)
        async with two.http.get(f"/v1/sessions/{session}") as response:
            assert response.status == 200
        word = {**two.served.headers, "X-Mataserver-Vouched": "e30=.00"}
        async with two.http.get(f"{one.served.url}/v1/sessions/{session}", headers=word) as answer:
            assert "no token of a front-end" in await problem(answer, 401)
        async with two.http.get(f"{one.served.url}/v1/models", headers=word) as answer:
            assert answer.status == 403  # no word counts where nothing is held


# those that are gone


async def test_a_front_end_that_died(pair, shared):
    """What it held is 404 in a sentence, a stream closed with 4004, and the list has the others."""
    one, two = pair
    async with front(shared.parent, "three") as three:
        session = await open_session(three.http)
        await eventually(lambda: sees(two, 3))
        left = entry_of(shared, three.served.url)
        content = left.read_bytes()
    left.write_bytes(content)  # as kill -9 leaves it
    async with two.http.get(f"/v1/sessions/{session}") as response:
        assert await problem(response, 404) == GONE
    async with two.http.ws_connect(f"/v1/stream/{session}") as ws:
        message = await ws.receive(timeout=20)
        assert (message.data, message.extra) == (4004, "the server that held it is gone")
    kept = await open_session(one.http)
    async with two.http.get("/v1/sessions") as response:
        assert [found["session_id"] for found in await response.json()] == [kept]
    await eventually(lambda: sees(two, 2))
    assert [found["alive"] for found in await frontends(two)].count(False) == 1


async def test_a_front_end_that_stands_still(shared):
    """Whoever waits for it is told, its streams end; once it goes on it is there again."""
    apart = shared.parent / "apart"
    apart.mkdir()
    settings = {"engine": "thread", "shared_dir": str(shared)}
    with server_apart(apart, **settings) as still:
        async with front(shared.parent, "two") as two, still.http() as http:
            await eventually(lambda: sees(two, 2))
            session = await open_session(http)
            path = f"/v1/sessions/{session}"
            async with two.http.ws_connect(f"/v1/stream/{session}") as ws:
                await ws.send_bytes(PNG)
                assert (await ws.receive_json(timeout=20))["frame_id"] == 0
                still.process.send_signal(signal.SIGSTOP)
                try:
                    async with asyncio.timeout(30), two.http.get(path) as response:
                        assert await problem(response, 404) == GONE
                    assert await closed_with(ws) == 1001
                finally:
                    still.process.send_signal(signal.SIGCONT)

            async def is_back():
                async with two.http.get(path) as response:
                    return response.status == 200

            await eventually(is_back)


async def test_who_starts_again_takes_its_place(shared):
    """At the address of one that was killed there is one front-end, not two."""
    address = {"frontend_address": "http://127.0.0.1:9"}
    async with front(shared.parent, "one", **address) as one:

        async def listed():
            return [each["address"] for each in await frontends(one)] == [*address.values()]

        await eventually(listed)
        left = entry_of(shared, address["frontend_address"])
        content = left.read_bytes()
    left.write_bytes(content)
    async with front(shared.parent, "two", **address) as two:

        async def alone():
            return [found["here"] for found in await frontends(two)] == [True]

        await eventually(alone)
        assert not left.exists()


# what they share


async def test_a_model_that_one_removes_is_gone_at_all(pair):
    """And one that is registered anew is there: the registry is one."""
    one, two = pair
    asked = {"model": "fake-ocr"}
    async with two.http.post("/v1/models/warmup", json=asked) as response:
        assert response.status == 200, await response.text()
    async with one.http.delete("/v1/models/fake-ocr") as response:
        assert response.status in {200, 204}

    async with two.http.get("/v1/models/fake-ocr") as response:
        assert response.status == 404
    await eventually(unloaded(two, "fake-ocr"))


def unloaded(each, model):
    """Return what tells whether a model is in no memory."""

    async def check():
        return each.served.composed.pool.status(model, "ocr").state == "unloaded"

    return check


async def test_changes_at_once_lose_nothing(pair):
    """Models that two front-ends remove side by side are all gone, and no other one is."""
    one, two = pair
    removed = [f"fake-{task}" for task in FAKES[:6]]
    answers = await asyncio.gather(
        *(pair[i % 2].http.delete(f"/v1/models/{name}") for i, name in enumerate(removed))
    )
    assert all(answer.status in {200, 204} for answer in answers)
    left = {f"fake-{task}" for task in FAKES[6:]}
    for each in (one, two):
        assert left <= set(each.served.composed.catalog.entries())
        assert not set(removed) & set(each.served.composed.catalog.entries())


async def test_one_key_is_made_for_all(shared):
    """Front-ends without a key in the settings accept the same one."""
    async with (
        front(shared.parent, "one", api_keys=[]) as one,
        front(shared.parent, "two", api_keys=[]) as two,
    ):
        key = (shared / "api_key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        for each in (one, two):
            async with each.http.get("/v1/models", headers=headers) as response:
                assert response.status == 200


async def test_what_is_to_see(pair):
    """The metrics count front-ends and what was sent on; each knows the sessions of all."""
    one, two = pair
    session = await open_session(one.http)
    async with two.http.get(f"/v1/sessions/{session}") as response:
        assert response.status == 200
    async with two.http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    assert 'mataserver_frontends{state="alive"} 2.0' in lines
    assert 'mataserver_frontends{state="silent"} 0.0' in lines
    assert 'mataserver_relayed_total{kind="http"} 1.0' in lines

    async def counted():
        return [found["sessions"] for found in await frontends(two) if not found["here"]] == [1]

    await eventually(counted)


async def test_a_directory_that_cannot_be_used_is_told(pair, shared):
    """``/ready`` says so as long as it is so, and the server goes on."""
    one, _ = pair
    folder = shared / "frontends"
    folder.rename(shared / "away")

    async def is_told():
        async with one.http.get("/ready") as response:
            return "shared_dir" in (await response.text()) and response.status == 503

    async def is_well():
        async with one.http.get("/ready") as response:
            return response.status == 200

    await eventually(is_told)
    (shared / "away").rename(folder)
    await eventually(is_well)

"""What a plugin's service holds is found from every front-end, by ids of both kinds."""

from __future__ import annotations

import asyncio
import importlib.metadata
import io
import os
import subprocess
import sys

import pytest
from aiohttp import web

from api_answers import problem
from conftest import FAKES, register
from mataserver import PRINCIPAL, NotFound, Route, hookimpl, plugins, testing
from mataserver.frontends.directory import SECRET, FrontendDirectory, FrontendEntry
from mataserver.frontends.resource_ids import ResourceIds
from stream_peers import eventually
from test_frontends import front, sees

LARGE = os.urandom(2_500_000)


class Shelf:
    """A service that keeps bytes, each in the server that was asked to."""

    def __init__(self, ctx, place):
        self._ctx = ctx
        self._place = f"/lab/{place}"
        self._kept = {}

    async def __aenter__(self):
        """Keep nothing."""
        return self

    async def __aexit__(self, *exc):
        """Forget it."""

    def routes(self):
        """Return the routes."""
        one = self._place + "/{thing}"
        return [
            Route("POST", self._place, self.make, needs="infer"),
            Route("PUT", one, self.put, needs="infer", held="thing"),
            Route("GET", one, self.get, needs="infer", held="thing"),
            Route("GET", self._place, self.every, needs="infer", held="*"),
        ]

    async def make(self, request):
        """Make a place, by a name that was chosen or with an id."""
        name = request.query.get("name")
        thing = name or self._ctx.held.make("thing-")
        self._kept[thing] = b""
        if name:
            owner = request[PRINCIPAL].id if "own" in request.query else ""
            await self._ctx.held.add(name, owner)
        return web.json_response({"thing": thing})

    async def put(self, request):
        """Keep a body."""
        async with self._ctx.http.read_body(request) as data:
            self._kept[self._thing(request)] = data
        return web.json_response({"size": len(data)}, status=201)

    async def get(self, request):
        """Give it, in pieces."""
        data = self._kept[self._thing(request)]
        response = web.StreamResponse(headers={"X-Lab": "kept"})
        await response.prepare(request)
        for at in range(0, len(data), 300_000):
            await response.write(data[at : at + 300_000])
        return response

    async def every(self, request):
        """List what all servers keep."""
        found = sorted(self._kept)
        for others in await self._ctx.held.gather(request, list[str]):
            found += others
        return web.json_response(found)

    def _thing(self, request):
        thing = request.match_info["thing"]
        if thing not in self._kept:
            raise NotFound(f"No such thing: {thing}")
        return thing


class ShelfPlugin:
    """A plugin with that service."""

    def __init__(self, place):
        self._place = place

    @hookimpl
    def service(self, ctx):
        """Return the service."""
        return Shelf(ctx, self._place)


shelf, rack = ShelfPlugin("shelf"), ShelfPlugin("rack")
POINTS = (
    testing.FAKE,
    *(
        importlib.metadata.EntryPoint(name, f"test_frontends_held:{name}", plugins.GROUP)
        for name in ("shelf", "rack")
    ),
)


@pytest.fixture
async def pair(tmp_path):
    """Two front-ends with the plugin that know of each other."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    options = {"entry_points": POINTS, "max_body_mb": 3}
    async with front(tmp_path, "one", **options) as one, front(tmp_path, "two", **options) as two:
        for each in (one, two):
            await eventually(lambda each=each: sees(each, 2))
        yield one, two


@pytest.mark.parametrize("name", ["", "chosen by somebody", "thing-0123456789ab"])
async def test_bodies_and_answers_pass(pair, name):
    """A body goes there, a large answer comes back, and a refusal is as it was made there."""
    one, two = pair
    async with one.http.post("/lab/shelf", params={"name": name}) as response:
        place = f"/lab/shelf/{(await response.json())['thing']}"
    async with two.http.put(
        place, data=io.BytesIO(LARGE)
    ) as response:  # at once: whoever made it was told
        assert (response.status, await response.json()) == (201, {"size": len(LARGE)})
    for each in pair:
        async with each.http.get(place) as response:
            assert (response.status, response.headers["X-Lab"]) == (200, "kept")
            assert await response.read() == LARGE
    async with two.http.put(place, data=io.BytesIO(bytes(3_000_001))) as response:
        await problem(response, 413)
    async with two.http.get("/lab/shelf/nothing") as response:
        assert await problem(response, 404) == "No such thing: nothing"


async def test_things_of_two_plugins_with_one_name(pair):
    """Each is found where it is held, from both front-ends, though the other has its name."""
    one, two = pair
    for place, front_end in (("shelf", two), ("rack", one)):
        async with front_end.http.post(f"/lab/{place}", params={"name": "door"}) as response:
            assert response.status == 200
        async with front_end.http.put(f"/lab/{place}/door", data=place.encode()) as response:
            assert response.status == 201
    for front_end in pair:
        for place in ("shelf", "rack"):
            async with front_end.http.get(f"/lab/{place}/door") as response:
                assert (response.status, await response.read()) == (200, place.encode())


async def test_callers_choose_names_for_themselves(tmp_path):
    """Each finds its own by the name, from both front-ends, and others what is there."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    keys = ["test-key", *({"key": name, "name": name, "scopes": ["infer"]} for name in "ab")]
    options = {"entry_points": POINTS, "api_keys": keys}
    async with front(tmp_path, "one", **options) as one, front(tmp_path, "two", **options) as two:
        for each in (one, two):
            await eventually(lambda each=each: sees(each, 2))
        for each, key in ((one, "a"), (two, "b")):
            auth = {"Authorization": f"Bearer {key}"}
            made = {"name": "door", "own": "yes"}
            async with each.http.post("/lab/shelf", params=made, headers=auth) as response:
                assert response.status == 200
            async with each.http.put("/lab/shelf/door", data=key, headers=auth) as response:
                assert response.status == 201
        for each in (one, two):
            for key in "ab":
                auth = {"Authorization": f"Bearer {key}"}
                async with each.http.get("/lab/shelf/door", headers=auth) as response:
                    assert (response.status, await response.text()) == (200, key)
        for each, found in ((one, "a"), (two, "b")):  # of another caller: what is here
            async with each.http.get("/lab/shelf/door") as response:
                assert (response.status, await response.text()) == (200, found)


async def test_a_plugins_list_is_of_all(pair):
    """Whoever is asked gathers what the others keep, once."""
    for each, name in zip(pair, ("here", "there"), strict=True):
        async with each.http.post("/lab/shelf", params={"name": name}) as response:
            assert response.status == 200
    for each in pair:
        async with each.http.get("/lab/shelf") as response:
            assert sorted(await response.json()) == ["here", "there"]


async def test_the_command_lists_front_ends(pair):
    """`cluster frontends` and `cluster status` show both; the one that was asked has a star."""
    one, two = pair
    address = two.served.url
    for asked in ("frontends", "status"):
        arguments = ["cluster", asked, "--url", address, "--api-key", two.served.key]
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mataserver", *arguments), stdout=subprocess.PIPE
        )
        printed, _ = await running.communicate()
        assert running.returncode == 0
        rows = [line.split() for line in printed.decode().splitlines()]
        assert rows[0] == ["FRONT-END", "ID", "STATE", "SESSIONS"]
        states = {row[0]: row[-2:] for row in rows[1:]}
        assert states == {one.served.url: ["alive", "0"], address: ["alive", "0"]}
        assert [row[0] for row in rows if "*" in row] == [address]


# the directory


class Hands:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self):
        """Return the seconds."""
        return self.now


async def test_silence_is_counted_by_looks_too(tmp_path):
    """Who stood still itself takes nobody for dead; who says nothing is, and is there again."""
    clock = Hands()
    ours = FrontendDirectory(tmp_path, ResourceIds(), silence=6.0, clock=clock)
    theirs = FrontendDirectory(tmp_path, ResourceIds(), silence=6.0, clock=clock)
    assert await ours.join() == await theirs.join()  # one secret
    await theirs.write_entry(FrontendEntry(address="http://b", beat=1))
    await ours.refresh()
    [other] = ours.peers()
    clock.now = 100.0
    await ours.refresh()
    assert not ours.is_silent(other)
    for _ in range(3):
        await ours.refresh()
    assert ours.is_silent(other)
    await theirs.write_entry(FrontendEntry(address="http://b", beat=2))
    await ours.refresh()
    assert not ours.is_silent(ours.peers()[0])
    await theirs.leave()
    await ours.refresh()
    assert (ours.peers(), ours.is_silent(other)) == ([], True)


async def test_a_damaged_secret_is_none(tmp_path):
    """With an empty one anybody could vouch for himself: no front-end starts with it."""
    await FrontendDirectory(tmp_path, ResourceIds()).join()
    (tmp_path / SECRET).write_bytes(b"")
    with pytest.raises(OSError, match="damaged"):
        await FrontendDirectory(tmp_path, ResourceIds()).join()


async def test_two_at_one_address_find_out(tmp_path):
    """Each removes the other's entry as a predecessor's, and is told that its own was gone."""
    first, second = (
        FrontendDirectory(tmp_path, ResourceIds()),
        FrontendDirectory(tmp_path, ResourceIds()),
    )
    for each in (first, second):
        await each.join()
    assert await first.write_entry(FrontendEntry(address="http://a", beat=1))
    assert await second.write_entry(FrontendEntry(address="http://a", beat=1))
    assert not await first.write_entry(FrontendEntry(address="http://a", beat=2))

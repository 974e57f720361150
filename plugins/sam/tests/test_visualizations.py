"""The store of pictures: bounded in bytes, and in time."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from mataserver import NotFound
from mataserver_sam.visualizations import PATH, Visualizations


class Clock:
    """A clock that goes when it is told to."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """The store's clock."""
    return Clock()


async def get(store, name):
    """Ask the store's handler for a picture."""
    request = make_mocked_request("GET", f"{PATH}/{name}", match_info={"name": name})
    return await store.get(request)


def test_names_cannot_be_guessed(clock):
    """Every reservation has a name of its own, long and at random, and the path says it."""
    store = Visualizations(1e6, 10, clock)
    names = {store.reserve() for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) >= 24 and path == f"{PATH}/{name}" for name, path in names)


async def test_pictures_expire(clock):
    """A picture is given out until its time is over, and then no more."""
    store = Visualizations(1e6, 10, clock)
    store.put("a.png", b"picture")
    clock.now += 9
    answer = await get(store, "a.png")
    assert (answer.body, answer.content_type) == (b"picture", "image/png")
    assert answer.headers["Cache-Control"] == "private, max-age=1"
    clock.now += 1
    with pytest.raises(NotFound, match="it has expired"):
        await get(store, "a.png")
    store.put("b.png", b"other")
    assert store.held_bytes == 5


async def test_bytes_are_bounded(clock):
    """New pictures push the old ones out; one that is too large is not kept at all."""
    store = Visualizations(10, 60, clock)
    for name in "abc":
        store.put(name, b"12345")
        assert store.held_bytes <= 10
    with pytest.raises(NotFound):
        await get(store, "a")
    assert (await get(store, "c")).body == b"12345"
    store.put("d", b"x" * 11)
    with pytest.raises(NotFound):
        await get(store, "d")
    store.clear()
    assert store.held_bytes == 0

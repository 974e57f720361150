"""Images that are sent once and asked about by an id: whose they are, how many, how long."""

from __future__ import annotations

import base64

import aiohttp
import pytest
import pytest_asyncio

from mataserver import InvalidParams, NotFound
from mataserver.testing import installed, serving
from mataserver_sam.image_requests import SegmentRequest
from mataserver_sam.image_store import ImageStore
from mataserver_sam.prompts import Prompt

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEGMENT = "/api/v1/image/segment"
CACHED = "/api/v1/image/cached-features"
POINT = {"type": "point", "points": [[0.3, 0.4]], "point_labels": [1]}
ASKED = {"prompts": [POINT], "confidence_threshold": 0.0}
OTHER = {"Authorization": "Bearer other-key"}
GONE = "There is no image with this image_id, or it has expired: send it again"


class Clock:
    """A clock that goes when it is told to."""

    now = 100.0

    def __call__(self):
        return self.now


def asked(data=None, image_id=None, *, keep_image=True):
    """Return a request about an image."""
    image = None if data is None else base64.b64encode(data).decode()
    prompts = [Prompt(type="text", text="dog")]
    return SegmentRequest(image=image, image_id=image_id, keep_image=keep_image, prompts=prompts)


def kept(store, data, owner="me"):
    """Have an image kept; return its id."""
    given = store.find(asked(data), owner)
    store.keep(given, owner)
    return given.image_id


async def test_an_image_is_kept_for_as_long_as_it_is_used():
    """Each use begins its time anew; after it, and for anybody else, there is none."""
    clock = Clock()
    store = ImageStore(100, 10, clock)
    name = kept(store, b"image")
    for _ in range(3):
        clock.now += 9
        given = store.find(asked(image_id=name), "me")
        assert given == (b"image", name)
        store.keep(given, "me")
    with pytest.raises(NotFound, match="send it again"):
        store.find(asked(image_id=name), "another")
    clock.now += 10
    with pytest.raises(NotFound, match="send it again"):
        store.find(asked(image_id=name), "me")
    kept(store, b"other")
    assert store.held_bytes == 5


async def test_bytes_are_bounded():
    """What was not used for longest makes room; what is too large, or not to be kept, has no id."""
    store = ImageStore(10, 60)
    first, second = kept(store, b"12345"), kept(store, b"23456")
    store.find(asked(image_id=first), "me")
    kept(store, b"34567")
    assert store.held_bytes == 10
    assert store.find(asked(image_id=first), "me").data == b"12345"
    with pytest.raises(NotFound):
        store.find(asked(image_id=second), "me")
    assert kept(store, b"12345678901") is None
    assert store.find(asked(b"1", keep_image=False), "me") == (b"1", None)
    assert store.held_bytes == 10


async def test_one_owner_pushes_out_no_others_images():
    """Who holds the most makes room, whoever sends: first what they have, not what others have."""
    store = ImageStore(10, 60)
    mine = kept(store, b"123")
    theirs = [kept(store, b"12", "greedy") for _ in range(20)]
    assert store.find(asked(image_id=mine), "me").data == b"123"
    assert store.held_bytes == 9
    assert store.find(asked(image_id=theirs[-1]), "greedy").data == b"12"
    with pytest.raises(NotFound):
        store.find(asked(image_id=theirs[0]), "greedy")
    third = kept(store, b"1234", "third")
    assert store.find(asked(image_id=mine), "me").data == b"123"
    assert store.find(asked(image_id=third), "third").data == b"1234"
    assert store.held_bytes == 9


async def test_one_image_is_named_and_one_way():
    """Neither image nor id, and both of them, are refused."""
    store = ImageStore(10, 60)
    with pytest.raises(InvalidParams, match="image: field is required"):
        store.find(asked(), "me")
    with pytest.raises(InvalidParams, match="image_id: give it or image, not both"):
        store.find(asked(b"1", "name"), "me")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(tmp_path_factory, sam3_path):
    """A session with a server that has two keys and a tiny SAM3."""
    keys = ["test-key", {"key": "other-key", "name": "other", "scopes": ["infer"]}]
    given = {"threads": 1, "api_keys": keys, "plugins": {"sam": {"model": str(sam3_path)}}}
    folder = tmp_path_factory.mktemp("server")
    async with (
        serving(folder, entry_points=installed("sam"), engine="thread", **given) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as session,
    ):
        yield session


async def post(http, path, **body):
    """Return status and decoded answer of a POST."""
    headers = body.pop("headers", None)
    async with http.post(path, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_a_click_needs_no_image(http, picture, png):
    """Asked about by its id, an image has the same answers, a drawn one too."""
    image = base64.b64encode(png(picture())).decode()
    _, plain = await post(http, SEGMENT, image=image, **ASKED)
    assert "image_id" not in plain
    _, first = await post(http, SEGMENT, image=image, keep_image=True, **ASKED)
    known = {"image_id": first["image_id"]}
    status, again = await post(http, SEGMENT, **known, return_visualization=True, **ASKED)
    assert status == 200
    same = ("image_id", "masks", "boxes", "scores", "image_size")
    assert [again[name] for name in same] == [first[name] for name in same]
    async with http.get(again["visualization_url"]) as drawn:
        assert drawn.status == 200
    status, texts = await post(http, CACHED, **known, text_prompts=["dog"])
    assert (status, texts["cache_hit"], texts["image_id"]) == (200, True, first["image_id"])
    _, texts = await post(http, CACHED, image=image, keep_image=True, text_prompts=["dog"])
    status, last = await post(http, SEGMENT, image_id=texts["image_id"], **ASKED)
    assert (status, last["masks"]) == (200, first["masks"])


async def test_an_image_is_its_askers_alone(http, picture, png):
    """Another key is told what somebody is told who made the id up; a wrong request keeps none."""
    image = base64.b64encode(png(picture(seed=4))).decode()
    _, first = await post(http, SEGMENT, image=image, keep_image=True, **ASKED)
    for path, asked_ in ((SEGMENT, ASKED), (CACHED, {"text_prompts": ["dog"]})):
        for given in ({"image_id": first["image_id"], "headers": OTHER}, {"image_id": "made-up"}):
            status, told = await post(http, path, **given, **asked_)
            assert (status, told["detail"]) == (404, GONE)
    both = {"image": image, "image_id": first["image_id"]}
    status, told = await post(http, SEGMENT, **both, **ASKED)
    assert (status, told["detail"]) == (422, "image_id: give it or image, not both")


async def test_all_masks_of_a_click(http, picture, png):
    """Three proposals, best first, of which the first is the answer without them."""
    image = base64.b64encode(png(picture())).decode()
    _, one = await post(http, SEGMENT, image=image, **ASKED)
    _, three = await post(http, SEGMENT, image=image, all_masks=True, **ASKED)
    assert (one["num_masks"], three["num_masks"]) == (1, 3)
    assert [three[name][0] for name in ("masks", "boxes", "scores")] == [
        one[name][0] for name in ("masks", "boxes", "scores")
    ]
    assert three["scores"] == sorted(three["scores"], reverse=True)
    assert len(set(three["masks"])) == 3
    least = three["scores"][1]
    _, two = await post(
        http, SEGMENT, image=image, all_masks=True, prompts=[POINT], confidence_threshold=least
    )
    assert two["scores"] == three["scores"][:2]

"""Triton's own clients through the gateway, before another mataserver: as if asked directly."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass

import numpy as np
import pytest
from gateway_stand import KEY, application, stand_on
from PIL import Image
from tritonclient.utils import InferenceServerException

from mataserver.testing import FAKE, installed, serving
from mataserver_fleet.gateway.rpc import RpcGateway
from mataserver_fleet.gateway.snapshot import Target
from triton_clients import KINDS, grpc_port, triton


@dataclass
class Place:
    """Where a client asks, and the key that it shows."""

    url: str
    key: str
    grpc: int


@pytest.fixture
async def stand(tmp_path):
    """A gateway whose servers are never taken for dead because this process is busy."""
    async with stand_on(tmp_path, probe_timeout=30.0) as made:
        yield made


async def ready(http, server):
    """Wait until a server has loaded what it loads at its start: whoever asks before is told so."""
    async with asyncio.timeout(60):
        while True:
            async with http.get(f"{server.url}/v2/models/fake-detect/ready") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.02)


@pytest.fixture
async def places(stand, tmp_path):
    """A mataserver with a model, asked directly, and through the gateway."""
    folder = tmp_path / "behind"
    folder.mkdir()
    models = [{"model": "fake-detect", "task": "detect", "preload": True, "keep_alive": -1}]
    given = {
        "models": models,
        "engine": "thread",
        "auth_mode": "none",
        "plugins": {"oip": {"grpc_port": 0}},
    }
    points = [FAKE, *installed("oip")]
    async with serving(folder, entry_points=points, **given) as behind:
        host, port = "127.0.0.1", int(behind.url.rpartition(":")[2])
        await ready(stand.http, behind)
        target = Target(host, port, rpc=grpc_port(behind))
        route = {"protocols": frozenset({"http", "grpc"})}
        stand.follow(application(target, model="fake-detect", route=route))
        await stand.ready()  # who asks before a first look at the server is told that there is none
        async with RpcGateway(stand.gateway, stand.rpc_port()) as rpc:
            through = Place(f"{stand.server.url}/gateway/shop", KEY, rpc.port)
            yield Place(behind.url, "any", grpc_port(behind)), through


def picture():
    """Return a picture as PNG."""
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (255, 0, 0)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
async def test_every_client(places, kind):
    """What it is told of the model, and each output of an inference, are the same either way."""
    found = []
    for place in places:
        async with triton(kind, place) as client:
            assert await client.call("is_server_live")
            assert await client.call("is_server_ready")
            assert (await client.described("get_server_metadata"))["name"] == "mataserver"
            assert await client.call("is_model_ready", "fake-detect")
            about = await client.described("get_model_metadata", "fake-detect")
            result = await client.infer("fake-detect", client.encoded(picture()), request_id="7")
            every = [each["name"] for each in about["outputs"]]
            names = [each for each in every if each != "result"]  # it tells the time
            found.append((about, {n: result.as_numpy(n).tolist() for n in names}))
    assert found[0] == found[1]
    assert np.array(found[1][1]["boxes"]).shape[-1] == 4


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_client_is_told(places, kind):
    """A model that is not routed, and a request that is wrong, are errors of the protocol."""
    async with triton(kind, places[1]) as client:
        with pytest.raises(InferenceServerException, match="No such"):
            await client.infer("other", client.encoded(picture()))
        with pytest.raises(InferenceServerException, match="image"):
            await client.infer("fake-detect", client.encoded(b"no picture"))
        with pytest.raises(InferenceServerException):
            await client.call("load_model", "fake-detect")
        client.headers = {"apikey": "nobody's"}
        with pytest.raises(InferenceServerException, match="Invalid API key"):
            await client.infer("fake-detect", client.encoded(picture()))

"""KServe's own client through the gateway, before another mataserver: as if asked directly."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from fleet_client import Client  # noqa: E402

from mataserver.testing import FAKE, installed, serving  # noqa: E402

MODEL = "fake-detect"
BEHIND = {
    "engine": "thread",
    "api_key": "secret-of-behind",
    "models": [{"model": MODEL, "task": "detect", "preload": True, "keep_alive": -1}],
    "plugins": {"oip": {"grpc_port": 0}},
}


@dataclass
class Place:
    """Where the client asks, and what shows who asks."""

    url: str
    grpc: int
    key: str


@contextlib.asynccontextmanager
async def front(folder, behind):
    """Run a server with the gateway before another, and a client of it."""
    port, rpc = int(behind.url.rpartition(":")[2]), behind.service("oip").grpc_port
    peer = {"host": "127.0.0.1", "port": port, "grpc_port": rpc, "key": behind.key}
    gateway = {"probe": 0.1, "grpc_port": 0, "mataservers": [peer]}
    points = installed("database", "accounts", "fleet")
    settings = {"engine": "thread", "outbound_hosts": ["127.0.0.1"]}
    plugins = {"fleet": {"gateway": gateway}}
    async with (
        serving(folder, entry_points=points, plugins=plugins, **settings) as served,
        aiohttp.ClientSession() as http,
    ):
        yield served, Client(http, served)


@pytest.fixture
async def places(tmp_path):
    """A mataserver with a model, asked directly, and through the gateway as a consumer."""
    (tmp_path / "behind").mkdir()
    (tmp_path / "front").mkdir()
    async with (
        serving(tmp_path / "behind", entry_points=[FAKE, *installed("oip")], **BEHIND) as behind,
        front(tmp_path / "front", behind) as (served, client),
    ):
        await client.made("/api/apps", {"name": "shop"})
        route = {"protocols": ["http", "grpc"]}
        async with asyncio.timeout(60):  # it is offered once the gateway has seen it
            path = f"/api/apps/shop/routes/{MODEL}"
            while (await client.ask("POST", path, json=route))[0] != 201:
                await asyncio.sleep(0.05)
        key = (await client.made("/api/apps/shop/consumers/till"))["key"]
        direct = Place(behind.url, behind.service("oip").grpc_port, behind.key)
        through = Place(f"{served.url}/gateway/shop", served.service("fleet").grpc_port, key)
        yield direct, through


def asking(model=MODEL, **options):
    """Return a request with pixels."""
    pixels = np.full((1, 48, 64, 3), 60, np.uint8)
    pixels[0, 8:28, 10:30] = (255, 0, 0)
    image = InferInput("image", pixels.shape, "UINT8")
    image.set_data_from_numpy(pixels, **options)
    return InferRequest(model, [image], request_id="7")


def plain(answer):
    """Return what an answer has, but for the result: it tells the time."""
    outputs = {each.name: each.as_numpy().tolist() for each in answer.outputs}
    outputs.pop("result")
    return answer.model_name, answer.id, outputs


async def test_rest(places):
    """Health, inference with tensors as JSON and as bytes, and errors."""
    found = []
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        for place in places:
            headers = {"Authorization": f"Bearer {place.key}"}
            assert await client.is_server_live(place.url, headers=headers) is True
            assert await client.is_server_ready(place.url, headers=headers) is True
            where = {"base_url": place.url, "model_name": MODEL}
            assert await client.is_model_ready(**where, headers=headers) is True
            answers = []
            for binary in (True, False):
                data = asking(binary_data=binary)
                # The client writes the length of this request's JSON into what it is given.
                answer = await client.infer(data=data, **where, headers={**headers})
                answers.append(plain(answer))
            assert answers[0] == answers[1]
            found.append(answers)
        assert found[0] == found[1]
        for model, key, status in (("other", places[1].key, 404), (MODEL, "nobody's", 401)):
            headers = {"apikey": key}
            with pytest.raises(httpx.HTTPStatusError) as told:
                await client.infer(places[1].url, asking(model), model_name=model, headers=headers)
            assert told.value.response.status_code == status


async def test_grpc(places):
    """Health, inference and errors."""
    found = []
    for place in places:
        headers = (("authorization", f"Bearer {place.key}"),)
        async with InferenceGRPCClient(f"127.0.0.1:{place.grpc}") as client:
            assert await client.is_server_live(headers=headers) is True
            assert await client.is_server_ready(headers=headers) is True
            assert await client.is_model_ready(MODEL, headers=headers) is True
            found.append(plain(await client.infer(asking(), headers=headers)))
            with pytest.raises(grpc.RpcError) as told:
                await client.infer(asking("other"), headers=headers)
            assert told.value.code() == grpc.StatusCode.NOT_FOUND
    assert found[0] == found[1]

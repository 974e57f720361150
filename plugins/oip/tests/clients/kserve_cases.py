"""The Open Inference Protocol as KServe's own client speaks it, over REST and gRPC."""

from __future__ import annotations

import json

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

from conftest import FAKES, POINTS, picture, register
from mataserver import testing

PNG = picture()


@pytest.fixture
async def server(tmp_path):
    """A server with the fake models, over HTTP and gRPC."""
    register(tmp_path, {f"fake-{task}": task for task in FAKES})
    settings = {"engine": "thread", "plugins": {"oip": {"grpc_port": 0}}}
    async with testing.serving(tmp_path, entry_points=POINTS, **settings) as served:
        yield served


@pytest.fixture
async def rest(server):
    """KServe's REST client."""
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        yield client


@pytest.fixture
async def rpc(server):
    """KServe's gRPC client."""
    port = server.service("oip").grpc_port
    async with InferenceGRPCClient(f"127.0.0.1:{port}") as client:
        yield client


def asking(model="fake-detect", **options):
    """Return a request with pixels and an encoded picture's answer to compare with."""
    pixels = np.full((1, 48, 64, 3), 60, np.uint8)
    pixels[0, 8:28, 10:30] = (255, 0, 0)
    image = InferInput("image", pixels.shape, "UINT8")
    image.set_data_from_numpy(pixels, **options)
    return InferRequest(model, [image], request_id="7")


def encoded():
    """Return a request with an encoded picture."""
    image = InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([PNG], dtype=object))
    return InferRequest("fake-detect", [image])


def check(answer):
    """Assert that an answer found the red box."""
    found = {output.name: output.as_numpy() for output in answer.outputs}
    assert found["boxes"].reshape(-1).tolist() == [10.0, 8.0, 30.0, 28.0]
    assert found["count"].tolist() == [1]
    (result,) = found["result"].reshape(-1)
    assert json.loads(result)["detections"][0]["label"] == "64x48"


async def test_rest_health(rest, server):
    """Live, ready, and a model that is ready once it is in memory."""
    assert await rest.is_server_live(server.url) is True
    assert await rest.is_server_ready(server.url) is True
    where = {"base_url": server.url, "headers": server.headers}
    assert await rest.is_model_ready(model_name="fake-detect", **where) is False
    await rest.infer(data=encoded(), model_name="fake-detect", **where)
    assert await rest.is_model_ready(model_name="fake-detect", **where) is True


@pytest.mark.parametrize("binary_data", [True, False])
async def test_rest_inference(rest, server, binary_data):
    """Pixels as binary data and as JSON, and an encoded picture."""
    where = {"base_url": server.url, "headers": server.headers, "model_name": "fake-detect"}
    answer = await rest.infer(data=asking(binary_data=binary_data), **where)
    check(answer)
    assert answer.id == "7"
    check(await rest.infer(data=encoded(), **where))


async def test_rest_errors(rest, server):
    """The client finds the sentence in an error."""
    with pytest.raises(httpx.HTTPStatusError, match="Model not found: nobody") as told:
        await rest.infer(server.url, asking("nobody"), model_name="nobody", headers=server.headers)
    assert told.value.response.status_code == 404
    with pytest.raises(httpx.HTTPStatusError, match="Missing Authorization"):
        await rest.infer(server.url, asking(), model_name="fake-detect")


async def test_grpc(rpc, server):
    """Health, inference and errors over gRPC."""
    headers = (("authorization", f"Bearer {server.key}"),)
    assert await rpc.is_server_live() is True
    assert await rpc.is_server_ready() is True
    assert await rpc.is_model_ready("fake-detect", headers=headers) is False
    check(await rpc.infer(asking(), headers=headers))
    check(await rpc.infer(encoded(), headers=headers))
    assert await rpc.is_model_ready("fake-detect", headers=headers) is True
    with pytest.raises(grpc.RpcError) as told:
        await rpc.infer(asking("nobody"), headers=headers)
    assert told.value.code() == grpc.StatusCode.NOT_FOUND

"""Everything that KServe's clients can ask, of a real Triton directly and by the gateway."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from both_ways import both_ways  # noqa: E402
from real_models import GIVEN as EVERY  # noqa: E402
from real_models import MODELS, TYPES  # noqa: E402

pytestmark = pytest.mark.asyncio(loop_scope="module")

REST = {"infer", "is_model_ready", "is_server_live", "is_server_ready", "explain", "close"}
RPC = {"infer", "is_model_ready", "is_server_live", "is_server_ready", "close"}
"""Whatever the clients can do; Triton explains nothing."""
GIVEN = {
    **{name: EVERY[name] for name in ("bool", "u8", "i16", "i64", "f64")},
    "f32": np.array([1.5, -0.0], np.float32),  # the client writes what is no number as no JSON
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ways(tmp_path_factory):
    """A Triton directly, and through the gateway."""
    async with both_ways(tmp_path_factory.mktemp("server")) as made:
        yield made


async def equal(ways, ask):
    """Assert that what is answered is the same both ways, to the byte; return what came of it."""
    made, answers = [], []
    for place in ways:
        place.taken()
        made.append(await ask(place))
        answers.append(place.taken())
    assert answers[0] == answers[1]
    assert answers[0], "it was asked of a server"
    return made


async def outcome(asking):
    """Return what is answered, or which error it is: of an empty answer the client makes one."""
    try:
        return await asking
    except (httpx.HTTPError, grpc.RpcError, ValueError) as error:
        return type(error).__name__


def request(model, given, **options):
    """Return a request with tensors."""
    inputs = []
    for name, value in given.items():
        made = InferInput(name, list(value.shape), TYPES.get(name, "FP32"))
        made.set_data_from_numpy(value, **options)
        inputs.append(made)
    return InferRequest(model, inputs, request_id="7")


def headers(place):
    """Return what shows who asks; the client writes into it."""
    return {"Authorization": f"Bearer {place.key}"}


def metadata(place):
    """The same for gRPC."""
    return (("authorization", f"Bearer {place.key}"),)


def test_every_method_has_its_case():
    """Whatever a client can ask is told of here, so that a new release's is not passed by."""
    for client, known in ((InferenceRESTClient, REST), (InferenceGRPCClient, RPC)):
        assert {each for each in dir(client) if not each.startswith("_")} <= known


async def test_rest(ways):
    """Readiness of models, every datatype as JSON and as bytes, and mistakes."""

    async def ask(place):
        found = []
        async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
            for name in (*MODELS, "adds/versions/9"):
                told = client.is_model_ready(place.url, name, headers=headers(place))
                found.append(await outcome(told))
            for binary in (True, False):
                data = request("same", GIVEN, binary_data=binary)
                answer = await client.infer(
                    place.url, data, model_name="same", headers=headers(place)
                )
                for name, value in GIVEN.items():
                    made = {each.name: each.as_numpy() for each in answer.outputs}[f"same_{name}"]
                    np.testing.assert_array_equal(made, value)
            wrong = request("adds", {"y": np.zeros((1, 3), np.float32)})
            asking = client.infer(place.url, wrong, model_name="adds", headers=headers(place))
            found.append(await outcome(asking))
        return found

    direct, through = await equal(ways, ask)
    assert direct == through


async def test_grpc(ways):
    """Readiness of models, every datatype, and mistakes."""

    async def ask(place):
        found = []
        async with InferenceGRPCClient(f"127.0.0.1:{place.grpc}") as client:
            found = [
                await outcome(client.is_model_ready(name, headers=metadata(place)))
                for name in MODELS
            ]
            answer = await client.infer(request("same", GIVEN), headers=metadata(place))
            made = {each.name: each.as_numpy() for each in answer.outputs}
            for name, value in GIVEN.items():
                np.testing.assert_array_equal(made[f"same_{name}"], value)
            wrong = request("adds", {"y": np.zeros((1, 3), np.float32)})
            found.append(await outcome(client.infer(wrong, headers=metadata(place))))
        return found

    direct, through = await equal(ways, ask)
    assert direct == through


async def test_an_application_lives(ways):
    """The gateway says it of the application, where a Triton's own answer has no body."""
    _, through = ways
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        assert await client.is_server_live(through.url, headers=headers(through)) is True
        assert await client.is_server_ready(through.url, headers=headers(through)) is True
    async with InferenceGRPCClient(f"127.0.0.1:{through.grpc}") as client:
        assert await client.is_server_live(headers=metadata(through)) is True
        assert await client.is_server_ready(headers=metadata(through)) is True

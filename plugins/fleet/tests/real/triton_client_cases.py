"""Everything that Triton's four clients can ask, of a real Triton directly and by the gateway."""

from __future__ import annotations

import asyncio
import functools
import queue
import sys
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from tritonclient.utils import InferenceServerException

ROOT = Path(__file__).resolve().parents[4]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).resolve().parent)]

from both_ways import both_ways, without_numbers  # noqa: E402
from real_models import GIVEN, KINDS, MODELS, TYPES  # noqa: E402
from triton_methods import (  # noqa: E402
    ABOUT_MODELS,
    ADMINISTRATION,
    INFERENCE,
    LOCAL,
    OF_AN_APPLICATION,
)

from triton_clients import KINDS as CLIENTS  # noqa: E402
from triton_clients import triton  # noqa: E402

pytestmark = pytest.mark.asyncio(loop_scope="module")

X = np.array([[1, 2, 3]], np.float32)
PATIENCE = 10.0
"""Seconds for what takes a moment."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ways(tmp_path_factory):
    """A Triton directly, and through the gateway."""
    async with both_ways(tmp_path_factory.mktemp("server")) as made:
        yield made


async def equal(ways, kind, ask):
    """Assert that what is answered is the same both ways, to the byte; return what came of it."""
    made, answers = [], []
    for place in ways:
        place.taken()
        async with triton(kind, place) as client:
            made.append(await ask(client))
        answers.append(place.taken())
    assert answers[0] == answers[1]
    assert answers[0], "it was asked of a server"
    return made


async def outcome(asking):
    """Return what is answered, or the error's words."""
    try:
        return await asking
    except InferenceServerException as error:
        return error.message()


def is_http(kind):
    """Whether a client speaks HTTP."""
    return kind.startswith("http")


@pytest.mark.parametrize("kind", CLIENTS)
async def test_every_method_has_its_case(kind):
    """Whatever a client can ask is told of here, so that a new release's is not passed by."""
    client = CLIENTS[kind].InferenceServerClient
    methods = {each for each in dir(client) if not each.startswith("_")}
    plugins = {"plugin", "register_plugin", "unregister_plugin"}
    assert methods - plugins <= (
        ABOUT_MODELS | OF_AN_APPLICATION | {*ADMINISTRATION} | INFERENCE | LOCAL
    )


@pytest.mark.parametrize("kind", CLIENTS)
async def test_what_is_told_of_models(ways, kind):
    """Whether each is ready, its description and configuration: of a version and of none."""

    async def ask(client):
        for name in MODELS:
            for version in ("", "1", "9"):
                for method in ("is_model_ready", "get_model_metadata", "get_model_config"):
                    await outcome(client.call(method, name, version))

    await equal(ways, kind, ask)


@pytest.mark.parametrize("kind", CLIENTS)
async def test_statistics(ways, kind):
    """The same but for counts and times, which go on."""
    found = []
    for place in ways:
        place.taken()
        async with triton(kind, place) as client:
            await client.infer("adds", client.input("x", X, "FP32"))
            counted = 0
            async with asyncio.timeout(PATIENCE):  # a Triton counts a moment after its answer
                while not counted:
                    place.taken()
                    described = await client.described("get_inference_statistics", "adds", "1")
                    counted = int(described["model_stats"][0]["inference_count"])
        answers = place.taken()
        found.append(without_numbers(answers) if is_http(kind) else len(answers))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", CLIENTS)
async def test_inference(ways, kind):
    """Every datatype, a version, ids, parameters, outputs by name and as classes, and mistakes."""

    async def ask(client):
        every = [client.input(name, GIVEN[name], TYPES[name]) for name in KINDS]
        result = await client.infer("same", *every, request_id="7")
        for name, value in GIVEN.items():
            np.testing.assert_array_equal(result.as_numpy(f"same_{name}"), value)
        few = ["same_i64", "same_text"]
        await client.infer("same", *every, outputs=few, model_version="1")
        x = client.input("x", X, "FP32")
        more = {"priority": 1, "timeout": 10_000_000, "parameters": {"own": "ä"}}
        result = await client.infer("adds", x, **more)
        np.testing.assert_array_equal(result.as_numpy("y"), X + 1)
        await client.call("infer", "adds", [x], outputs=[requested(client, "y", class_count=2)])
        none = client.input("x", np.zeros((0, 3), np.float32), "FP32")
        wrong = client.input("x", X.astype(np.float64), "FP64")
        flat = client.input("x", X.ravel(), "FP32")
        for given in ((none,), (wrong,), (flat,), (), (x, x), (client.input("y", X, "FP32"),)):
            await outcome(client.infer("adds", *given))
        for options in ({"model_version": "9"}, {"outputs": ["z"]}):
            await outcome(client.infer("adds", x, **options))

    await equal(ways, kind, ask)


def requested(client, name, **options):
    """Return an output that is asked for."""
    return client.module.InferRequestedOutput(name, **options)


@pytest.mark.parametrize("kind", ["http", "http-aio"])
async def test_json_and_compression(ways, kind):
    """Tensors as JSON and as bytes, and bodies that are compressed either way."""

    async def ask(client):
        x = client.module.InferInput("x", X.shape, "FP32")
        x.set_data_from_numpy(X, binary_data=False)
        await client.infer("adds", x)
        plain = [requested(client, "y", binary_data=False)]
        await client.call("infer", "adds", [x], outputs=plain)
        await client.call("infer", "adds", [client.input("x", X, "FP32")], outputs=plain)
        for way in ("gzip", "deflate"):
            packed = client.input("x", np.tile(X, (500, 1)), "FP32")
            both = {"request_compression_algorithm": way, "response_compression_algorithm": way}
            result = await client.call("infer", "adds", [packed], **both)
            np.testing.assert_array_equal(result.as_numpy("y"), np.tile(X + 1, (500, 1)))

    await equal(ways, kind, ask)


@pytest.mark.parametrize("kind", ["grpc", "grpc-aio"])
async def test_compression_by_grpc(ways, kind):
    """A message that is compressed comes as what it was."""

    async def ask(client):
        x = client.input("x", np.tile(X, (500, 1)), "FP32")
        for way in ("gzip", "deflate"):
            await client.infer("adds", x, compression_algorithm=way)

    await equal(ways, kind, ask)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # the aio client does
@pytest.mark.parametrize("rows", [5_000, 800_000], ids=["60 KB", "10 MB"])
async def test_large_tensors(ways, kind, rows):
    """What is kept, and what is over the buffer and passes through."""
    large = np.tile(X, (rows, 1))

    async def ask(client):
        result = await client.infer("adds", client.input("x", large, "FP32"))
        np.testing.assert_array_equal(result.as_numpy("y"), large + 1)

    await equal(ways, kind, ask)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("identity", [7, "a word"], ids=str)
async def test_sequences(ways, kind, identity):
    """Begun, gone on with, ended, and gone on with after that; a model takes numbers or words."""

    async def ask(client):
        sums = []
        for value, more in ((1, {"sequence_start": True}), (2, {}), (3, {"sequence_end": True})):
            given = client.input("value", np.array([[value]], np.int32), "INT32")
            asking = client.infer("sums", given, sequence_id=identity, **more)
            result = await outcome(asking)
            sums.append(result if isinstance(result, str) else int(result.as_numpy("sum")[0, 0]))
        given = client.input("value", np.array([[4]], np.int32), "INT32")
        sums.append(await outcome(client.infer("sums", given, sequence_id=identity)))
        return sums

    direct, through = await equal(ways, kind, ask)
    assert direct == through
    if identity == 7:
        assert direct[:3] == [1, 3, 6]


async def test_asynchronous_inference(ways):
    """The plain clients' own: a result that is waited for, and one that is called back with."""

    async def by_http(client):
        x = client.input("x", X, "FP32")

        def ask():
            return client._client.async_infer("adds", [x], headers=client.headers).get_result()

        loop = asyncio.get_running_loop()
        np.testing.assert_array_equal(
            (await loop.run_in_executor(client._thread, ask)).as_numpy("y"), X + 1
        )

    async def by_grpc(client):
        x, came = client.input("x", X, "FP32"), asyncio.get_running_loop().create_future()
        tell = asyncio.get_running_loop().call_soon_threadsafe

        def called(result, error):
            tell(came.set_result, error or result.as_numpy("y"))

        await client.call("async_infer", "adds", [x], called)
        np.testing.assert_array_equal(await came, X + 1)

    await equal(ways, "http", by_http)
    await equal(ways, "grpc", by_grpc)


WORDS = [b"word", b"", "schön".encode()]


def word_of(client, word):
    """Return a word that is to be spelt."""
    return client.input("word", np.array([word], dtype=object), "BYTES")


def is_last(answer):
    """Whether nothing comes after an answer, as it says itself."""
    return answer.get_response().parameters["triton_final_response"].bool_param


async def by_callbacks(client):
    """Have words spelt by the plain client, one after the other."""
    answers, inner = queue.Queue(), client._client

    def ask():
        told = lambda result, error: answers.put(error or result)  # noqa: E731
        inner.start_stream(told, headers=client.headers)
        for word in WORDS:
            given, last = [word_of(client, word)], {"enable_empty_final_response": True}
            inner.async_stream_infer("spells", given, request_id="7", **last)
            while not isinstance(answer := answers.get(timeout=60), Exception):
                if is_last(answer):
                    break
        inner.stop_stream()

    await asyncio.get_running_loop().run_in_executor(client._thread, ask)


async def by_iterating(client):
    """Have a word spelt by the asynchronous client."""

    async def asked():
        given, last = [word_of(client, WORDS[0])], {"enable_empty_final_response": True}
        yield {"model_name": "spells", "inputs": given, "request_id": "7", **last}

    stream, letters = client._client.stream_infer(asked(), headers=client.headers), b""
    async for result, error in stream:
        assert error is None
        if is_last(result):
            break
        letters += result.as_numpy("letter")[0]
    stream.cancel()
    assert letters == WORDS[0]


async def test_streams(ways):
    """Several answers to a message, of both clients of gRPC."""
    await equal(ways, "grpc", by_callbacks)
    await equal(ways, "grpc-aio", by_iterating)


@pytest.mark.parametrize("kind", CLIENTS)
async def test_what_a_consumer_may_not_ask(ways, kind):
    """Nothing of a Triton's administration, in any client's words; and the Triton is as before."""
    direct, through = ways
    async with triton(kind, through) as client:
        for method, arguments in ADMINISTRATION.items():
            with pytest.raises(InferenceServerException):
                await client.call(method, *arguments)
        for method in OF_AN_APPLICATION:
            assert await client.call(method)
        x = client.input("x", X, "FP32")
        x.set_shared_memory("region", X.nbytes)
        with pytest.raises(InferenceServerException, match="shared_memory_region"):
            await client.infer("adds", x)
    async with triton(kind, direct) as client:
        assert await client.call("is_model_ready", "adds")
        assert not functools.reduce(list.__add__, [
            [each for each in (await client.described(f"get_{memory}_shared_memory_status") or [])
             if "region" in str(each).split()] for memory in ("system", "cuda")
        ])  # fmt: skip

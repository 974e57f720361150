"""The Open Inference Protocol as Triton's clients speak it, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from conftest import FAKES, POINTS, picture, register
from mataserver import testing
from mataserver_oip import signature
from triton_clients import GRPC, KINDS, triton

PNG = picture()
SETTINGS = {"entry_points": POINTS, "engine": "thread", "max_body_mb": 0.5, **GRPC}


@pytest.fixture
async def server(data_dir):
    """A server that speaks gRPC too."""
    async with testing.serving(data_dir, **SETTINGS) as served:
        yield served


@pytest.fixture(params=KINDS)
async def client(request, server):
    """One of the clients."""
    async with triton(request.param, server) as made:
        yield made


def pixels(count=1, height=48, width=64):
    """Return pictures as arrays; the red box begins one pixel further right in each."""
    made = np.full((count, height, width, 3), 60, np.uint8)
    for number in range(count):
        made[number, 8:28, 10 + number : 30 + number] = (255, 0, 0)
    return made


async def refused(client, *inputs, model="fake-detect", **options):
    """Infer on what must be refused; return status and sentence."""
    with pytest.raises(InferenceServerException) as told:
        await client.infer(model, *inputs, **options)
    return told.value.status(), told.value.message()


BAD = {"400", "StatusCode.INVALID_ARGUMENT"}
ABSENT = {"404", "StatusCode.NOT_FOUND"}


# what there is


async def test_health_and_metadata(client):
    """Live, ready, name, version and extensions."""
    assert await client.call("is_server_live") is True
    assert await client.call("is_server_ready") is True
    server = await client.described("get_server_metadata")
    assert server["name"] == "mataserver"
    assert server["extensions"] == ["binary_tensor_data", "model_repository"]


@pytest.mark.parametrize("task", FAKES)
async def test_metadata_are_what_comes_back(client, task):
    """A model's metadata list exactly the tensors that an inference returns, in their order."""
    described = await client.described("get_model_metadata", f"fake-{task}")
    assert [each["name"] for each in described["inputs"]] == ["image", "params"]
    assert described["versions"] == ["1"]
    said = [
        (each["name"], each["datatype"], [int(size) for size in each["shape"]])
        for each in described["outputs"]
    ]
    fields = signature.outputs(task)
    assert said == [(each.name, each.datatype, [*each.shape]) for each in fields]
    result = await client.infer(f"fake-{task}", client.encoded(PNG))
    for name, datatype, shape in said:
        found = result.as_numpy(name)
        assert found.shape[0] == 1
        assert all(a in {-1, b} for a, b in zip(shape, found.shape, strict=True))
        kinds = {"BYTES": "O", "FP32": "f", "INT32": "i", "INT64": "i", "BOOL": "b"}
        assert found.dtype.kind == kinds[datatype]


async def test_names_with_slashes(client, data_dir):
    """A hub's names work in every call, also those that end like a route."""
    names = ("org/name", "org/ready/infer", "a/versions/1")
    register(data_dir, dict.fromkeys(names, "detect") | {"fake-detect": "detect"})
    for name in names if client.kind.startswith("grpc") else names[:1]:
        described = await client.described("get_model_metadata", name)
        assert described["name"] == name
        assert await client.call("is_model_ready", name) is False


async def test_versions(client):
    """Every model has the version 1 and no other."""
    result = await client.infer("fake-detect", client.encoded(PNG), model_version="1")
    assert result.get_response()
    assert await client.call("is_model_ready", "fake-detect", "1") is True
    status, said = await refused(client, client.encoded(PNG), model_version="2")
    assert status in ABSENT
    assert said == "Model not found: fake-detect version 2"


async def test_the_repository(client):
    """Models are loaded and unloaded, and the index and readiness tell of it."""

    async def state():
        index = await client.described("get_model_repository_index")
        models = index["models"] if isinstance(index, dict) else index
        (found,) = [each for each in models if each["name"] == "fake-detect"]
        return found["state"]

    assert await state() == "UNAVAILABLE"
    await client.call("load_model", "fake-detect")
    assert await state() == "READY"
    assert await client.call("is_model_ready", "fake-detect") is True
    await client.call("unload_model", "fake-detect")
    assert await state() == "UNAVAILABLE"
    assert await client.call("is_model_ready", "fake-detect") is False


async def test_the_repository_refuses(client):
    """Unknown models are not found, and a model's configuration is not set from outside."""
    for call in ("load_model", "unload_model"):
        with pytest.raises(InferenceServerException) as told:
            await client.call(call, "nobody")
        assert told.value.status() in ABSENT
    with pytest.raises(InferenceServerException, match="configuration") as told:
        await client.call("load_model", "fake-detect", config="{}")
    assert told.value.status() in BAD


# inference


async def test_an_encoded_image(client):
    """A PNG in BYTES; the answer carries the request's id, the model and its version."""
    result = await client.infer("fake-detect", client.encoded(PNG), request_id="abc")
    response = result.get_response()
    read = response.get if isinstance(response, dict) else lambda name: getattr(response, name)
    assert [read(name) for name in ("id", "model_name", "model_version")] == [
        *("abc", "fake-detect", "1")
    ]
    assert result.as_numpy("boxes").tolist() == [[[10.0, 8.0, 30.0, 28.0]]]
    assert result.as_numpy("labels").tolist() == [[b"64x48"]]
    assert result.as_numpy("scores").tolist() == [[np.float32(0.9)]]
    (text,) = result.as_numpy("result")
    assert json.loads(text)["detections"][0]["bbox"] == [10.0, 8.0, 30.0, 28.0]


async def test_pixels(client):
    """Raw pixels of one image, [H, W, 3], give what the same image encoded gives."""
    result = await client.infer("fake-segment", client.pixels(pixels()[0]))
    encoded = await client.infer("fake-segment", client.encoded(PNG))
    for name in ("count", "boxes", "scores", "labels", "masks"):
        assert np.array_equal(result.as_numpy(name), encoded.as_numpy(name)), name
    assert result.as_numpy("masks").shape == (1, 2, 48, 64)
    assert result.as_numpy("masks")[0, 0, 8:28, 10:30].all()
    assert result.as_numpy("masks").sum() == 400


async def test_a_batch_of_pixels(client):
    """Images of one tensor are answered in their order."""
    result = await client.infer("fake-detect", client.pixels(pixels(5)))
    assert result.as_numpy("boxes")[:, 0, 0].tolist() == [10.0, 11.0, 12.0, 13.0, 14.0]
    assert result.as_numpy("count").tolist() == [1] * 5


async def test_a_batch_of_encoded_images(client):
    """So are encoded ones, of different sizes, and shaped as a column."""
    other = picture(20, 10, box=(1, 2, 3, 4))
    for shape in ((2,), (2, 1)):
        images = np.array([PNG, other], dtype=object).reshape(shape)
        result = await client.infer("fake-detect", client.input("image", images, "BYTES"))
        assert result.as_numpy("labels").tolist() == [[b"64x48"], [b"20x10"]]


async def test_parameters(client):
    """Parameters stand in the request or in the tensor ``params``, for all images or for each."""
    plain = await client.infer("fake-classify", client.encoded(PNG), parameters={"top_k": 2})
    assert plain.as_numpy("labels").shape == (1, 2)
    own = client.encoded(b'{"top_k": 3}', name="params")
    tensor = await client.infer("fake-classify", client.encoded(PNG, PNG), own)
    assert tensor.as_numpy("count").tolist() == [3, 3]
    each = client.encoded(b'{"top_k": 1}', b'{"top_k": 4}', name="params")
    both = await client.infer("fake-classify", client.encoded(PNG, PNG), each)
    assert both.as_numpy("count").tolist() == [1, 4]


async def test_outputs_that_are_asked_for(client):
    """Only what is asked for comes back, in that order."""
    result = await client.infer(
        "fake-detect", client.encoded(PNG), outputs=["labels", "result", "boxes"]
    )
    response = result.get_response()
    found = response["outputs"] if isinstance(response, dict) else response.outputs
    names = [each["name"] if isinstance(each, dict) else each.name for each in found]
    assert names == ["labels", "result", "boxes"]
    assert result.as_numpy("scores") is None


async def test_priority_and_timeout_are_accepted(client):
    """What Triton's clients say about queueing does no harm."""
    result = await client.infer("fake-detect", client.encoded(PNG), priority=1, timeout=1_000_000)
    assert result.as_numpy("count").tolist() == [1]


async def test_images_of_a_batch_run_together(data_dir):
    """The images of one request are batched as requests that come together are."""
    async with (
        testing.serving(data_dir, **SETTINGS) as served,
        triton("http-aio", served) as client,
    ):
        await client.call("load_model", "fake-detect")
        await client.infer("fake-detect", client.pixels(pixels(9)), parameters={"seconds": 0.01})
        composed = served.composed
        with composed.pool.lease_worker(composed.catalog.plan("fake-detect")) as worker:
            sizes = await worker.call("batch_sizes", (), {})
    assert sum(sizes) == 9
    assert max(sizes) == 4


# what is refused


@pytest.mark.parametrize(
    ("array", "datatype", "said"),
    [
        (np.zeros((4, 4), np.uint8), "UINT8", "expected pixels"),
        (np.zeros((4, 4, 4), np.uint8), "UINT8", "expected pixels"),
        (np.zeros((0, 4, 4, 3), np.uint8), "UINT8", "expected pixels"),
        (np.zeros((1, 1, 4, 4, 3), np.uint8), "UINT8", "expected pixels"),
        (np.zeros((4, 4, 3), np.float32), "FP32", "expected BYTES or UINT8, got FP32"),
        (np.zeros((4, 4, 3), np.int32), "INT32", "expected BYTES or UINT8, got INT32"),
        (np.zeros((4, 4, 3), np.float16), "FP16", "the datatype 'FP16' is not taken"),
        (np.zeros((65, 1, 1, 3), np.uint8), "UINT8", "1 to 64 images"),
        (np.array([PNG] * 65, dtype=object), "BYTES", "at most 64 elements"),
        (np.array([b"junk"], dtype=object), "BYTES", "image cannot be decoded"),
        (np.array([b""], dtype=object), "BYTES", "image is empty"),
    ],
)
async def test_images_that_are_refused(client, array, datatype, said):
    """A wrong datatype, a wrong shape, too many images and broken ones."""
    status, message = await refused(client, client.input("image", array, datatype))
    assert status in BAD
    assert said in message


async def test_one_broken_image_of_several(client):
    """The sentence tells which one it is."""
    fine, much = b"{}", b'{"top_k": 0}'
    for inputs, begin in (
        ((client.encoded(PNG, b"junk", PNG),), "image 1: image cannot be decoded"),
        ((client.encoded(PNG, PNG, b""),), "image 2: image is empty"),
        (
            (client.encoded(PNG, PNG), client.encoded(fine, much, name="params")),
            "image 1: params.top_k: expected",
        ),
        (
            (client.encoded(PNG, PNG), client.encoded(fine, b"[", name="params")),
            "input 'params': each element must be a JSON object: element 1",
        ),
    ):
        status, said = await refused(client, *inputs)
        assert status in BAD
        assert said.startswith(begin)


async def test_inputs_that_are_refused(client):
    """Unknown, doubled and missing inputs, and params that are no objects."""
    image, junk = client.encoded(PNG), client.encoded(b"[1]", name="params")
    empty = client.encoded(b"{}", b"{}", name="params")
    for inputs, said in (
        ((image, client.encoded(PNG, name="other")), "input 'other' is not one of this model"),
        ((image, image), "input 'image' is given twice"),
        ((client.encoded(b"{}", name="params"),), "input 'image' is missing"),
        ((image, junk), "must be a JSON object"),
        ((image, empty), "expected 1 element, got 2"),
        ((image, client.input("params", np.zeros(1, np.uint8), "UINT8")), "expected BYTES"),
    ):
        status, message = await refused(client, *inputs)
        assert status in BAD
        assert said in message


async def test_parameters_that_are_refused(client):
    """Unknown and wrong parameters, those given twice, and sequences."""
    twice = client.encoded(b'{"top_k": 3}', name="params")
    image = client.encoded(PNG)
    for inputs, options, said in (
        ((image,), {"parameters": {"what": 1}}, "params.what: unknown parameter"),
        ((image,), {"parameters": {"top_k": 0}}, "params.top_k: expected `int` >= 1"),
        ((image,), {"parameters": {"threshold": 0.5}}, "use 'confidence'"),
        ((image, twice), {"parameters": {"top_k": 3}}, "params.top_k: given twice"),
        ((image,), {"sequence_id": 7, "sequence_start": True}, "there are no sequences"),
    ):
        status, message = await refused(client, *inputs, **options)
        assert status in BAD
        assert said in message


async def test_outputs_that_are_refused(client):
    """Unknown and doubled outputs, and classification on the server."""
    image = client.encoded(PNG)
    status, said = await refused(client, image, outputs=["masks"])
    assert status in BAD
    assert said == ("output 'masks' is not one of this model: count, boxes, scores, labels, result")
    status, said = await refused(client, image, outputs=["boxes", "boxes"])
    assert (status in BAD, said) == (True, "an output is asked for twice")
    classes = client.module.InferRequestedOutput("scores", class_count=3)
    with pytest.raises(InferenceServerException, match="'scores': classification is not") as told:
        await client.call("infer", "fake-detect", [image], outputs=[classes])
    assert told.value.status() in BAD


async def test_shared_memory_is_refused(client):
    """Inputs and outputs in shared memory are refused by name."""
    made = client.module.InferInput("image", [1], "BYTES")
    made.set_shared_memory("region", 10)
    status, said = await refused(client, made)
    assert (status in BAD, "shared memory" in said) == (True, True)
    wanted = client.module.InferRequestedOutput("boxes")
    wanted.set_shared_memory("region", 10)
    with pytest.raises(InferenceServerException, match="'boxes': shared memory is not"):
        await client.call("infer", "fake-detect", [client.encoded(PNG)], outputs=[wanted])


async def test_unknown_models(client):
    """No such model: not found, in every call."""
    status, said = await refused(client, client.encoded(PNG), model="org/nobody")
    assert (status in ABSENT, said) == (True, "Model not found: org/nobody")
    with pytest.raises(InferenceServerException) as told:
        await client.described("get_model_metadata", "nobody")
    assert told.value.status() in ABSENT


async def test_keys(client):
    """Without a key nothing but health; a wrong key is told from none."""
    assert await client.call("is_server_live", headers={}) is True
    with pytest.raises(InferenceServerException) as told:
        await client.call("get_server_metadata", headers={})
    assert told.value.status() in {"401", "StatusCode.UNAUTHENTICATED"}
    wrong = {"authorization": "Bearer wrong"}
    status, said = await refused(client, client.encoded(PNG), headers=wrong)
    assert status in {"403", "StatusCode.UNAUTHENTICATED"}
    assert said == "Invalid API key"


async def test_a_request_that_is_too_large(client):
    """Above ``max_body_mb`` a request is refused, and the next one is answered."""
    large = client.pixels(np.zeros((500, 500, 3), np.uint8))
    status, _ = await refused(client, large)
    assert status in {"413", "StatusCode.RESOURCE_EXHAUSTED"}
    assert (await client.infer("fake-detect", client.encoded(PNG))).as_numpy("count") == 1


@pytest.mark.parametrize(
    ("behave", "codes"),
    [
        ("raise", {"500", "StatusCode.INTERNAL"}),
        ("memory", {"507", "StatusCode.RESOURCE_EXHAUSTED"}),
        ("garbage", {"500", "StatusCode.INTERNAL"}),
    ],
)
async def test_models_that_fail(client, behave, codes):
    """A model's failure is the server's, and tells nothing of its inside."""
    image = client.encoded(PNG)
    status, said = await refused(client, image, parameters={"behave": behave})
    assert status in codes
    assert "secret" not in said


async def test_many_at_once(server):
    """Calls of several clients at a time are all answered."""
    async with (
        triton("grpc-aio", server) as rpc,
        triton("http-aio", server) as rest,
    ):
        calls = [
            client.infer("fake-detect", client.pixels(pixels(2)))
            for client in (rpc, rest)
            for _ in range(10)
        ]
        for result in await asyncio.gather(*calls):
            assert result.as_numpy("boxes")[:, 0, 0].tolist() == [10.0, 11.0]

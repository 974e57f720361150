"""The Open Inference Protocol over gRPC: what Triton's clients do not show."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys

import aiohttp
import grpc
import pytest
import tritonclient.grpc
from google.protobuf import descriptor_pool
from rpc_calls import KEY, PNG, THREADS, call, infer, refused
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from api_answers import until
from cli_terminal import Terminal, serving
from conftest import POINTS, picture
from mataserver import MataError, testing
from mataserver_oip.rpc import messages
from mataserver_oip.rpc.server import SERVICE
from triton_clients import GRPC, grpc_port, triton

SETTINGS = {**THREADS, "body_timeout": 0.3}


@pytest.fixture
async def server(data_dir):
    """A server that speaks gRPC too."""
    async with testing.serving(data_dir, **SETTINGS) as served:
        yield served


@pytest.fixture
async def channel(server):
    """A channel to it."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as made:
        yield made


async def test_contents_in_contents_out(channel):
    """A request without raw bytes is answered without, in the lists of each datatype."""
    answer = await call(channel, "ModelInfer", infer(id="7"))
    assert (answer.model_name, answer.model_version, answer.id) == ("fake-detect", "1", "7")
    assert not answer.raw_output_contents
    found = {each.name: each.contents for each in answer.outputs}
    assert list(found["count"].int_contents) == [1]
    assert list(found["boxes"].fp32_contents) == [10.0, 8.0, 30.0, 28.0]
    assert list(found["labels"].bytes_contents) == [b"64x48"]
    answer = await call(channel, "ModelInfer", infer("fake-segment"))
    found = {each.name: each.contents for each in answer.outputs}
    assert sum(found["masks"].bool_contents) == 400
    answer = await call(channel, "ModelInfer", infer("fake-track"))
    found = {each.name: each.contents for each in answer.outputs}
    assert list(found["track_ids"].int64_contents) == [-1]


async def test_pixels_in_contents(channel):
    """Pixels may be numbers of the list for unsigned integers."""
    request = service_pb2.ModelInferRequest(model_name="fake-detect")
    image = request.inputs.add(name="image", datatype="UINT8", shape=[1, 2, 3])
    image.contents.uint_contents.extend([60, 60, 60, 255, 0, 0])
    answer = await call(channel, "ModelInfer", request)
    found = {each.name: each.contents for each in answer.outputs}
    assert list(found["boxes"].fp32_contents) == [1.0, 0.0, 2.0, 1.0]


async def test_the_key_as_metadata_of_its_own(channel):
    """``x-api-key`` is a key too: the right one is served, nobody knows who has a wrong one."""
    request = service_pb2.ServerMetadataRequest()
    answer = await call(channel, "ServerMetadata", request, (("x-api-key", "test-key"),))
    assert answer.name == "mataserver"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "ServerMetadata", request, (("x-api-key", "wrong"),))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_a_key_that_is_there_twice(channel, name):
    """Of two that differ nobody can say which one counts: the call is refused."""
    right = "Bearer test-key" if name == "authorization" else "test-key"
    for metadata in (((name, "wrong"), (name, right)), ((name, right), (name, right))):
        request = service_pb2.ServerMetadataRequest()
        with pytest.raises(grpc.aio.AioRpcError, match="is there 2 times") as caught:
            await call(channel, "ServerMetadata", request, metadata)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_too_many_numbers_for_a_list(channel):
    """Millions of numbers come as raw bytes only."""
    request = infer("fake-depth")
    request.inputs[0].contents.bytes_contents[0] = picture(2_100, 2_000)
    code, said = await refused(channel, "ModelInfer", request)
    assert (code, said) == (
        "INVALID_ARGUMENT",
        "output 'depth': over 4000000 numbers: ask for binary data",
    )


async def test_parameters_of_every_type(channel):
    """Whole numbers, fractions and text are what they would be in JSON."""
    request = infer("fake-classify")
    request.parameters["top_k"].uint64_param = 3
    request.parameters["confidence"].double_param = 0.25
    request.parameters["behave"].string_param = "ok"
    request.parameters["normalize"].bool_param = False
    answer = await call(channel, "ModelInfer", request)
    assert list(answer.outputs[0].contents.int_contents) == [3]
    request.parameters["top_k"].string_param = "3"
    assert await refused(channel, "ModelInfer", request) == (
        "INVALID_ARGUMENT",
        "params.top_k: expected `int`, got `str`",
    )
    request.parameters["top_k"].Clear()
    assert await refused(channel, "ModelInfer", request) == (
        "INVALID_ARGUMENT",
        "parameters.top_k: no value",
    )


async def test_inputs_that_do_not_add_up(channel):
    """Raw bytes for another number of inputs, both forms at once, and negative shapes."""
    request = infer(raw_input_contents=[b"a", b"b"])
    code, said = await refused(channel, "ModelInfer", request)
    assert (code, said) == ("INVALID_ARGUMENT", "raw_input_contents: 2 elements for 1 inputs")
    request = infer(raw_input_contents=[b"a"])
    code, said = await refused(channel, "ModelInfer", request)
    assert (code, said) == ("INVALID_ARGUMENT", "input 'image': contents beside raw_input_contents")
    request = infer()
    request.inputs[0].shape[0] = -1
    code, said = await refused(channel, "ModelInfer", request)
    assert (code, "shape" in said) == ("INVALID_ARGUMENT", True)
    request = infer()
    request.inputs[0].datatype = "FP16"
    code, said = await refused(channel, "ModelInfer", request)
    assert (code, said) == ("INVALID_ARGUMENT", "input 'image': the datatype 'FP16' is not taken")
    code, said = await refused(channel, "ModelInfer", service_pb2.ModelInferRequest())
    assert (code, said) == ("NOT_FOUND", "Model not found: ")


async def test_calls_without_a_message(server, channel):
    """A client that sends nothing is told so, at once or after the time for a body."""
    method = channel.stream_unary(f"/{SERVICE}/ModelInfer")
    nothing = method(metadata=KEY)
    await nothing.done_writing()
    assert await nothing.code() == grpc.StatusCode.INVALID_ARGUMENT
    silent = method(metadata=KEY)
    assert await silent.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert await silent.details() == "The message did not arrive in time"


async def test_the_key_is_looked_at_before_the_message(channel):
    """Without a key a client is refused though it never sends its message."""
    method = channel.stream_unary(f"/{SERVICE}/ModelInfer")
    assert await method().code() == grpc.StatusCode.UNAUTHENTICATED


async def test_methods_that_are_not_there(channel):
    """What this server does not offer is unimplemented."""
    request = service_pb2.ModelStatisticsRequest()
    assert (await refused(channel, "ModelStatistics", request))[0] == "UNIMPLEMENTED"


async def test_calls_are_counted(server, channel):
    """Calls stand in the metrics with their method and status, soon after they are answered."""
    await call(channel, "ServerLive", service_pb2.ServerLiveRequest(), metadata=())
    await refused(channel, "ModelInfer", infer("nobody"))
    prefix = f'mataserver_requests_total{{method="gRPC",route="/{SERVICE}'
    wanted = (
        f'{prefix}/ServerLive",status="OK"}} 1.0',
        f'{prefix}/ModelInfer",status="NOT_FOUND"}} 1.0',
    )
    async with asyncio.timeout(10), aiohttp.ClientSession(server.url) as http:
        text = ""
        while not all(each in text for each in wanted):
            await asyncio.sleep(0.01)
            async with http.get("/metrics") as response:
                text = await response.text()


async def test_a_shutdown_waits_for_calls(data_dir):
    """A call that runs when the server is stopped is answered; a new one is not."""
    running = None
    async with testing.serving(data_dir, **SETTINGS) as served:
        port = grpc_port(served)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        request = infer()
        await call(channel, "ModelInfer", request)
        request.parameters["seconds"].double_param = 0.5
        running = asyncio.create_task(call(channel, "ModelInfer", request))
        await until(lambda: served.composed.budget.taken > 0)
    answer = await running
    assert list(answer.outputs[0].contents.int_contents) == [1]
    code, _ = await refused(channel, "ModelInfer", infer())
    assert code == "UNAVAILABLE"
    await channel.close()


async def test_with_worker_processes(data_dir):
    """Calls and models in processes of their own get along, and a worker's death is an error."""
    async with (
        testing.serving(data_dir, **{**THREADS, "engine": "process"}) as served,
        triton("grpc-aio", served) as client,
    ):
        image = client.encoded(PNG)
        with pytest.raises(InferenceServerException, match="worker") as told:
            await client.infer("fake-detect", image, parameters={"behave": "exit"})
        assert told.value.status() in {"StatusCode.INTERNAL", "StatusCode.UNAVAILABLE"}
        assert (await client.infer("fake-detect", image)).as_numpy("count").tolist() == [1]


async def test_a_port_that_is_taken(data_dir):
    """The server does not start on a port that somebody else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(MataError, match=r"cannot listen on .* for gRPC"):
            async with testing.serving(
                data_dir, entry_points=POINTS, plugins={"oip": {"grpc_port": port}}
            ):
                pass


def test_the_command_serves_grpc(tmp_path, monkeypatch):
    """``mataserver serve``, on the loop it uses, tells its port in the log and stops cleanly."""
    terminal = Terminal(tmp_path, monkeypatch)
    monkeypatch.setenv("MATA_SERVER_GRPC_PORT", "0")
    with serving(terminal) as server:
        port = re.search(r"gRPC on 127\.0\.0\.1:(\d+)", server.log)[1]
        headers = {"authorization": f"Bearer {(terminal.data / 'api_key').read_text().strip()}"}
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.get_server_metadata(headers=headers).name == "mataserver"
    assert "Traceback" not in server.log


def test_our_messages_are_in_a_pool_of_their_own():
    """They are Triton's, field by field, and yet not in the pool that its library uses."""
    for name, ours in messages.TYPES.items():
        with pytest.raises(KeyError):
            descriptor_pool.Default().FindFileByName(ours.DESCRIPTOR.file.name)
        theirs = getattr(service_pb2, name, None)
        if theirs is None:  # theirs is within another message, or a map's entry
            continue
        assert ours is not theirs
        described = [
            {(field.number, field.name, field.type, field.is_repeated) for field in kind.fields}
            for kind in (ours.DESCRIPTOR, theirs.DESCRIPTOR)
        ]
        assert described[0] == described[1], name


def test_grpc_is_imported_only_when_it_is_turned_on(tmp_path):
    """Without the setting a server neither needs nor imports the extra."""
    code = (
        "import sys; from mataserver import config; from mataserver.app import composition;"
        f"composition.build(config.load(environ={{}}, data_dir={str(tmp_path)!r}));"
        "print(sorted({'grpc', 'google.protobuf'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_extra_is_named_when_it_is_missing(tmp_path):
    """With the setting but without the packages the start tells what to install."""
    code = (
        "import asyncio, sys; sys.modules['grpc'] = None\n"
        "from pathlib import Path\n"
        "from mataserver import MataError, testing\n"
        "async def main():\n"
        f"    async with testing.serving(Path({str(tmp_path)!r}),"
        f" entry_points=testing.installed('oip'), **{GRPC!r}): pass\n"
        "try: asyncio.run(main())\n"
        "except MataError as error: print(error.detail)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "grpc_port needs a package: pip install 'mataserver-oip[grpc]'"

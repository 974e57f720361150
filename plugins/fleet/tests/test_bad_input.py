"""What nobody should send: odd names, broken connections, Tritons that say what no text holds."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from onnx_files import adding
from stand_in_fleet import until
from test_models import CONFIG, form, push

from mataserver_fleet.triton_answers import TritonError, Unreachable
from mataserver_fleet.triton_push import Push

pytestmark = pytest.mark.long

ONNX = {"1/model.onnx": adding(1)}


def labelled(name):
    """Return a configuration whose labels are in a file of that name."""
    return CONFIG.replace("labels.txt", name)


ODD = [
    ({"1/a": b"x", "1/a/b": b"y"}, "'a' is a file and a folder"),
    ({"b/c": b"x", "b/c/d": b"y"}, "'b/c' is a file and a folder"),
    ({"config.pbtxt/x": b"x"}, "'config.pbtxt' is the server's own name"),
    ({"config.pbtxt": labelled(".mataserver.json"), ".mataserver.json": b"{}"},
     "'.mataserver.json' is the server's own name"),
    ({"config.pbtxt": labelled("2"), "2": b"milk"}, "'2' has the name of a version"),
    ({"01/model.onnx": b"x"}, "'01' is not a version"),
    ({"0/model.onnx": b"x"}, "'0' is not a version"),
    ({"-1/model.onnx": b"x"}, "'-1' is not a version"),
    ({"1000000000/model.onnx": b"x"}, "'1000000000' is not a version"),
    ({"configs/night.pbtxt": b'backend: "python"'}, "another configuration"),
    ({"1/model\u202eyp.x": b"x"}, "must be a path"),
    ({"1/model.py ": b"x"}, "must be a path"),
    ({"1/ x": b"x"}, "must be a path"),
    ({"1/" + "x" * 241: b"x"}, "must be a path"),
    ({"1/.model.onnx.new": b"x"}, "must be a path"),
    ({"config.pbtxt": labelled("a") + """parameters {
        key: "CPU_EXTENSION_PATH" value { string_value: "/tmp/x" } }"""}, "CPU_EXTENSION_PATH"),
    ({"config.pbtxt": labelled("a") + """optimization { execution_accelerators {
        gpu_execution_accelerator [ { name: "tensorrt" parameters {
        key: "trt_extra_plugin_lib_paths" value: "/tmp/x" } } ] } }"""},
     "trt_extra_plugin_lib_paths"),
]  # fmt: skip


async def test_odd_files(client):
    """What no folder holds, what a Triton takes for something else, what deceives, what is code."""
    for files, said in ODD:
        asked = form({**ONNX, **files}, name="m")
        status, answer = await client.ask("POST", "/api/models", data=asked)
        assert (status, said in answer["detail"]) == (400, True), (files, answer)
    assert (await client.ask("GET", "/api/models"))[1]["total"] == 0
    for name in ("1/.hidden", "1/" + "x" * 240, "1/a%2e%2e", "1/é", "wärme/x", "1/libs.txt"):
        await push(client, "m", {**ONNX, name: b"x"})
        assert (await client.ask("DELETE", "/api/models/m"))[0] == 200


async def test_a_text_that_no_database_holds(client):
    """It is told as what it is, and not as a database that is away."""
    await client.made("/api/apps", {"name": "shop"})
    for method, path, body in (
        ("POST", "/api/apps", {"name": "b", "ip": "a\0b"}),
        ("PATCH", "/api/apps/shop", {"ip": "\0"}),
        ("PATCH", "/api/apps/shop", {"host": "\0"}),
    ):
        status, answer = await client.ask(method, path, json=body)
        assert (status, answer["error"].startswith(next(iter({"ip", "host"} & set(body))))) == (
            422,
            True,
        ), answer


async def broken(client, path, body, length):
    """Send a part of a form and hang up."""
    place = urlsplit(client.server.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.server.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


async def test_an_upload_that_breaks_off(client, tmp_path, caplog):
    """It leaves nothing, and no version but those that there were."""
    caplog.set_level(logging.ERROR)
    await push(client, "m", {"model.onnx": adding(1)})
    part = b'--b\r\nContent-Disposition: form-data; name="files[]"; filename="model.onnx"\r\n\r\n'
    uploads = tmp_path / "fleet" / "uploads"
    for path in ("/api/models/m/versions", "/api/models/m/versions?load=true"):
        _, writer = await broken(client, path, part + b"x" * 300_000, 1_000_000)
        await until(lambda: asyncio.sleep(0, any(uploads.iterdir())))
        writer.transport.abort()
        await until(lambda: asyncio.sleep(0, not any(uploads.iterdir())))
    _, model = await client.ask("GET", "/api/models/m")
    assert [each["version"] for each in model["versions"]] == ["1"]
    assert caplog.records == []


async def test_three_gigabytes_at_once(client):
    """More than a model may have is refused by its length, before a byte of it is read."""
    await push(client, "m", {"model.onnx": adding(1)})
    for path in ("/api/models", "/api/models/m/versions"):
        reader, writer = await broken(client, path, b"", 3_000_000_000)
        async with asyncio.timeout(10):
            assert b" 413 " in await reader.readline()
        writer.close()


async def test_a_network_that_breaks_amid_a_push(fleets):
    """The version before serves on at that Triton, and the new one is there once it can be."""
    taken = []

    async def cut(request):
        taken.append(await request.content.read(100))
        request.transport.abort()
        return web.Response()

    async with fleets(2) as fleet:
        await fleet.load()
        cured, other = fleet.tritons
        cured.faults = {"/m/load": cut}
        path = "/api/models/m/versions?load=true"
        status, told = await fleet.client.ask("POST", path, data=form({"model.onnx": adding(2)}))
        assert (status, told["status"], told["version"]) == (502, "partial", "2")
        assert [each["status"] for each in told["tritons"]] == ["waiting", "ok"]
        assert told["tritons"][0]["reason"]
        assert taken, "the push began"
        assert cured.models["m"]["files"] == {"1/model.onnx": adding(1)}
        assert other.models["m"]["files"] == {"2/model.onnx": adding(2)}
        _, model = await fleet.client.ask("GET", "/api/models/m")
        assert [each["versions"] for each in model["tritons"]] == [["1"], ["2"]]
        cured.faults = {}
        await fleet.model("ready")
        assert cured.models["m"]["files"] == {"2/model.onnx": adding(2)}


def test_a_reason_that_no_text_holds():
    """What a Triton says is kept without what no database takes, and as far as it is read."""
    assert Unreachable("gRPC: no\0room").detail == "gRPC: noroom"
    assert len(TritonError("x" * 100_000).detail) == 4_000


async def test_what_a_triton_says_of_itself(fleets):
    """Whatever it says is told, and the state that goes with it."""
    said = "no\0room " + "x" * 100_000

    async def refuse(_request):
        return web.json_response({"error": said}, status=503)

    async def other(_request):
        return web.json_response({"name": "ngi\0nx"})

    async with fleets(1) as fleet:
        (triton,) = fleet.tritons
        triton.faults = {"/m/load": refuse}
        status, told = await fleet.load()
        assert (status, told["tritons"][0]["reason"][:8]) == (502, "noroom x")
        for triton.faults in ({"/v2": other}, {"/live": refuse}):
            assert "\0" not in (await fleet.state(0, "unready"))["reason"]
        triton.faults = {}
        await fleet.state(0, "ready")
        assert (await fleet.load())[0] == 200


async def test_a_push_that_is_given_up_leaves_no_file_open(tmp_path):
    """What it read from is closed, though nobody went on to its end."""
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x" * 3_000_000)
    with contextlib.closing(Push({}, {"1/model.onnx": file})) as push:
        pieces = aiter(push)
        while len(await anext(pieces)) < 1_000:
            pass
        assert file in opened()
    assert file not in opened()
    await pieces.aclose()


def opened():
    """Return what this process has open."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(each.readlink())
    return found


async def test_a_model_that_goes_under_traffic(fleets):
    """Its requests are answered until it goes, and then are told that there is none."""

    async def infer(request):
        await request.read()
        return web.json_response({"model_name": "m", "outputs": []})

    async with fleets(2) as fleet:
        for triton in fleet.tritons:
            triton.faults = {"/m/infer": infer}
        assert (await fleet.load())[0] == 200
        await fleet.client.made("/api/apps", {"name": "shop"})
        await fleet.client.made("/api/apps/shop/routes/m")
        key = (await fleet.client.made("/api/apps/shop/consumers/till"))["key"]
        found, stopped = [], asyncio.Event()

        async def ask():
            while not stopped.is_set():
                status, _ = await fleet.client.ask(
                    "POST", "/gateway/shop/v2/models/m/infer", "",
                    headers={"apikey": key}, data=b"{}",
                )  # fmt: skip
                found.append(status)

        asking = [asyncio.ensure_future(ask()) for _ in range(4)]
        await until(lambda: asyncio.sleep(0, found.count(200) > 20))
        assert (await fleet.client.ask("DELETE", "/api/models/m"))[0] == 409
        assert (await fleet.client.ask("DELETE", "/api/models/m?force=true"))[0] == 200
        gone = len(found)
        await until(lambda: asyncio.sleep(0, len(found) > gone + 40))
        stopped.set()
        await asyncio.gather(*asking)
        # Four were under way when it was answered; 503 is what one is told while it is unloaded.
        assert set(found[:gone]) <= {200, 404, 503}
        assert set(found[gone + 4 :]) == {404}
        assert not any(triton.models for triton in fleet.tritons)


async def test_a_piece_that_is_another_files(client):
    """Each file of each version has pieces of its own: one does not follow on another's."""
    await push(client, "m", {"model.onnx": adding(1)})
    path, data = "/api/models/m/versions", adding(2)
    digest = hashlib.sha256(data).hexdigest()
    first = form({"model.onnx": data[:40]}, offset=0)
    assert (await client.ask("POST", path, data=first))[0] == 202
    for name, fields, wanted in (
        ("other.onnx", {"offset": 40}, 0),
        ("model.onnx", {"offset": 40, "version": 7}, 0),
        ("model.onnx", {"offset": 10**14}, 40),
    ):
        asked = form({name: data[40:]}, **fields)
        status, answer = await client.ask("POST", path, data=asked)
        assert (status, answer["offset"]) == (409, wanted), (name, fields)
    last = form({"model.onnx": data[40:]}, offset=40, check=digest)
    assert (await client.ask("POST", path, data=last))[0] == 201

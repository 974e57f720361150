"""Models and their files through a real server, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import hashlib
import io

import aiohttp
from onnx_files import adding

OK = (200, {"status": "ok"})
CONFIG = """backend: "onnxruntime" max_batch_size: 0
input { name: "x" data_type: TYPE_FP32 dims: [-1, 3] }
output { name: "y" data_type: TYPE_FP32 dims: [-1, 3] label_filename: "labels.txt" }
"""


def form(files, **fields):
    """Return a form with files by their names."""
    made = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for name, value in fields.items():
        made.add_field(name, str(value))
    for name, content in files.items():
        data = io.BytesIO(content.encode() if isinstance(content, str) else content)
        made.add_field("files[]", data, filename=name, content_type="application/octet-stream")
    return made


async def push(client, name, files, status=201, **fields):
    """Make a model."""
    found, answer = await client.ask("POST", "/api/models", data=form(files, name=name, **fields))
    assert found == status, answer
    return answer


async def test_models(client):
    """A model is made of one file, listed, read, described and removed."""
    made = await push(client, "shelf", {"model.onnx": adding(1)})
    assert (made["name"], made["latest_version"], made["state"]) == ("shelf", "1", "unloaded")
    assert (made["inference_count"], made["last_inference"]) == ("0", None)
    (version,) = made["versions"]
    assert version["files"][0]["path"] == "1/model.onnx"
    assert version["files"][0]["digest"] == hashlib.sha256(adding(1)).hexdigest()
    assert version["size"] == len(adding(1))
    for identity in ("shelf", made["id"]):
        status, one = await client.ask("GET", f"/api/models/{identity}")
        assert (status, one) == (200, {**made, "config": {}})
    status, listed = await client.ask("GET", "/api/models")
    assert (status, listed["total"], listed["models"][0]["name"]) == (200, 1, "shelf")
    first = {"If-Match": listed["models"][0]["tag"]}
    words = {"description": "Reads shelves"}
    status, changed = await client.ask("PATCH", "/api/models/shelf", json=words, headers=first)
    assert (status, changed["status"], changed["description"]) == (200, "ok", "Reads shelves")
    assert changed["tag"] == client.headers["ETag"] != first["If-Match"]
    assert (await client.ask("PATCH", "/api/models/shelf", json=words, headers=first))[0] == 412
    assert await client.ask("DELETE", "/api/models/shelf") == OK
    assert (await client.ask("GET", "/api/models/shelf"))[0] == 404


async def test_files_with_paths(client):
    """Names may carry paths, below the model's own folder or not; labels are of all versions."""
    files = {
        "shelf/config.pbtxt": CONFIG,
        "shelf/labels.txt": "milk\n",
        "shelf/1/model.onnx": adding(1),
        "shelf/3/model.onnx": adding(3),
        "shelf/3/more/weights.bin": "w",
    }
    made = await push(client, "shelf", files)
    found = {each["version"]: [f["path"] for f in each["files"]] for each in made["versions"]}
    assert found == {
        "3": ["3/model.onnx", "3/more/weights.bin", "labels.txt"],
        "1": ["1/model.onnx", "labels.txt"],
    }


async def test_versions(client):
    """A version is the next number unless one is named; it never changes; it can be removed."""
    await push(client, "shelf", {"config.pbtxt": CONFIG, "model.onnx": adding(1)})
    path = "/api/models/shelf/versions"
    status, added = await client.ask("POST", path, data=form({"model.onnx": adding(2)}))
    assert (status, added) == (201, {"status": "ok", "version": "2"})
    status, added = await client.ask("POST", path, data=form({"model.onnx": adding(5)}, version=5))
    assert (status, added["version"]) == (201, "5")
    for files, fields in (
        ({"model.onnx": adding(9)}, {"version": 2}),
        ({"2/model.onnx": adding(9)}, {}),
    ):
        assert (await client.ask("POST", path, data=form(files, **fields)))[0] == 409
    status, changed = await client.ask(
        "PATCH", "/api/models/shelf", data=form({"model.onnx": adding(6)})
    )
    assert (status, changed["latest_version"], changed["status"]) == (200, "6", "ok")
    status, listed = await client.ask("GET", path)
    assert [each["version"] for each in listed["versions"]] == ["6", "5", "2", "1"]
    assert listed["total"] == 4
    assert (await client.ask("GET", f"{path}?limit=1&offset=1"))[1]["versions"][0]["version"] == "5"
    assert await client.ask("DELETE", f"{path}?version=5") == OK
    for body in ({}, {"json": {"version": "6"}}):  # a body of DELETE is not read
        status, told = await client.ask("DELETE", path, **body)
        assert (status, "versions?version=3" in told["detail"]) == (400, True)
    assert await client.ask("DELETE", f"{path}/6") == OK
    assert (await client.ask("DELETE", f"{path}/6"))[0] == 404
    assert (await client.ask("GET", path))[1]["total"] == 2


async def test_versions_at_once(client):
    """Versions without a number that are sent at once get one each; one that is named stays."""
    await push(client, "shelf", {"model.onnx": adding(1)})
    path = "/api/models/shelf/versions"
    sent = [form({"model.onnx": adding(number)}) for number in range(2, 8)]
    added = await asyncio.gather(*(client.ask("POST", path, data=each) for each in sent))
    numbers = [answer.get("version") for status, answer in added if status == 201]
    assert sorted(numbers) == ["2", "3", "4", "5", "6", "7"]
    _, listed = await client.ask("GET", path)
    files = {each["version"]: each["files"][0] for each in listed["versions"]}
    for index, number in enumerate(numbers):
        digest = hashlib.sha256(adding(index + 2)).hexdigest()
        assert (files[number]["path"], files[number]["digest"]) == (f"{number}/model.onnx", digest)
    sent = [form({"8/model.onnx": adding(number)}) for number in range(2)]
    added = await asyncio.gather(*(client.ask("POST", path, data=each) for each in sent))
    assert sorted(status for status, _ in added) == [201, 409]


async def test_wrong_models(client):
    """What is wrong about a name, a path, a configuration or a file is told, and nothing kept."""
    onnx = {"model.onnx": adding(1)}
    for name, files, wanted in (
        ("", onnx, 422),
        ("a/b", onnx, 422),
        ("12", onnx, 422),
        ("../a", onnx, 422),
        ("m", {"../model.onnx": b"x"}, 400),
        ("m", {"1/../../model.onnx": b"x"}, 400),
        ("m", {"/etc/model.onnx": b"x"}, 400),
        ("m", {"1//model.onnx": b"x"}, 400),
        ("m", {"1/" + "x" * 260: b"x"}, 400),
        ("m", {"model.onnx": b"not a model"}, 400),
        ("m", {"model.onnx": b""}, 400),
        ("m", {"model.plan": b"x"}, 400),
        ("m", {"model.onnx": adding(1, shape=None)}, 400),
        ("m", {"config.pbtxt": CONFIG}, 400),
        ("m", {**onnx, "config.pbtxt": "nam: 1"}, 400),
        ("m", {**onnx, "config.pbtxt": 'name: "other" ' + CONFIG}, 400),
        ("m", {**onnx, "config.pbtxt": CONFIG.replace("onnxruntime", "python")}, 400),
        ("m", {**onnx, "config.pbtxt": CONFIG + 'runtime: "x"'}, 400),
        ("m", {**onnx, "config.pbtxt": CONFIG + 'default_model_filename: "../x"'}, 400),
        ("m", {**onnx, "config.pbtxt": CONFIG
               + 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/x" } }'}, 400),
        ("m", {**onnx, "config.pbtxt": CONFIG
               + 'model_operations { op_library_filename: "a.so" }'}, 400),
        ("m", {**onnx, "1/evil.so": b"x"}, 400),
        ("m", {**onnx, "1/model.py": b"x"}, 400),
    ):  # fmt: skip
        status, answer = await client.ask("POST", "/api/models", data=form(files, name=name))
        assert (status, set(answer)) == (wanted, {"detail", "error"}), (name, files, answer)
    assert (await client.ask("GET", "/api/models"))[1]["total"] == 0
    await push(client, "m", onnx)
    assert (await client.ask("POST", "/api/models", data=form(onnx, name="m")))[0] == 409
    assert (await client.ask("POST", "/api/models", json={"name": "n"}))[0] == 415
    wrong = aiohttp.FormData()
    wrong.add_field("file", b"x", filename="model.onnx")
    status, answer = await client.ask("POST", "/api/models/m/versions", data=wrong)
    assert (status, "files[]" in answer["detail"]) == (422, True)


async def test_what_a_form_has_is_taken_or_refused(client):
    """A description is kept; a field that there is not may be a misspelt one, and is refused."""
    onnx = {"model.onnx": adding(1)}
    words = form(onnx, name="m", description="Reads shelves")
    status, made = await client.ask("POST", "/api/models", data=words)
    assert (status, made["description"]) == (201, "Reads shelves")
    for path, fields, said in (
        ("/api/models", {"name": "n", "desciption": "x"}, "desciption: unknown field"),
        ("/api/models", {"name": "n", "files[]": "x"}, "files[]: must be a file"),
        ("/api/models", {"name": "n", "description": "x" * 10_001}, "description: "),
        ("/api/models", {}, "name: field is required"),
        ("/api/models/m/versions", {"ofset": "0"}, "ofset: unknown field"),
    ):
        status, answer = await client.ask("POST", path, data=form(onnx, **fields))
        assert (status, said in answer["detail"]) == (422, True), answer
    unread = form({"model.onnx": b"not a model"}, name="n")
    status, answer = await client.ask("POST", "/api/models", data=unread)
    assert answer["detail"].startswith("model.onnx: not a readable ONNX file")


async def test_code_is_an_administrators(serve):
    """A backend that runs code is pushed by an administrator, where the setting names it."""
    files = {"config.pbtxt": 'backend: "python"', "1/model.py": "class TritonPythonModel: pass"}
    async with serve(fleet={"code_backends": ["python"]}) as client:
        _, key = await client.ask(
            "POST", "/v1/keys",
            json={"name": "k", "standalone": True, "scopes": ["fleet:read", "fleet:write"]},
        )  # fmt: skip
        asked = {"data": form(files, name="m")}
        assert (await client.ask("POST", "/api/models", key["key"], **asked))[0] == 403
        await push(client, "m", files)


async def test_a_derived_configuration(client, tmp_path):
    """Inputs that are constants are none, open lengths are -1, a scalar has a shape."""
    from mataserver_fleet.onnx_signature import config_of

    file = tmp_path / "model.onnx"
    file.write_bytes(adding(1))
    assert config_of(file, "m") == {
        "name": "m",
        "backend": "onnxruntime",
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1", "3"]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["-1", "3"]}],
    }
    file.write_bytes(adding(1, shape=()))
    (scalar,) = config_of(file, "m")["input"]
    assert scalar == {"name": "x", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}}


async def test_chunks(client):
    """A file comes in pieces; one out of order is told what is expected; the last is checked."""
    await push(client, "shelf", {"model.onnx": adding(1)})
    data, path = adding(2), "/api/models/shelf/versions"
    digest = hashlib.sha256(data).hexdigest()

    async def piece(begin, end, offset=None, **fields):
        given = {"offset": begin if offset is None else offset, **fields}
        return await client.ask("POST", path, data=form({"model.onnx": data[begin:end]}, **given))

    assert await piece(0, 40) == (202, {"status": "ok", "offset": 40})
    status, answer = await piece(40, 80, offset=41)
    assert (status, answer["offset"], answer["error"]) == (409, 40, "offset: 40 is expected")
    assert await piece(40, 80) == (202, {"status": "ok", "offset": 80})
    assert (await piece(80, None, check="0" * 64))[0] == 400
    assert (await piece(80, None, check=digest))[0] == 409
    assert (await piece(0, 40))[0] == 202
    assert (await piece(0, 60))[1] == {"status": "ok", "offset": 60}
    both = await asyncio.gather(piece(60, 70), piece(60, 70))
    assert sorted(status for status, _ in both) == [202, 409]
    status, answer = await piece(70, None, check=digest)
    assert (status, answer) == (201, {"status": "ok", "version": "2"})
    (newest, _) = (await client.ask("GET", path))[1]["versions"]
    assert newest["files"][0]["digest"] == digest
    for fields in ({"offset": "x"}, {"check": digest}, {"offset": 0, "check": "1"}):
        status, _ = await client.ask("POST", path, data=form({"model.onnx": b"x"}, **fields))
        assert status == 422, fields


async def test_limits_of_uploads(serve, tmp_path):
    """A body, a file in pieces and all unfinished ones are bounded; what failed leaves nothing."""
    async with serve(fleet={"max_model_mb": 1, "unfinished_mb": 1}) as client:
        await push(client, "shelf", {"model.onnx": adding(1)})
        path, large = "/api/models/shelf/versions", b"x" * 700_000
        status, _ = await client.ask("POST", path, data=form({"model.onnx": large * 2}))
        assert status == 413
        first = form({"model.onnx": large}, offset=0)
        assert (await client.ask("POST", path, data=first))[0] == 202
        second = form({"model.onnx": large}, offset=len(large))
        assert (await client.ask("POST", path, data=second))[0] == 413
        other = form({"other.onnx": large}, offset=0)
        assert (await client.ask("POST", path, data=other))[0] == 507
        assert not list((tmp_path / "fleet" / "uploads").iterdir())


async def test_a_model_that_is_offered(client):
    """A model that an application offers is not removed, but by force."""
    await push(client, "shelf", {"model.onnx": adding(1)})
    await client.made("/api/apps", {"name": "shop"})
    await client.made("/api/apps/shop/routes/shelf", {"weights": {"1": 1}})
    assert (await client.ask("POST", "/api/apps/shop/routes/shelf", json={"mirror": "7"}))[0] == 422
    assert (await client.ask("DELETE", "/api/models/shelf"))[0] == 409
    assert (await client.ask("DELETE", "/api/models/shelf/versions/1"))[0] == 409
    assert await client.ask("DELETE", "/api/models/shelf?force=true") == OK
    assert (await client.ask("GET", "/api/apps/shop"))[1]["routes"] == []


async def test_who_pushes(client):
    """A viewer and a developer read models and change none."""
    await push(client, "shelf", {"model.onnx": adding(1)})
    token = await client.person("dev")
    assert (await client.ask("GET", "/api/models/shelf", token))[0] == 200
    for method, path in (
        ("POST", "/api/models"),
        ("PATCH", "/api/models/shelf"),
        ("DELETE", "/api/models/shelf"),
        ("POST", "/api/models/shelf/load"),
        ("POST", "/api/models/shelf/unload"),
        ("POST", "/api/models/shelf/versions"),
        ("DELETE", "/api/models/shelf/versions/1"),
    ):
        assert (await client.ask(method, path, token))[0] == 403
    assert (await client.ask("POST", "/api/models/shelf"))[0] == 405

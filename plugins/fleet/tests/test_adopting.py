"""Taking over what a Triton serves, and telling versions apart: commands and their routes."""

from __future__ import annotations

import asyncio
import hashlib

from aiohttp import web
from commands_client import client, url
from onnx_files import adding
from stand_in_triton import stand_ins
from test_models import CONFIG, form, push

from mataserver_fleet import repository

__all__ = ["client", "url"]

MADE_UP = {
    "name": "plain",
    "backend": "onnxruntime",
    "runtime": "libtriton_onnxruntime.so",
    "max_batch_size": 4,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["3"]}],
    "parameters": {},
}


def planted(root, triton, name, versions, config=None, served=None):
    """Have a Triton serve a model that stands in a repository."""
    for version in versions:
        (root / name / version).mkdir(parents=True)
        (root / name / version / "model.onnx").write_bytes(adding(int(version)))
    if config is not None:
        (root / name / "config.pbtxt").write_text(config)
    triton.models[name] = {"config": MADE_UP, "files": {}, "versions": served or versions}


async def test_what_a_triton_serves_becomes_the_fleets(client, run, tmp_path):
    """Each model that it serves is pushed with its versions and wanted there; what cannot is told.

    Twice is once, and a name that leads elsewhere reads nothing.
    """
    root = tmp_path / "repository"
    async with stand_ins(1) as (triton,):
        planted(root, triton, "shelf", ["1", "2", "3"], CONFIG, served=["2", "3"])
        (root / "shelf" / "labels.txt").write_text("milk\n")
        planted(root, triton, "plain", ["1"])
        planted(root, triton, "code", ["1"], 'backend: "python"')
        (root / "code" / "1" / "model.py").write_text("")
        triton.models["gone"] = {"config": {}, "files": {}, "versions": ["1"]}
        triton.models["../secret"] = {"config": {}, "files": {}, "versions": ["1"]}
        triton.unloaded = {"broken": "no such file\ntraceback"}
        await run("tritons", "add", "gpu-1", "127.0.0.1", str(triton.port))
        status, told, refusal = await run("adopt", "gpu-1", "--repository", str(root))
        assert (status, refusal) == (1, "3 of the models that gpu-1 serves are not accepted")
        lines = told.splitlines()
        assert lines[0].startswith("../secret is not accepted: name: letters")
        assert lines[1] == "broken is not served at gpu-1: it stays as it is"
        assert lines[2].startswith("code is not accepted: config.pbtxt: the backend 'python'")
        assert lines[3] == f"gone is not accepted: its files are not in {root}"
        assert lines[4:] == [
            "added version 1 to plain",
            "plain is the fleet's at gpu-1: 1",
            "added version 2 to shelf",
            "added version 3 to shelf",
            "shelf is the fleet's at gpu-1: 2, 3",
        ]
        _, listed = await client.ask("GET", "/api/models")
        assert [each["name"] for each in listed["models"]] == ["plain", "shelf"]
        assert [each["state"] for each in listed["models"]] == ["ready", "ready"]
        assert triton.models["shelf"]["versions"] == ["2", "3"]
        assert triton.models["shelf"]["files"]["labels.txt"] == b"milk\n"
        assert triton.models["plain"]["config"]["max_batch_size"] == 4
        again = await run("adopt", "gpu-1", "plain", "shelf", "--repository", str(root))
        said = "plain is the fleet's already\nshelf is the fleet's already\n"
        assert again == (0, said, "")


async def test_what_cannot_be_adopted(client, run, tmp_path):
    """Without its files a model is not taken, and neither of a Triton that does not answer."""
    async with stand_ins(1) as (triton,):
        planted(tmp_path, triton, "shelf", ["1"], CONFIG, served=["7"])
        await run("tritons", "add", "gpu-1", "127.0.0.1", str(triton.port))
        _, told, _ = await run("adopt", "gpu-1")
        assert "give its model repository with --repository" in told
        _, told, _ = await run("adopt", "gpu-1", "--repository", str(tmp_path))
        assert f"the files of its version 7 are not in {tmp_path / 'shelf'}" in told
        assert await run("adopt", "gpu-1", "absent") == (1, "", "gpu-1 has no model absent")
        assert (await client.ask("GET", "/api/models"))[1]["total"] == 0
    status, told, refusal = await run("adopt", "gpu-1")
    assert (status, told, refusal != "") == (1, "", True)
    assert (await run("adopt", "gpu-2"))[2] == "Triton not found: gpu-2"


async def test_the_repository_of_a_triton(client):
    """What it serves and what it has is told by name; nonsense and absence are 502."""
    async with stand_ins(1) as (triton,):
        triton.models["b"] = {"config": MADE_UP, "files": {}, "versions": ["2"]}
        triton.unloaded = {"a": "no file\ntraceback"}
        await client.made("/api/tritons", {"name": "t", "host": "127.0.0.1", "port": triton.port})
        path = "/api/tritons/t/repository"
        a = {"name": "a", "versions": [], "reason": "no file\ntraceback", "config": None}
        b = {"name": "b", "versions": ["2"], "reason": "", "config": MADE_UP}
        assert await client.ask("GET", path) == (200, {"models": [a, b], "total": 2})
        _, told = await client.ask("GET", path, await client.person("vera", "viewer"))
        assert told["models"][0]["reason"] == "no file"

        async def nonsense(_request):
            from aiohttp import web

            return web.Response(text='{"x": [')

        triton.faults["/index"] = nonsense
        assert (await client.ask("GET", path))[0] == 502
    status, answer = await client.ask("GET", path)
    assert (status, set(answer)) == (502, {"detail", "error"})


async def test_versions_told_apart(client, run):
    """Of two versions what differs in configuration and files is told, and nothing else."""
    await push(client, "shelf", {"config.pbtxt": CONFIG, "model.onnx": adding(1)})
    other = CONFIG.replace("max_batch_size: 0", "max_batch_size: 8")
    more = {"config.pbtxt": other, "2/model.onnx": adding(2), "2/extra.bin": b"abc"}
    path = "/api/models/shelf/versions"
    assert (await client.ask("POST", path, data=form(more)))[0] == 201
    one, two = (hashlib.sha256(adding(number)).hexdigest() for number in (1, 2))
    size, extra = len(adding(1)), hashlib.sha256(b"abc").hexdigest()
    status, told, _ = await run("models", "diff", "shelf", "1", "2")
    assert (status, told.splitlines()) == (0, [
        "+ config.max_batch_size 8",
        f"+ file extra.bin sha256:{extra} (3 bytes)",
        f"~ file model.onnx sha256:{one} ({size} bytes) -> sha256:{two} ({size} bytes)",
    ])  # fmt: skip
    assert await run("models", "diff", "shelf", "2", "2") == (0, "", "")
    assert await run("models", "diff", "shelf", "1", "9") == (1, "", "shelf has no version 9")


async def test_a_triton_that_answers_slowly(client, monkeypatch):
    """It may have ten thousand models: the time for all of its answers is limited, not for each."""
    monkeypatch.setattr(repository, "TOTAL_SECONDS", 0.5)

    async def slow(_request):
        await asyncio.sleep(0.1)
        return web.json_response(MADE_UP)

    async with stand_ins(1) as (triton,):
        for number in range(100):
            triton.models[f"m{number}"] = {"config": MADE_UP, "files": {}, "versions": ["1"]}
        await client.made("/api/tritons", {"name": "t", "host": "127.0.0.1", "port": triton.port})
        triton.faults["/config"] = slow
        status, told = await client.ask("GET", "/api/tritons/t/repository")
        assert status == 502
        assert told["detail"] == "It did not describe its models within 0.5 s"

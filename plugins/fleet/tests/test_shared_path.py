"""Model repositories that Tritons share with the server: files are laid there, and not sent."""

from __future__ import annotations

import asyncio
import json

import pytest
from onnx_files import adding
from stand_in_fleet import FAST, until
from stand_in_triton import stand_ins
from test_models import form, push

from mataserver import InvalidParams
from mataserver_fleet.shared_path import NOTE, SharedPaths


@pytest.fixture
def url():
    """Files lie in no database: one kind is enough."""
    return


@pytest.fixture
def repository(tmp_path):
    """A model repository that is shared."""
    made = tmp_path / "shared" / "models"
    made.mkdir(parents=True)
    return made


@pytest.fixture
async def shared(serve, repository):
    """Two Tritons of one repository, and a client of their server, which has a model."""
    folders = [str(repository.parent)]
    async with stand_ins(2) as tritons, serve(fleet={**FAST, "shared_folders": folders}) as client:
        for number, each in enumerate(tritons):
            each.repository = repository
            body = {"name": f"t{number}", "host": "127.0.0.1", "port": each.port}
            await client.made("/api/tritons", {**body, "path": str(repository)})
        await push(client, "m", {"model.onnx": adding(1)})
        yield client, tritons


async def test_files_are_laid(shared, repository):
    """Each Triton loads its versions from where they were laid, and gets them back from there."""
    client, tritons = shared
    assert (await client.ask("POST", "/api/models/m/load"))[0] == 200
    await client.ask("POST", "/api/models/m/versions", data=form({"model.onnx": adding(2)}))
    newer = {"triton_id": "t1", "versions": [2]}
    assert (await client.ask("POST", "/api/models/m/load", json=newer))[0] == 200
    for number, each in enumerate(tritons):
        assert each.models["m"]["files"] == {f"{number + 1}/model.onnx": adding(number + 1)}
    found = {path.relative_to(repository).as_posix() for path in repository.rglob("*.*")}
    assert found == {"m/config.pbtxt", f"m/{NOTE}", "m/1/model.onnx", "m/2/model.onnx"}
    await tritons[0].die()
    await tritons[0].start()
    await until(lambda: asyncio.sleep(0, "m" in tritons[0].models))
    assert tritons[0].models["m"]["files"] == {"1/model.onnx": adding(1)}
    assert (await client.ask("GET", "/api/tritons/t0"))[1]["path"] == str(repository)
    assert (await client.ask("PATCH", "/api/tritons/t0", json={"path": ""}))[1]["path"] is None


async def test_one_that_cannot_be_written(shared, repository):
    """It is told why, it is no fault of the version, and it is done once it can be."""
    client, tritons = shared
    await client.ask("DELETE", "/api/tritons/t1")
    repository.rmdir()
    load = asyncio.create_task(client.ask("POST", "/api/models/m/load", json={"triton_id": "t0"}))

    async def told():
        _, model = await client.ask("GET", "/api/models/m")
        return "Its repository cannot be written" in str(model["tritons"])

    await until(told)
    repository.mkdir()
    await until(lambda: asyncio.sleep(0, "m" in tritons[0].models))
    await load


async def lay(repository, files, folders=None):
    """Lay a model ``m`` of some files."""
    paths = SharedPaths([str(repository.parent)] if folders is None else folders)
    await paths.get(str(repository)).write("m", {"name": "m"}, files)


async def test_what_is_copied_again(repository, tmp_path):
    """A file that was laid is left alone; one that is gone, changed or half there is laid anew."""
    blob, other = tmp_path / "a1", tmp_path / "b2"
    blob.write_bytes(b"first")
    other.write_bytes(b"other")
    target = repository / "m" / "1" / "model.onnx"
    await lay(repository, {"1/model.onnx": blob})
    before = target.stat().st_ino
    await lay(repository, {"1/model.onnx": blob})
    assert target.stat().st_ino == before
    for harm in (target.unlink, lambda: target.write_bytes(b"half"), forget(repository)):
        harm()
        await lay(repository, {"1/model.onnx": blob})
        assert target.read_bytes() == b"first"
    await lay(repository, {"1/model.onnx": other})
    assert target.read_bytes() == b"other"


def forget(repository):
    """Return what leaves a file of the same size whose copy was begun and not noted as done."""

    def harm():
        (repository / "m" / "1" / "model.onnx").write_bytes(b"wrong")
        (repository / "m" / NOTE).write_text(json.dumps({"1/model.onnx": ""}))

    return harm


@pytest.mark.parametrize("link", ["m", "m/1"])
async def test_no_link_is_followed(repository, tmp_path, link):
    """A link that somebody put into the repository leads nothing out of it."""
    outside, blob = tmp_path / "outside", tmp_path / "a1"
    outside.mkdir()
    blob.write_bytes(b"first")
    (repository / link).parent.mkdir(exist_ok=True)
    (repository / link).symlink_to(outside)
    with pytest.raises(OSError, match="link"):
        await lay(repository, {"1/model.onnx": blob})
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["1/.model.onnx.new", ".config.pbtxt.new", f".{NOTE}.new"])
async def test_no_link_is_written_to(repository, tmp_path, name):
    """A link that waits where a file is written first is replaced; what it names stays."""
    blob, precious = tmp_path / "a1", tmp_path / "precious"
    blob.write_bytes(b"first")
    precious.write_bytes(b"precious")
    link = repository / "m" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(precious)
    await lay(repository, {"1/model.onnx": blob})
    assert precious.read_bytes() == b"precious"
    target = repository / "m" / "1" / "model.onnx"
    assert (target.is_symlink(), target.read_bytes()) == (False, b"first")


async def test_folders_that_are_not_named(serve, shared, repository, tmp_path):
    """Nothing is written but below a folder that the settings name, also through dots or a link."""
    client, _ = shared
    way = repository / "way"
    way.symlink_to(tmp_path)
    for path in ("models", "/etc", str(tmp_path), f"{repository}/../../x", str(way)):
        body = {"name": "t9", "host": "127.0.0.1", "port": 9, "path": path}
        status, answer = await client.ask("POST", "/api/tritons", json=body)
        assert (status, answer["detail"][:5]) == (422, "path:")
        assert (await client.ask("PATCH", "/api/tritons/t0", json={"path": path}))[0] == 422
        with pytest.raises(InvalidParams):
            SharedPaths([str(repository.parent)]).check(path)
    with pytest.raises(PermissionError, match="shared_folders"):
        await lay(repository, {}, folders=[])

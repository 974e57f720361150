"""Links and indices in a model's directory: they lead into it, or into a repository's blobs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import aiohttp
import pytest

from api_answers import until
from conftest import picture, register
from mataserver import testing
from mataserver.errors import BadRequest
from mataserver.library.plans import CACHE_SECONDS
from mataserver.sources.links import OutsideLinkError, check_links

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tmp_path) -> Path:
    """A local model, and a file outside of it."""
    (tmp_path / "secret").write_text("what its author may not read")
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "fake"}')
    (folder / "deep" / "weights.bin").write_bytes(b"x")
    return folder


@pytest.fixture
def snapshot(tmp_path) -> Path:
    """A snapshot of the hub's cache, whose files are links into the repository's blobs."""
    repository = tmp_path / "hub" / "models--org--fake"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for name, content in (("config.json", '{"model_type": "fake"}'), ("model.safetensors", "x")):
        (repository / "blobs" / name.upper()).write_text(content)
        (folder / name).symlink_to(Path("..", "..", "blobs", name.upper()))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


def test_links_inside_are_fine(model, snapshot):
    """Relative and absolute links within the model, and a snapshot's into its blobs."""
    (model / "one.bin").symlink_to("deep/weights.bin")
    (model / "two.bin").symlink_to(model / "one.bin")
    (model / "folder").symlink_to("deep")
    (model / "gone.bin").symlink_to("deep/nowhere.bin")
    check_links(model)
    check_links(snapshot)


@pytest.mark.parametrize(
    "target",
    ["../secret", "deep/../../secret", "..", "/etc/hostname", "{0}/secret", "loop", "../nowhere"],
)
@pytest.mark.parametrize("name", ["loop", "deep/loop"])
def test_links_that_lead_out_are_refused(model, name, target):
    """Files, folders, what is not there and circles: the link's name is told, its target is not."""
    target = target.format(model.parent)
    depth = "../" if "/" in name and target.startswith((".", "deep")) else ""
    (model / name).symlink_to(depth + target)
    with pytest.raises(OutsideLinkError) as refused:
        check_links(model)
    assert refused.value.detail == f"{name} is a link that leads out of the model's directory"


def test_chain_of_links_counts_by_its_end(model, tmp_path):
    """A link to a folder elsewhere, reached by a link inside, leads out."""
    (model / "way").symlink_to(tmp_path)
    (model / "file").symlink_to("way/secret")
    with pytest.raises(OutsideLinkError):
        check_links(model)


def test_blobs_of_another_repository_are_outside(snapshot, model):
    """A snapshot may use its own repository's blobs alone, and a local model nobody's."""
    other = snapshot.parents[2] / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "A").write_text("x")
    (snapshot / "vocab.txt").symlink_to(other / "A")
    with pytest.raises(OutsideLinkError, match=r"^vocab\.txt is a link"):
        check_links(snapshot)
    (model / "blob").symlink_to(snapshot.parents[1] / "blobs" / "CONFIG.JSON")
    with pytest.raises(OutsideLinkError):
        check_links(model)


INDICES = (
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "x.safetensors.index.json",
    "model.safetensors.index.fp16.json",
    "deep/x.SafeTensors.index.json",
)
"""Usual names, one that a ``config.json`` may name as ``transformers_weights``, and variants."""


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize(
    "content",
    [
        '{"metadata": {}, "weight_map": {"a": "part.bin", "b": "../secret"}}',
        '{"weight_map": {"a": "deep/../../secret"}}',
        '{"weight\\u005fmap": {"a": "/etc/hostname"}}',
        '{"weight_map": {"a": "part.bin"}, "weight_map": {"a": "..\\/secret"}}',
    ],
)
def test_an_index_that_leads_out_is_refused(model, name, content):
    """The parts of a checkpoint are in its directory, whatever the name of their index."""
    (model / name).write_text(content)
    with pytest.raises(OutsideLinkError) as refused:
        check_links(model)
    assert refused.value.detail == f"{name} names a file outside of the model's directory"


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize(
    "content",
    [
        '{"metadata": NaN, "weight_map": {"a": "../secret"}}',
        '{"weight_map": [], "weight_map": {"a": "../secret"}}',
        '{"metadata": ' + "[" * 100_000,
        '{"metadata": "' + "x" * 16_000_000 + '", "weight_map": {}}',
    ],
    ids=["nan", "twice", "deep", "large"],
)
def test_an_index_that_cannot_be_checked_is_refused(model, name, content):
    """Another parser might read what this one does not."""
    (model / name).write_text(content)
    with pytest.raises(OutsideLinkError) as refused:
        check_links(model)
    assert refused.value.detail == f"{name} is no index of a checkpoint's weights"


def test_indices_of_own_files_are_fine(model):
    """Parts in the directory and below; other files of similar names; a pipe is not waited for."""
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": "x..bin", "b": "deep/weights.bin"}}
    (model / INDICES[0]).write_text(json.dumps(index))
    (model / "words.index.json").write_text('["../secret"]')
    os.mkfifo(model / INDICES[1])
    check_links(model)


def registered(data_dir: Path, name: str, **entry: str) -> None:
    register(data_dir, {})
    file = data_dir / "model_registry.json"
    registry = json.loads(file.read_text())
    registry["models"][name] = {"task": "detect", "pulled_at": 0.0, **entry}
    file.write_text(json.dumps(registry))


async def infer(http, name):
    headers = {"Content-Type": "image/png"}
    async with http.post(f"/v1/infer?model={name}", data=picture(), headers=headers) as answer:
        return answer.status, await answer.json()


async def test_link_that_came_later_is_not_followed(model, tmp_path):
    """A model that served gets a link that leads out: its next load is 503 with the link's name."""
    registered(tmp_path / "data", "mine", source="local", path=str(model))
    async with (
        testing.serving(tmp_path / "data", engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        assert (await infer(http, "mine"))[0] == 200
        await http.post("/v1/models/unload", json={"model": "mine"})
        (model / "extra.bin").symlink_to("../secret")
        assert await infer(http, "mine") == (
            503,
            {
                "detail": "mine cannot be served: extra.bin is a link that leads out of the "
                "model's directory"
            },
        )
        (model / "extra.bin").unlink()

        async def serves():
            return (await infer(http, "mine"))[0] == 200

        await until(serves, 10)


async def test_an_index_that_leads_out_stops_the_load(model, tmp_path):
    """Before any plugin reads it: 503 with the index's name."""
    registered(tmp_path / "data", "mine", source="local", path=str(model))
    (model / INDICES[2]).write_text('{"weight_map": {"a": "../secret"}}')
    async with (
        testing.serving(tmp_path / "data", engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        status, body = await infer(http, "mine")
    assert (status, body["detail"]) == (
        503,
        f"mine cannot be served: {INDICES[2]} names a file outside of the model's directory",
    )


async def test_configuration_is_not_read_through_a_link(model, tmp_path):
    """A ``config.json`` that leads out is not even opened: no part of it is in the answer."""
    (tmp_path / "config.json").write_text('{"model_type": "fake"}')
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("../config.json")
    registered(tmp_path / "data", "mine", source="local", path=str(model))
    async with (
        testing.serving(tmp_path / "data", engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        status, body = await infer(http, "mine")
    assert (status, "config.json is a link that leads out" in body["detail"]) == (503, True)


async def test_hub_model_is_served_from_its_blobs(snapshot, tmp_path, monkeypatch):
    """A cached model of the hub is served through its links, and not with one to elsewhere."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    registered(tmp_path / "data", "org/fake", source="hf")
    async with (
        testing.serving(tmp_path / "data", engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        assert (await infer(http, "org/fake"))[0] == 200
        await http.post("/v1/models/unload", json={"model": "org/fake"})
        (snapshot / "vocab.txt").symlink_to("/etc/hostname")
        await asyncio.sleep(CACHE_SECONDS)
        assert (await infer(http, "org/fake"))[0] == 503


def test_stray_link_is_a_bad_request():
    """A pull of such a model is 400, as for everything else that is wrong with a model."""
    assert issubclass(OutsideLinkError, BadRequest)

"""The files of models on the nodes of a cluster: found there, from the hub, or sent."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import shutil

import msgspec
import pytest

from hub_stand_in import HubStandIn
from mataserver import Classification, ClassifyResult, MataError
from mataserver.engines.work import Placement
from mataserver.errors import Unavailable
from mataserver_ray import file_store
from mataserver_ray.broker_messages import Node, RunnerPlaced
from mataserver_ray.file_store import (
    MAX_TRANSFER_BYTES,
    FileManifest,
    FileStore,
    SentFile,
    TransferHeader,
    TransferReply,
)
from mataserver_ray.file_transfer import ManifestCache, send_missing_files
from mataserver_ray.versions import check_versions, model_modules, software_versions
from stand_in_cluster import StandInCluster
from test_engine_contract import PLACE, answers, assignment, job, labels, started

__all__ = ["assignment"]


class Reader:
    """Answers with what its file and those of its parts say."""

    def __init__(self, spec, context):
        specs = [spec, *(part.model.spec for part in context.parts.values())]
        self.spec = spec
        self._said = " ".join((each.path / "sub" / "text").read_text() for each in specs)

    def predict(self, images, _params):
        """Answer each image."""
        return [ClassifyResult([Classification(self._said, 1.0)]) for _ in images]


def load_reader(spec, context):
    """Load the model that reads."""
    return Reader(spec, context)


@pytest.fixture
def read(tmp_path, assignment):
    """The assignment of a model with two files."""
    return given(assignment, folder(tmp_path / "mine" / "model", "hello"))


@pytest.fixture
async def cluster(tmp_path):
    """A node on which nothing lies where the server has it."""
    made = StandInCluster(tmp_path / "cluster")
    await made.open()
    await apart(made, tmp_path)
    yield made
    await made.close()


async def apart(cluster, tmp_path, **environment):
    """Add the node ``far``."""
    given = {"STAND_IN_APART": str(tmp_path / "theirs"), **environment}
    await cluster.add("far", environment=given)


def folder(path, text):
    """Make a folder with two files, one of them empty."""
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "text").write_text(text)
    (path / "empty").touch()
    return path


def given(assignment, path, **spec):
    spec = dataclasses.replace(assignment.spec, path=path, **spec)
    return dataclasses.replace(assignment, spec=spec, load=load_reader)


def sent(caplog):
    """Return how often a model was sent."""
    return caplog.text.count("is sent to the node far")


async def said(engine, assignment):
    """Load a model; return what it says."""
    async with started(engine, assignment) as worker:
        return labels(await answers(worker, job()))


async def test_what_a_node_has_not_is_sent_once(cluster, read, caplog):
    """Two workers at once get the same files: one is sent them, the other one finds them."""
    caplog.set_level("INFO")
    engine = cluster.engine()
    assert await asyncio.gather(said(engine, read), said(engine, read)) == [["hello"]] * 2
    assert await said(engine, read) == ["hello"]
    assert sent(caplog) == 1


async def test_parts_are_sent_too(cluster, read, tmp_path):
    """Each part has its own files, and is read from where they came to lie."""
    part = given(read, folder(tmp_path / "mine" / "part", "you"), name="part")
    assert await said(cluster.engine(), dataclasses.replace(read, parts={"p": part})) == [
        "hello you"
    ]


async def test_what_is_changed_is_sent_anew(cluster, read, tmp_path, caplog):
    """Here by somebody who pulled, there by a damaged disk: neither is served as it was."""
    caplog.set_level("INFO")
    engine = cluster.engine()
    assert await said(engine, read) == ["hello"]
    (read.spec.path / "sub" / "text").write_text("new words")
    assert await said(engine, read) == ["new words"]
    for damaged in (tmp_path / "theirs").rglob("text"):
        damaged.write_text("rot")
    assert await said(engine, read) == ["new words"]
    assert sent(caplog) == 3


async def test_files_at_the_same_path_are_not_sent(cluster, read, tmp_path, caplog):
    """As on a shared disk; without them here there is nothing to load there."""
    caplog.set_level("INFO")
    await cluster.kill("far")
    await cluster.add("near")
    engine = cluster.engine()
    assert await said(engine, read) == ["hello"]
    assert sent(caplog) == 0
    shutil.rmtree(read.spec.path)
    with pytest.raises(Unavailable, match="The files of contract are not here"):
        await engine.start(read, PLACE)


async def test_a_node_that_takes_nothing_is_named(cluster, read, tmp_path):
    """Where its disk is full or cannot be written it is 503, and the worker there ends."""
    (tmp_path / "theirs").write_text("no folder")
    with pytest.raises(Unavailable, match="could not be sent to the node far"):
        await cluster.engine().start(read, PLACE)


async def test_what_is_too_large_is_not_sent(tmp_path):
    """2 GB at most: it is said what to do instead, before a byte goes."""
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(MAX_TRANSFER_BYTES + 1)
    node = Node("id", "far", "127.0.0.1", 1)
    placed = RunnerPlaced(1, "127.0.0.1", 1, node, {}, [""])
    goods = [FileManifest(str(tmp_path / "weights"), "digest")]
    with pytest.raises(Unavailable, match="too large to be sent there"):
        await send_missing_files("model", goods, placed, b"")


# the hub


@pytest.fixture
def hub():
    with HubStandIn() as made:
        yield made


def snapshot(hub, home):
    """Make the server's cache hold a repository of the hub, one file of it left out."""
    files = {"sub/text": b"from the hub", "empty": b""}
    repo = hub.add("org/model", {**files, "unused": b"x"})
    place = home / "hub" / "models--org--model" / "snapshots" / repo.commit
    return folder(place, "from the hub")


async def test_the_hub_is_asked_once_for_each_file(cluster, read, tmp_path, hub, monkeypatch):
    """For the commit that is here, into the node's own cache, by one worker of several."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    path = snapshot(hub, tmp_path / "home")
    await cluster.kill("far")
    await apart(cluster, tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "node"))
    engine, wanted = cluster.engine(), given(read, path, name="org/model", source="hf")
    assert (
        await asyncio.gather(said(engine, wanted), said(engine, wanted)) == [["from the hub"]] * 2
    )
    asked = [each.path for each in hub.requests if each.method == "GET" and "resolve" in each.path]
    assert asked == [f"/org/model/resolve/{path.name}/sub/text"]  # nobody asks for an empty file
    assert not list((tmp_path / "theirs").rglob("text"))


async def test_what_forbids_a_worker_the_hub(cluster, read, tmp_path, hub, monkeypatch):
    """A backend's variable, as those of hf have it, is for the worker: its files may be fetched."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    path = snapshot(hub, tmp_path / "home")
    await cluster.kill("far")
    await apart(cluster, tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "node"))
    wanted = given(read, path, name="org/model", source="hf")
    offline = Placement("contract", (), (("HF_HUB_OFFLINE", "1"),))
    worker = await cluster.engine().start(wanted, offline)
    try:
        assert labels(await answers(worker, job())) == ["from the hub"]
    finally:
        await worker.close()
    assert any("resolve" in each.path for each in hub.requests)


@pytest.mark.parametrize("where", ["node", "server"])
async def test_offline_the_hub_is_not_asked(cluster, read, tmp_path, hub, monkeypatch, where):
    """Of a node that may not ask it, or by a server that may not: then files are sent."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "node")}
    if where == "node":
        own["HF_HUB_OFFLINE"] = "1"
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = snapshot(hub, tmp_path / "home")
    await cluster.kill("far")
    await apart(cluster, tmp_path, **own)
    wanted = given(read, path, name="org/model", source="hf")
    assert await said(cluster.engine(), wanted) == ["from the hub"]
    assert hub.requests == []


async def test_another_commit_is_not_taken_for_it(tmp_path, assignment, monkeypatch):
    """Only a folder of the hub's cache is the hub's: a converted model is no snapshot of it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    wanted = given(assignment, folder(tmp_path / "converted", "x"), name="org/model", source="hf")
    (found,) = await ManifestCache().manifests(wanted)
    assert (found.repository, found.commit, found.names) == ("", "", [])


# what a node takes


def receive(tmp_path, header, data):
    """Send a store something; return its answers."""
    line = msgspec.json.encode(header) + b"\n"
    return list(FileStore(tmp_path / "store").receive(io.BytesIO(line + data)))


def announced(tmp_path, **changes):
    """Return a sound announcement of one file with five bytes, with changes."""
    path = tmp_path / "one"
    path.write_bytes(b"bytes")
    file = SentFile("one", 5, file_store.hash_file(path))
    return msgspec.structs.replace(
        TransferHeader(file_store.tree_digest(str(path)), "one", [file]), **changes
    )


def test_a_sound_file_is_taken(tmp_path):
    """Then it lies in a folder with its digest's name; a second time nothing is to be sent."""
    sound = announced(tmp_path)
    first, last = receive(tmp_path, sound, b"bytes")
    assert first.send
    assert last.path == str(tmp_path / "store" / sound.digest / "one")
    assert receive(tmp_path, sound, b"") == [TransferReply(path=last.path)]


@pytest.mark.parametrize(
    ("changes", "data", "why"),
    [
        ({}, b"BYTES", "damaged"),
        ({}, b"byt", "disconnected"),
        ({"digest": "0" * 64}, b"bytes", "announced"),
        ({"name": "../one"}, b"bytes", "outside"),
        ({"files": [SentFile("../../one", 5, "")]}, b"bytes", "outside"),
        ({"files": [SentFile("/tmp/one", 5, "")]}, b"bytes", "outside"),
        ({"digest": "../x"}, b"bytes", "outside"),
        ({"files": [SentFile("one", MAX_TRANSFER_BYTES + 1, "")]}, b"bytes", "large"),
    ],
)
def test_what_is_not_sound_leaves_nothing(tmp_path, changes, data, why):
    """It is answered with the reason, and no file of it stays."""
    header = announced(tmp_path, **changes)
    assert why in receive(tmp_path, header, data)[-1].error
    assert not [each for each in (tmp_path / "store").rglob("*") if each.suffix != ".lock"]


def test_nonsense_is_answered(tmp_path):
    """A line that is no announcement is no end of the node's worker."""
    (answer,) = FileStore(tmp_path).receive(io.BytesIO(b"nonsense\n"))
    assert answer.error


def test_a_digest_is_of_names_and_contents(tmp_path):
    """Another name, another byte and another file each make another digest; a copy makes none."""
    one, two = tmp_path / "one", tmp_path / "two"
    for each in (one, two):
        folder(each, "content")
    first = file_store.tree_digest(str(one))
    assert len(first) == 64
    assert file_store.tree_digest(str(two)) == first
    (two / "sub" / "text").write_text("CONTENT")
    changed = file_store.tree_digest(str(two))
    (two / "sub" / "text").rename(two / "sub" / "other")
    renamed = file_store.tree_digest(str(two))
    assert len({first, changed, renamed, file_store.tree_digest(str(one / "sub" / "text"))}) == 4
    assert file_store.tree_digest(str(tmp_path / "absent")) == ""
    assert file_store.tree_digest(str(one), ["sub/text", "absent"]) == ""
    (one / "more").touch()
    assert file_store.tree_digest(str(one), ["sub/text", "empty"]) == first


# releases


def test_releases_that_differ_are_named(assignment):
    """The plugin that loads a model, or a part of it, must be the node's, and no other one."""

    def load(_spec, _context):
        """Stand for a plugin's."""

    load.__module__ = "mataserver_track.model"
    part = dataclasses.replace(assignment, load=load)
    whole = dataclasses.replace(assignment, parts={"tracker": part})
    theirs = software_versions()
    check_versions("far", theirs, model_modules(whole))
    ours = theirs.pop("mataserver-track")
    check_versions("far", theirs, model_modules(assignment))
    with pytest.raises(
        MataError, match=f"The node far has no mataserver-track, this server {ours}"
    ):
        check_versions("far", theirs, model_modules(whole))
    theirs["mataserver-track"] = "0.0.1"
    with pytest.raises(MataError, match=f"has mataserver-track 0.0.1, this server {ours}"):
        check_versions("far", theirs, model_modules(whole))
    theirs["Python"] = "3.9.1"
    with pytest.raises(MataError, match=r"The node far has Python 3\.9\.1"):
        check_versions("far", theirs, model_modules(assignment))

"""A third party's source: models from a file share, which are checked by their checksums."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

import pytest

from conftest import picture
from markdown_pages import blocks, read
from mataserver.sources.pulled import PulledModels
from source_rig import Asking, kept, plugin_writer

CONFIG = json.dumps({"model_type": "fake"}).encode()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a plugin's module; return its entry point."""
    return plugin_writer(tmp_path, monkeypatch)


@pytest.fixture
def share(tmp_path, plugin):
    """A share with one model, and the plugin of docs/plugin-sources.md that reads it."""
    found = blocks(read("plugin-sources.md"), "python")
    (example,) = (each for each in found if "SourceSpec(" in each)
    folder = tmp_path / "share"
    offer(folder, config=CONFIG, weights=b"1" * 300_000)
    return plugin(example + READING, "share"), folder


def offer(folder, **files):
    """Put a model on the share."""
    model = folder / "detectors" / "harbour"
    model.mkdir(parents=True, exist_ok=True)
    names = {"config": "config.json", "weights": "parts/model.safetensors"}
    sums = []
    for key, content in files.items():
        path = model / names[key]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {names[key]}\n")
    (model / "SHA256SUMS").write_text("".join(sums))


READING = """

from mataserver import Backend, Classification, ClassifyResult


class Reading:
    def __init__(self, path):
        self.path = path

    def predict(self, images, params):
        label = (self.path / "parts" / "model.safetensors").read_bytes()[:1].decode()
        return [ClassifyResult(classifications=[Classification(label, 1.0)]) for _ in images]


def load(spec, ctx):
    return Reading(spec.path)


@hookimpl
def backends():
    return [Backend(name="reading", task="classify", source="local", load=load,
                    accepts=lambda files: True)]
"""
HARBOUR = "share:detectors/harbour"


@pytest.fixture
def ask(tmp_path):
    """Return a context with a server of some plugins."""
    return functools.partial(Asking, tmp_path)


@pytest.fixture
def unprivileged():
    """A directory of a user who is not root, as whom the test runs."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() != 0:
            yield Path(folder)
            return
        nobody = 65_534
        os.chown(folder, nobody, nobody)
        os.seteuid(nobody)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


async def test_a_model_comes_from_a_share(share, ask, tmp_path):
    """It is checked, registered with its source, served, and told with its progress."""
    point, folder = share
    settings = {"plugins": {"share": {"folder": str(folder)}}}
    async with ask(point, **settings) as asked:
        body = {"model": HARBOUR, "task": "detect"}
        headers = {"Accept": "text/event-stream"}
        async with asked.http.post("/v1/models/pull", json=body, headers=headers) as answer:
            events = (await answer.read()).decode().strip().split("\n\n")
        assert answer.status == 202
        assert events[-1] == f'event: result\ndata: {{"status":"pulled","model":"{HARBOUR}"}}'
        last = json.loads(events[-2].removeprefix("event: progress\ndata: "))
        size = len(CONFIG) + 300_000
        assert last == {
            "done_bytes": size, "total_bytes": size, "done_files": 2, "total_files": 2
        }  # fmt: skip
        shown = await asked.json(f"/v1/models/{HARBOUR}")
        assert (shown["source"], shown["size_mb"]) == ("share", round(size / 1e6, 1))
        assert await asked.infer(HARBOUR) == 200
    assert kept(tmp_path) == ["config.json", "model.json", "model.safetensors"]


async def test_a_changed_model_replaces_the_former(share, ask, tmp_path):
    """Pulled again it is loaded anew; of former versions only the last one stays on disk."""
    point, folder = share
    settings = {"plugins": {"share": {"folder": str(folder)}}}
    async with ask(point, **settings) as asked:
        for number in range(3):
            offer(folder, config=CONFIG, weights=bytes([number]) * 1000)
            assert await asked.pull(HARBOUR) == (202, "pulled")
            assert await asked.infer(HARBOUR) == 200
            (slot,) = asked.server.composed.pool._slots
            weights = slot.plan.spec.path / "parts" / "model.safetensors"
            assert weights.read_bytes() == bytes([number]) * 1000
    assert kept(tmp_path).count("config.json") == 2


async def test_a_model_reads_its_files(share, ask):
    """Its worker, which sees no other folder of the server, reads those of the newest version."""
    point, folder = share
    settings = {"plugins": {"share": {"folder": str(folder)}}}
    async with ask(point, **settings) as asked:
        for weights in (b"1", b"2"):
            offer(folder, config=CONFIG, weights=weights)
            assert await asked.pull(HARBOUR, "classify") == (202, "pulled")
            headers = {"Content-Type": "image/png"}
            async with asked.http.post(
                "/v1/infer", params={"model": HARBOUR}, data=picture(), headers=headers
            ) as answer:
                assert (await answer.json())["classifications"][0]["label"] == weights.decode()


def test_the_registered_version_stays(tmp_path):
    """It may be older than the newest: the last one to be registered counts."""
    models = PulledModels(tmp_path / "pulled")
    paths = []
    for _ in range(3):
        partial = models.new("share", "a", paths[0] if paths else None)
        partial.begin()
        (partial.folder / "weights").write_bytes(b"x")
        partial.check(None)
        paths.append(partial.complete())
        partial.accept()
        partial.discard()
        assert models.cached("share", "a") == paths[-1]
    assert [path.exists() for path in paths] == [True, True, True]
    partial = models.new("share", "a", paths[2])
    partial.begin()
    partial.discard()
    assert [path.exists() for path in paths] == [False, False, True]


def test_a_version_that_becomes_complete_is_no_leftover(tmp_path, monkeypatch):
    """Another pull that cleans up in that moment, or later, leaves it alone."""
    models = PulledModels(tmp_path / "pulled")
    partial = models.new("share", "a")
    partial.begin()
    (partial.folder / "weights").write_bytes(b"x")
    rename = Path.rename

    def interrupted(path, target):
        models.remove_leftovers()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    path = partial.complete()
    partial.accept()
    partial.discard()
    models.remove_leftovers()
    assert [each.name for each in path.iterdir()] == ["weights"]
    assert sorted(each.name for each in path.parent.iterdir()) == ["files", "model.json"]
    assert len(list(path.parents[1].iterdir())) == 1


def test_a_pull_cancelled_at_its_end_leaves_the_former(tmp_path):
    """A version that became complete while its pull was cancelled is removed."""
    models = PulledModels(tmp_path / "pulled")
    found = []
    for number in range(2):
        partial = models.new("share", "a")
        partial.begin()
        (partial.folder / "weights").write_bytes(b"x")
        found.append(partial.complete())
        if number == 0:
            partial.accept()
        partial.discard()
    assert models.cached("share", "a") == found[0]
    assert not found[1].exists()


def test_read_only_folders_of_a_model_are_removed(unprivileged):
    """As a copy of a read-only share has them, by a server that is not root."""
    models = PulledModels(unprivileged / "pulled")
    paths = []
    for keeps in (True, True, False, True):
        partial = models.new("share", "a")
        partial.begin()
        inner = partial.folder / "part" / "inner"
        inner.mkdir(parents=True)
        (inner / "weights").write_bytes(b"x")
        inner.chmod(0o500)
        inner.parent.chmod(0o500)
        paths.append(partial.complete())
        if keeps:
            partial.accept()
        partial.discard()
    assert [path.exists() for path in paths] == [False, True, False, True]


def test_folders_of_pulls_that_were_killed_at_once(tmp_path):
    """They have no lock yet: those that are old are removed."""
    place = tmp_path / "share" / "a-1"
    for name, age in (("1.new", 3_600), ("2.new", 0)):
        (place / name / "files").mkdir(parents=True)
        then = time.time() - age
        os.utime(place / name, (then, then))
    PulledModels(tmp_path).remove_leftovers()
    assert [each.name for each in place.iterdir()] == ["2.new"]


async def test_a_damaged_file_is_not_served(share, ask, tmp_path):
    """A wrong checksum fails the pull; the model stays what it was."""
    point, folder = share
    settings = {"plugins": {"share": {"folder": str(folder)}}}
    async with ask(point, **settings) as asked:
        assert await asked.pull(HARBOUR) == (202, "pulled")
        before = kept(tmp_path)
        (folder / "detectors/harbour/parts/model.safetensors").write_bytes(b"2" * 300_000)
        said = "parts/model.safetensors has arrived damaged"
        assert await asked.pull(HARBOUR) == (400, said)
        assert await asked.infer(HARBOUR) == 200
        assert [each["error"] for each in await asked.json("/v1/pulls")] == [said]
    assert kept(tmp_path) == before


async def test_without_the_share_an_earlier_copy_is_used(share, ask, tmp_path):
    """A share that is away fails a first pull only; removed, the model is found again."""
    point, folder = share
    settings = {"plugins": {"share": {"folder": str(folder)}}}
    away = folder.rename(folder.with_name("away"))
    async with ask(point, **settings) as asked:
        assert await asked.pull(HARBOUR) == (400, "the share is not mounted")
        away.rename(folder)
        assert await asked.pull(HARBOUR) == (202, "pulled")
        folder.rename(away)
        assert await asked.pull(HARBOUR) == (202, "pulled")
        assert (await asked.json(f"/v1/models/{HARBOUR}", "DELETE"))["status"] == "removed"
    models = [{"model": HARBOUR, "task": "detect"}]
    async with ask(point, models=models, **settings) as asked:
        assert (await asked.json("/ready"))["status"] == "ready"
        assert await asked.infer(HARBOUR) == 200


async def test_a_model_that_nothing_serves_is_not_kept(share, ask, tmp_path):
    """The task decides, once the files are there."""
    point, folder = share
    async with ask(point, plugins={"share": {"folder": str(folder)}}) as asked:
        said = f"Task mismatch: {HARBOUR} (fake) serves classify, detect, track, not depth"
        assert await asked.pull(HARBOUR, "depth") == (400, said)
    assert kept(tmp_path) == []

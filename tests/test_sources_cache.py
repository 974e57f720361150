"""The hub's cache as it is read without the library, compared with the library where it can be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from mataserver.sources.cache import cache_directory, cached, disk_usage

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LIBRARY = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"


class Cache:
    """A cache with one repository, built by hand."""

    def __init__(self, home: Path) -> None:
        self.repository = home / "models--org--m"
        self.point_main_to(COMMIT)

    def point_main_to(self, commit: str) -> None:
        (self.repository / "refs").mkdir(parents=True, exist_ok=True)
        (self.repository / "refs" / "main").write_text(commit)

    def link(self, name: str, blob: str, commit: str = COMMIT) -> Path:
        link = self.repository / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        target = self.repository / "blobs" / blob
        link.symlink_to(os.path.relpath(target, link.parent))
        return link

    def store(self, blob: str, size: int, atime: float = 1.0) -> None:
        path = self.repository / "blobs" / blob
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (atime, 1.0))

    def add(self, name: str, size: int = 10, commit: str = COMMIT, atime: float = 1.0) -> None:
        blob = name.replace("/", "_")
        self.store(blob, size, atime)
        self.link(name, blob, commit)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cache = Cache(tmp_path)
    cache.add("config.json")
    return cache


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"XDG_CACHE_HOME": "/x", "HF_HOME": "~/h"},
        {"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old"},
        {"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "$HOME/c"},
    ],
)
def test_directory_is_the_librarys(variables, monkeypatch):
    """The same variables lead to the same directory as in huggingface_hub."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], check=True, capture_output=True, text=True
    )
    assert cache_directory() == Path(done.stdout.rstrip("\n"))


def test_directory_of_a_given_environment():
    """A given environment is asked instead of the process's own."""
    assert cache_directory({"HF_HOME": "/h"}) == Path("/h/hub")


@pytest.mark.parametrize(
    "weights",
    [
        ["model.safetensors"],
        ["pytorch_model.bin"],
        ["onnx/model.onnx"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    ],
)
def test_complete_snapshot_is_found(cache, weights):
    """A snapshot with configuration and all its weights is cached."""
    for name in weights:
        cache.add(name)
    assert cached("org/m") == cache.repository / "snapshots" / COMMIT


@pytest.mark.parametrize(
    "weights", [[], ["README.md"], ["model-00001-of-00002.safetensors", "model.safetensors"]]
)
def test_snapshot_without_all_its_weights_is_incomplete(cache, weights):
    """What another program left by looking at the configuration is no cached model."""
    for name in weights:
        cache.add(name)
    assert cached("org/m") is None


def test_snapshot_without_config_is_incomplete(tmp_path):
    """Weights alone are no model."""
    cache = Cache(tmp_path)
    cache.add("model.safetensors")
    assert cached("org/m") is None


def test_link_to_nothing_makes_a_snapshot_incomplete(cache):
    """Contents that have been deleted under their links are noticed."""
    cache.add("model.safetensors")
    link = cache.link("extra.txt", "gone")
    assert cached("org/m") is None
    link.unlink()
    assert cached("org/m") is not None


@pytest.mark.parametrize("commit", ["", "../../elsewhere", "f" * 40])
def test_main_that_leads_nowhere_is_no_model(cache, commit):
    """A damaged or foreign reference is not followed."""
    cache.add("model.safetensors")
    cache.point_main_to(commit)
    assert cached("org/m") is None


def test_unknown_repository_has_no_size(cache):
    """What is not in the cache has neither snapshot nor size."""
    assert cached("org/other") is None
    assert disk_usage("org/other") is None


def test_disk_usage_is_the_librarys(cache):
    """Contents shared by revisions count once, unreferenced ones not, the newest access wins."""
    cache.add("model.safetensors", 1000, atime=5.5)
    cache.add("sub/other.txt", 50, commit="b" * 40, atime=9.25)
    cache.link("model.safetensors", "model.safetensors", commit="b" * 40)
    plain = cache.repository / "snapshots" / COMMIT / "plain.txt"
    plain.write_bytes(b"12345")
    os.utime(plain, (2.0, 2.0))
    cache.store("f00.incomplete", 7777, atime=99.0)
    usage = disk_usage("org/m")
    (scanned,) = scan_cache_dir(cache.repository.parent).repos
    assert (usage.size_bytes, usage.last_accessed) == (scanned.size_on_disk, scanned.last_accessed)
    assert usage.size_bytes == 10 + 1000 + 50 + 5
    assert usage.last_accessed == 9.25


def test_disk_usage_counts_what_is_left(cache):
    """A link to nothing does not hide the size of the rest."""
    cache.link("model.safetensors", "gone")
    assert disk_usage("org/m").size_bytes == 10

"""The directory of exported models: what is begun, finished, held, and swept away."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mataserver import Conflict, MataError
from mataserver_onnx.export.export_store import ExportStore

EXPORT = """
import sys
from pathlib import Path
from mataserver_onnx.export.export_store import ExportStore

store = ExportStore(Path(sys.argv[1]), lambda: [])
with store.claim(store.path_for("net", Path(sys.argv[2]))) as part:
    (part / "half").write_text("x")
    print(part, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def model(tmp_path):
    """The directory of a checkpoint."""
    path = tmp_path / "net"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture
def used():
    """What is registered: a list to be filled."""
    return []


@pytest.fixture
def store(tmp_path, used):
    return ExportStore(tmp_path / "data" / "converted", lambda: used)


def made(tmp_path):
    place = tmp_path / "data" / "converted"
    return sorted(each.name for each in place.iterdir() if each.is_dir()) if place.exists() else []


def fill(store, place):
    """Export to a place; None if it is there already."""
    with store.claim(place) as part:
        if part is None:
            return None
        (part / "model.onnx").write_text("x")
        return store.publish(part)


@contextlib.contextmanager
def exporting(tmp_path, model):
    """An export under way in a process of its own: the process, and the directory it fills."""
    command = [sys.executable, "-c", EXPORT, str(tmp_path / "data" / "converted"), str(model)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_an_export_is_whole_or_not_there(store, model, used, tmp_path):
    """It gets its name when it is finished; registered, it stays, and is not made again."""
    place = store.path_for("org/net", model)
    with store.claim(place) as part:
        assert (part.parent, list(part.iterdir())) == (place.parent, [])
        assert not place.exists()
        store.publish(part)
        used.append(place)
    assert made(tmp_path) == [place.name]
    assert fill(store, place) is None
    assert made(tmp_path) == [place.name]
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_what_is_not_registered_goes(store, model, used, tmp_path):
    """One that fails, one that nobody registered, and one that is registered no more."""
    place = store.path_for("net", model)
    with contextlib.suppress(MataError), store.claim(place) as part:
        (part / "half").write_text("x")
        raise MataError("it is worse than before")
    assert made(tmp_path) == []
    assert fill(store, place) == place
    assert made(tmp_path) == []
    with store.claim(place) as part:
        used.append(store.publish(part))
    assert made(tmp_path) == [place.name]
    used.clear()
    store.delete_unused()
    assert made(tmp_path) == []


def test_a_changed_model_has_another_place(store, model):
    """So has one whose exporter changed, or another task; the same model has the same."""
    first = store.path_for("net", model, "classify", "1")
    assert store.path_for("net", model, "classify", "1") == first
    assert store.path_for("net", model, "classify", "2") != first
    assert store.path_for("net", model, "embed", "1") != first
    (model / "model.safetensors").write_bytes(b"other weights")
    assert store.path_for("net", model, "classify", "1") != first


def test_two_processes_do_not_export_the_same(store, model, tmp_path):
    """The second is refused, and leaves the first one's directory alone, also when it sweeps."""
    with exporting(tmp_path, model) as (_, directory):
        with pytest.raises(Conflict, match="being exported by another process"):
            fill(store, store.path_for("net", model))
        assert made(tmp_path) == [Path(directory).name]
        assert [each.name for each in Path(directory).iterdir()] == ["half"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_ended(store, model, number, tmp_path):
    """It leaves nothing; what SIGKILL left is swept by the next one."""
    with exporting(tmp_path, model) as (process, _):
        process.send_signal(number)
        process.wait(50)
    assert len(made(tmp_path)) == (number == signal.SIGKILL)
    assert fill(store, store.path_for("other", model)) is not None
    assert made(tmp_path) == []


def test_the_same_directory_by_another_way(model, tmp_path):
    """What was registered through a symbolic link, or from where it leads, is not swept away."""
    place = tmp_path / "real" / "converted" / "net-1"
    place.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    used = [place]
    store = ExportStore(tmp_path / "link" / "converted", lambda: used)
    store.delete_unused()
    assert place.is_dir()
    used.clear()
    store.delete_unused()
    assert not place.is_dir()


def test_a_disk_that_refuses_is_told(store, model, tmp_path):
    """The reason is the system's; the place is for the operator alone."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(MataError, match="exported models cannot be written") as refused:
        fill(store, store.path_for("net", model))
    assert str(tmp_path) not in refused.value.detail
    assert str(tmp_path) in refused.value.hint

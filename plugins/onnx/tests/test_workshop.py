"""The directory of exported models: what is begun, finished, held, and swept away."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mataserver import Conflict, MataError
from mataserver_onnx.export.workshop import Workshop

EXPORT = """
import sys
from pathlib import Path
from mataserver_onnx.export.workshop import Workshop

workshop = Workshop(Path(sys.argv[1]), lambda: [])
with workshop.bench(workshop.place("net", Path(sys.argv[2]))) as part:
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
def workshop(tmp_path, used):
    return Workshop(tmp_path / "data" / "converted", lambda: used)


def made(tmp_path):
    place = tmp_path / "data" / "converted"
    return sorted(each.name for each in place.iterdir() if each.is_dir()) if place.exists() else []


def fill(workshop, place):
    """Export to a place; None if it is there already."""
    with workshop.bench(place) as part:
        if part is None:
            return None
        (part / "model.onnx").write_text("x")
        return workshop.finish(part)


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


def test_an_export_is_whole_or_not_there(workshop, model, used, tmp_path):
    """It gets its name when it is finished; registered, it stays, and is not made again."""
    place = workshop.place("org/net", model)
    with workshop.bench(place) as part:
        assert (part.parent, list(part.iterdir())) == (place.parent, [])
        assert not place.exists()
        workshop.finish(part)
        used.append(place)
    assert made(tmp_path) == [place.name]
    assert fill(workshop, place) is None
    assert made(tmp_path) == [place.name]
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_what_is_not_registered_goes(workshop, model, used, tmp_path):
    """One that fails, one that nobody registered, and one that is registered no more."""
    place = workshop.place("net", model)
    with contextlib.suppress(MataError), workshop.bench(place) as part:
        (part / "half").write_text("x")
        raise MataError("it is worse than before")
    assert made(tmp_path) == []
    assert fill(workshop, place) == place
    assert made(tmp_path) == []
    with workshop.bench(place) as part:
        used.append(workshop.finish(part))
    assert made(tmp_path) == [place.name]
    used.clear()
    workshop.sweep()
    assert made(tmp_path) == []


def test_a_changed_model_has_another_place(workshop, model):
    """So has one whose exporter changed, or another task; the same model has the same."""
    first = workshop.place("net", model, "classify", "1")
    assert workshop.place("net", model, "classify", "1") == first
    assert workshop.place("net", model, "classify", "2") != first
    assert workshop.place("net", model, "embed", "1") != first
    (model / "model.safetensors").write_bytes(b"other weights")
    assert workshop.place("net", model, "classify", "1") != first


def test_two_processes_do_not_export_the_same(workshop, model, tmp_path):
    """The second is refused, and leaves the first one's directory alone, also when it sweeps."""
    with exporting(tmp_path, model) as (_, directory):
        with pytest.raises(Conflict, match="being exported by another process"):
            fill(workshop, workshop.place("net", model))
        assert made(tmp_path) == [Path(directory).name]
        assert [each.name for each in Path(directory).iterdir()] == ["half"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_ended(workshop, model, number, tmp_path):
    """It leaves nothing; what SIGKILL left is swept by the next one."""
    with exporting(tmp_path, model) as (process, _):
        process.send_signal(number)
        process.wait(50)
    assert len(made(tmp_path)) == (number == signal.SIGKILL)
    assert fill(workshop, workshop.place("other", model)) is not None
    assert made(tmp_path) == []


def test_the_same_directory_by_another_way(model, tmp_path):
    """What was registered through a symbolic link, or from where it leads, is not swept away."""
    place = tmp_path / "real" / "converted" / "net-1"
    place.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    used = [place]
    workshop = Workshop(tmp_path / "link" / "converted", lambda: used)
    workshop.sweep()
    assert place.is_dir()
    used.clear()
    workshop.sweep()
    assert not place.is_dir()


def test_a_disk_that_refuses_is_told(workshop, model, tmp_path):
    """The reason is the system's; the place is for the operator alone."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(MataError, match="exported models cannot be written") as refused:
        fill(workshop, workshop.place("net", model))
    assert str(tmp_path) not in refused.value.detail
    assert str(tmp_path) in refused.value.hint

"""Which files of an input are read, and that a change of them is noticed by the next attempt."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from mataserver_reconstruct import advice, intake, photos
from mataserver_reconstruct.local import LocalJob
from mataserver_reconstruct.spec import Limits, Spec
from mataserver_reconstruct.weights import Matchers
from mataserver_reconstruct.workspace import discard_stale

pytestmark = pytest.mark.timeout(300)


def bitmap(path, grey):
    """Write a small uncompressed photograph of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16, 3), grey, np.uint8)).save(path)


def attempt(source, output):
    """Begin a reconstruction as the command does; return the brightness that it reads, by name."""
    job, spec = LocalJob(output, source, None), Spec()
    discard_stale(job, spec, Matchers())
    return {photo.path: photo.measured.get("brightness") for photo in photos.prepare(job, spec)}


def test_a_folder_behind_a_link_is_looked_at(tmp_path):
    """Several folders are given to the command as links: what is added to one is read."""
    for name in ("monday", "tuesday"):
        bitmap(tmp_path / name / "a.bmp", 50)
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).symlink_to(tmp_path / name)
    assert len(attempt(tmp_path / "in", tmp_path / "out")) == 2
    bitmap(tmp_path / "tuesday" / "b.bmp", 90)
    assert attempt(tmp_path / "in", tmp_path / "out") == {
        "monday/a.bmp": 50.0, "tuesday/a.bmp": 50.0, "tuesday/b.bmp": 90.0,
    }  # fmt: skip


def test_another_photograph_of_the_same_size_is_noticed(tmp_path):
    """Uncompressed photographs are all of one size in bytes: it is not the old one that counts."""
    bitmap(tmp_path / "in" / "a.bmp", 50)
    assert attempt(tmp_path / "in", tmp_path / "out") == {"a.bmp": 50.0}
    bitmap(tmp_path / "in" / "a.bmp", 90)
    assert attempt(tmp_path / "in", tmp_path / "out") == {"a.bmp": 90.0}


def test_another_archive_of_the_same_size_is_noticed(tmp_path):
    """Archives of uncompressed photographs, too: what tells them apart are their checksums."""
    (tmp_path / "in").mkdir()
    for grey in (50.0, 90.0):
        bitmap(tmp_path / "a.bmp", grey)
        with zipfile.ZipFile(tmp_path / "in" / "photos.zip", "w") as archive:
            archive.write(tmp_path / "a.bmp", "a.bmp")
        os.utime(tmp_path / "in" / "photos.zip", (1e9, 1e9))
        assert attempt(tmp_path / "in", tmp_path / "out") == {"a.bmp": grey}
    manifest = (tmp_path / "out" / "work" / "photos.json").stat()
    os.utime(tmp_path / "in" / "photos.zip", (2e9, 2e9))  # as a copy on another node
    assert attempt(tmp_path / "in", tmp_path / "out") == {"a.bmp": 90.0}
    assert (tmp_path / "out" / "work" / "photos.json").stat() == manifest  # gone on with


@pytest.mark.parametrize("output", [".", "model"])
def test_an_output_among_the_photographs_is_none_of_them(output, tmp_path):
    """``reconstruct . -o model``: the next attempt does not read its own working copies."""
    bitmap(tmp_path / "a.bmp", 50)
    bitmap(tmp_path / "day" / "b.bmp", 90)
    first = attempt(tmp_path, tmp_path / output)
    manifest = (tmp_path / output / "work" / "photos.json").stat()
    assert attempt(tmp_path, tmp_path / output) == first == {"a.bmp": 50.0, "day/b.bmp": 90.0}
    assert (tmp_path / output / "work" / "photos.json").stat() == manifest  # gone on with
    assert attempt(tmp_path, tmp_path / "other") == first


def test_photographs_of_other_formats_are_told(tmp_path):
    """A raw photograph without a JPEG beside it is missing in the model: that is said."""
    for name in ("1.jpg", "1.CR2", "x/2.dng", ".3.dng", "y/1.NEF", "notes.txt", "clip.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for name in ("a/10.raf", "a/b.JPG", "a/B.arw", "__MACOSX/a/._c.arw"):
            archive.writestr(name, b"x")
    lost = intake.left_out(tmp_path)
    assert lost == ["1.NEF", "2.dng", "10.raf"]
    said = "3 photographs are in a format that is not read: 1.NEF, 2.dng, 10.raf."
    assert advice.left_out(lost) == [f"{said} Convert them to JPEG or PNG."]
    assert advice.left_out([]) == []


def test_a_circle_of_links_ends(tmp_path):
    """A link to a folder above is not followed again and again."""
    bitmap(tmp_path / "in" / "a.bmp", 50)
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert [source.name for source in intake.find_sources(tmp_path / "in")] == ["a.bmp"]


def test_a_file_that_its_disk_does_not_give_is_unreadable(tmp_path):
    """One bad sector costs one photograph."""
    bitmap(tmp_path / "in" / "a.bmp", 50)
    (tmp_path / "in" / "bad.jpg").symlink_to("/proc/self/mem")  # reading it is an I/O error
    assert attempt(tmp_path / "in", tmp_path / "out") == {"a.bmp": 50.0, "bad.jpg": None}
    sources, _ = intake.list_photos(tmp_path / "in", Limits())
    assert list(intake.read(sources, Limits()))[1] == b""


def test_a_full_disk_is_told_in_a_line(tmp_path):
    """The command says what to do, without a trace, where a working copy finds no room."""
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "a.bmp")
    command = [sys.executable, "-m", "mataserver", "reconstruct", tmp_path / "in", "-o"]
    done = subprocess.run(
        [*map(str, command), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)),
    )
    assert done.returncode == 1
    why = "error: the disk is full; the same command goes on with it once there is room"
    assert why in done.stderr
    assert "Traceback" not in done.stderr

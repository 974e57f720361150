"""What a power failure leaves: names without content, and files without their last bytes.

The disk takes content and names in any order unless it is told to wait. So the tests make what it
may leave, and watch that every file was on it before it got its name.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec import Struct

from mataserver import BadRequest, Conflict
from mataserver_jobs import child, durable
from mataserver_jobs.desk import Desk
from mataserver_jobs.infer import _DoneMark
from mataserver_jobs.kinds import Assignment, JobKind
from mataserver_jobs.storage import Storage
from mataserver_jobs.uploads import Uploads
from mataserver_jobs.video_parts import VideoParts

WRONG = "sha1 " + base64.b64encode(bytes(20)).decode()


class Disk:
    """What was done in its order: ("sync", inode), ("named", inode, folder), ("gone", folder)."""

    def __init__(self):
        self.done = []

    def unordered(self):
        """Return what got its name before its content was on the disk."""
        return [
            each
            for at, each in enumerate(self.done)
            if each[0] == "named" and ("sync", each[1]) not in self.done[:at]
        ]

    def unsynced_folders(self):
        """Return the folders whose names changed and were not told to be on the disk since."""
        return [
            each
            for at, each in enumerate(self.done)
            if each[0] in {"named", "gone"} and ("sync", each[-1]) not in self.done[at:]
        ]


@pytest.fixture
def disk(monkeypatch):
    """Notes what the disk is told."""
    noted, really = (
        Disk(),
        SimpleNamespace(fsync=os.fsync, replace=Path.replace, unlink=Path.unlink),
    )

    def fsync(file):
        really.fsync(file)
        noted.done.append(("sync", os.fstat(file).st_ino))

    def replace(path, target):
        inode, folder = path.stat().st_ino, Path(target).parent.stat().st_ino
        really.replace(path, target)
        noted.done.append(("named", inode, folder))

    def unlink(path, **more):
        folder = path.parent.stat().st_ino
        really.unlink(path, **more)
        noted.done.append(("gone", folder))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    return noted


@pytest.fixture
def uploads(tmp_path, clock):
    """Uploads that are kept for a minute."""
    limits = {"max_bytes": 10**9, "budget": 10**12, "keep": 60.0, "min_free": 0}
    return Uploads(tmp_path / "uploads", **limits, clock=clock)


def sha1(data):
    """Return the checksum of a part."""
    return "sha1 " + base64.b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


def killed(uploads, made, offset, data, checksum):
    """Write a part of which the server does not see the end."""
    writer = uploads.writer(made, offset, checksum)
    writer.write(data)
    writer._file.close()


def test_bytes_that_never_were_on_the_disk(uploads):
    """They are sent again; nothing else counts in their place."""
    made = uploads.create("ada", 6)
    killed(uploads, made, 0, b"abcd", "")
    killed(uploads, made, 4, b"e", WRONG)
    os.truncate(uploads._root / made.id / "data", 2)
    assert uploads.get(made.id).offset == 2
    with pytest.raises(Conflict, match="goes on at 2, not at 4"):
        uploads.writer(made, 4)
    assert uploads.get(made.id).offset == 2
    writer = uploads.writer(made, 2, sha1(b"cdef"))
    writer.write(b"cdef")
    writer.finish()
    writer.close()
    assert uploads.get(made.id).offset == 6
    assert (uploads._root / made.id / "data").read_bytes() == b"abcdef"


def test_a_mark_that_cannot_be_read(uploads):
    """Nothing counts, and the other uploads are seen."""
    made, other = uploads.create("ada", 6), uploads.create("ada", 6)
    killed(uploads, made, 0, b"abc", WRONG)
    for left in (b"", bytes(4)):
        (uploads._root / made.id / "unchecked").write_bytes(left)
        assert uploads.get(made.id).offset == 0
    assert uploads.get(other.id).offset == 0
    uploads.writer(made, 0).close()


def test_what_an_upload_is_known_by(uploads, disk):
    """An upload that was answered, and each of its parts, is there after the failure."""
    made = uploads.create("ada", 6)
    assert ("sync", uploads._root.stat().st_ino) in disk.done
    killed(uploads, made, 0, b"ab", WRONG)
    for offset, data in ((0, b"abc"), (3, b"def")):
        writer = uploads.writer(made, offset, sha1(data))
        writer.write(data)
        writer.finish()
        writer.close()
        uploads.extend(made)
    assert len(disk.done) > 10
    assert disk.unordered() == disk.unsynced_folders() == []


def test_what_does_not_count_goes_before_its_mark(uploads, disk):
    """Else the disk may have the bytes without the mark: they would count unchecked."""
    made = uploads.create("ada", 6)
    writer = uploads.writer(made, 0, WRONG)
    writer.write(b"abc")
    data = (uploads._root / made.id / "data").stat().st_ino
    disk.done.clear()
    writer.close()
    assert [each[0] for each in disk.done] == ["sync", "gone", "sync"]
    assert disk.done[0] == ("sync", data)


def test_the_steps_of_a_job(disk, tmp_path):
    """A part of a video is whole where it has its name; an empty one would be left out."""
    (tmp_path / "film").mkdir()
    parts = VideoParts(tmp_path / "film")
    parts.add(0, [(np.zeros((48, 64, 3), np.uint8), 0.0)])
    assert parts.join(tmp_path / "video.mp4")
    _DoneMark(SimpleNamespace(work=tmp_path)).set(is_damaged=True)
    assert len([each for each in disk.done if each[0] == "named"]) == 4
    assert disk.unordered() == []


def made_by(job):
    """Make files in two folders; fail where the job is asked to."""
    (job.output / "deep").mkdir()
    (job.output / "deep" / "cloud.ply").write_text("ply")
    (job.output / "summary.json").write_text("{}")
    (job.output / "link").symlink_to("/dev/zero")
    if job.spec:
        raise BadRequest("it fails")


@pytest.mark.parametrize(("fails", "how"), [(False, "done"), (True, "failed")])
def test_what_a_job_made(disk, tmp_path, fails, how):
    """All of it is on the disk when its end is told: a job that has ended is not run again."""
    folder, told = tmp_path / "job", []
    function = f"{made_by.__module__}:{made_by.__qualname__}"
    assignment = Assignment("job", function, fails, str(folder), 1, None, None)

    def send(ended):
        told.append((ended.how, list(disk.done)))

    child.run(SimpleNamespace(messages=lambda _kind: iter([assignment]), send=send))
    output = folder / "output"
    wanted = [folder, output, *(path for path in output.rglob("*") if not path.is_symlink())]
    ((ended, done),) = told
    assert ended == how
    assert {("sync", path.stat().st_ino) for path in wanted} <= set(done)


@pytest.mark.parametrize(("fails", "how"), [(False, "broken"), (True, "failed")])
def test_a_disk_that_fails_at_a_jobs_end(tmp_path, monkeypatch, fails, how):
    """What the job itself told wins: it would be run again in vain. No result counts unsynced."""
    told = []

    def broken(_file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    function = f"{made_by.__module__}:{made_by.__qualname__}"
    assignment = Assignment("job", function, fails, str(tmp_path / "job"), 1, None, None)
    child.run(SimpleNamespace(messages=lambda _kind: iter([assignment]), send=told.append))
    (ended,) = told
    assert (ended.how, ended.error == "it fails") == (how, fails)


@pytest.mark.parametrize("reason", [errno.ENOENT, errno.EACCES])
def test_files_that_cannot_be_opened(disk, tmp_path, monkeypatch, reason):
    """A tool's file that went meanwhile, or is not readable: the others are on the disk."""
    for name in ("a", "odd", "z"):
        (tmp_path / name).write_text(name)
    really = os.open

    def opened(path, *more, **options):
        if str(path).endswith("odd"):
            raise OSError(reason, os.strerror(reason), str(path))
        return really(path, *more, **options)

    monkeypatch.setattr(os, "open", opened)
    durable.sync_all(tmp_path)
    wanted = {("sync", path.stat().st_ino) for path in (tmp_path / "a", tmp_path / "z", tmp_path)}
    assert wanted <= set(disk.done)


async def test_what_a_job_is_given(disk, store, tmp_path):
    """It is on the disk when the job is queued, which is answered."""
    kinds = {"made": JobKind(name="made", run=made_by, spec=Struct)}
    desk = Desk(store, Storage(tmp_path / "jobs", min_free=0), kinds, lambda: None, 10**9)
    queued, done = store.submit, []

    async def submit(*asked, **more):
        done.extend(disk.done)
        return await queued(*asked, **more)

    store.submit = submit
    async with desk.draft() as draft:
        (draft.input / "given").write_bytes(b"a picture")
        job = await desk.submit(draft, "made", "ada", Struct())
    folder = desk.storage.folder(job.id)
    wanted = [desk.storage.root, folder, folder / "input", folder / "input" / "given"]
    assert {("sync", path.stat().st_ino) for path in wanted} <= set(done)


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_writes_no_folders(tmp_path, monkeypatch, reason):
    """As SMB's: what is written there counts nevertheless; a file that is not written does not."""
    really = os.fsync

    def fsync(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(reason, os.strerror(reason))
        really(file)

    monkeypatch.setattr(os, "fsync", fsync)
    durable.replace(tmp_path / "mark", b"7")
    assert (tmp_path / "mark").read_bytes() == b"7"

    def broken(_file):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match=os.strerror(reason)):
        durable.replace(tmp_path / "mark", b"8")
    assert (tmp_path / "mark").read_bytes() == b"7"

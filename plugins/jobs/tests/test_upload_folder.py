"""The folder of uploads, with a clock that the test sets."""

from __future__ import annotations

import os
import shutil

import pytest

from mataserver import OutOfMemory
from mataserver_jobs.uploads import Uploads


@pytest.fixture
def uploads(tmp_path, clock):
    """Uploads that are kept for a minute."""
    limits = {"max_bytes": 10**9, "budget": 10**12, "keep": 60.0, "min_free": 0}
    return Uploads(tmp_path / "uploads", **limits, clock=clock)


def test_they_expire(uploads, clock, tmp_path):
    """An upload that nobody goes on with goes; going on begins its time anew."""
    old, new = uploads.create("ada", 3), uploads.create("ada", 3)
    clock.now += 40
    uploads.extend(new)
    clock.now += 40
    with pytest.raises(Exception, match="not found"):
        uploads.get(old.id)
    assert uploads.sweep() == 1
    assert uploads.get(new.id).id == new.id
    clock.now -= 10_000  # another database's time is behind: nothing lasts longer than it may
    assert uploads.sweep() == 1
    assert list((tmp_path / "uploads").iterdir()) == []


def test_what_nobody_knows(uploads, clock, tmp_path):
    """A folder of which nothing is known goes, unless it is known meanwhile: it was just made."""
    made = uploads.create("ada", 3)
    known = tmp_path / "uploads" / made.id / "known.json"
    kept = known.read_bytes()
    for _ in range(2):
        known.unlink()
        assert uploads.sweep() == 0
        clock.now += 3_000
        assert uploads.sweep() == 0
        known.write_bytes(kept)
        uploads.extend(made)
        assert uploads.sweep() == 0
    known.unlink()
    os.utime(known.parent, (0, 0))  # the time of day says nothing
    assert uploads.sweep() == 0
    clock.now += 3_601
    assert uploads.sweep() == 1
    assert list((tmp_path / "uploads").iterdir()) == []


def test_what_is_promised(tmp_path, clock):
    """The disk must have room for all that is promised, not only for what has arrived."""
    free = shutil.disk_usage(tmp_path).free
    limits = {"max_bytes": 10**18, "budget": 10**19, "keep": 60.0, "min_free": 0}
    uploads = Uploads(tmp_path / "uploads", **limits, clock=clock)
    uploads.create("ada", free * 2 // 3)
    with pytest.raises(OutOfMemory, match="The disk has no room"):
        uploads.create("bob", free * 2 // 3)


def test_a_disk_that_is_full(uploads):
    """What the disk takes no more is an error that says so, which is answered 507."""
    made = uploads.create("ada", 10_000)
    folder = uploads._root / made.id
    writer = uploads.writer(made, 0)
    writer.write(b"abc")
    writer.finish()
    writer.close()
    (folder / "data").rename(folder / "kept")
    (folder / "data").symlink_to("/dev/full")
    writer = uploads.writer(made, 0)
    with pytest.raises(OSError, match="No space left"):
        writer.write(b"x")
    writer.close()


def test_two_servers(uploads):
    """While one server writes an upload another one is told 423."""
    made = uploads.create("ada", 10)
    writer = uploads.writer(made, 0)
    with pytest.raises(Exception, match="writes this upload now") as told:
        uploads.writer(made, 0)
    assert told.value.status == 423
    writer.close()
    uploads.writer(made, 0).close()

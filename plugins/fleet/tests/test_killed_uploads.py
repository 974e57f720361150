"""What a server that was killed left of an upload."""

from __future__ import annotations

import os
import time

from stand_in_fleet import until

from mataserver_database import boot
from mataserver_database.held_folders import UNKNOWN_SECONDS
from mataserver_fleet.files import FileStore


def aged(folder):
    """Have a folder be some minutes old."""
    os.utime(folder, (time.time() - 300,) * 2)
    return folder


def test_it_goes_with_the_next_look(tmp_path):
    """A folder that no server holds is nobody's; one that fills slowly stays."""
    files = FileStore(tmp_path, unfinished=1e9)
    left = tmp_path / "uploads" / f"{boot()}.left"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"half of a model")
    aged(left)
    with files.upload_folder() as filling:
        (filling / "0").write_bytes(b"arrives slowly")
        for age in (300, 86_400 * 2, -86_400):  # the last two: the clock was set meanwhile
            os.utime(filling, (time.time() - age,) * 2)
            files.clean_up(set())
            assert list((tmp_path / "uploads").iterdir()) == [filling]
    assert list((tmp_path / "uploads").iterdir()) == []


def test_that_of_another_machine_stays_for_a_day(tmp_path):
    """Its server may be receiving a large file, behind a lock that is not seen here."""
    files = FileStore(tmp_path, unfinished=1e9)
    filling = tmp_path / "uploads" / "another-boot.filling"
    filling.mkdir(parents=True)
    aged(filling)
    files.clean_up(set())
    assert filling.exists()
    os.utime(filling, (time.time() - UNKNOWN_SECONDS - 60,) * 2)
    files.clean_up(set())
    assert not filling.exists()


def test_a_clock_that_is_set_removes_no_upload(tmp_path, monkeypatch):
    """What arrives while the clock leaps decades stays; what nobody goes on with goes later."""
    files = FileStore(tmp_path, unfinished=1e9)
    chunk = tmp_path / "chunk"
    chunk.write_bytes(b"12345")
    target, size = files.append("model", chunk, 0, 100)
    leap = time.time() + 50 * 365 * 86_400.0
    monkeypatch.setattr("time.time", lambda: leap)
    files.clean_up(set())
    assert files.append("model", chunk, size, 100) == (target, 10)
    os.utime(target, (leap, leap))  # as the system's clock would
    for _ in range(2):
        files.clean_up(set())
    assert target.read_bytes() == b"1234512345"
    leap += 2 * 86_400.0
    files.clean_up(set())
    assert not target.exists()


async def test_a_server_that_runs_for_minutes_removes_old_files(serve, tmp_path, monkeypatch):
    """Its second look comes soon: only what stood still since the first is removed."""
    monkeypatch.setattr("mataserver_fleet.api.SECOND_LOOK_SECONDS", 0.05)
    old, new = (tmp_path / "fleet" / "blobs" / name[:2] / name for name in ("old", "new"))
    for path in (old, new):
        path.parent.mkdir(parents=True)
        path.touch()
    os.utime(old, (0, 0))
    async with serve():

        async def is_gone():
            return not old.exists()

        await until(is_gone)
        assert new.exists()

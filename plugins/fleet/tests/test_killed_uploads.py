"""What a server that was killed left of an upload."""

from __future__ import annotations

import os
import time

from mataserver_fleet.files import FileStore


def aged(folder):
    """Have a folder be some minutes old."""
    os.utime(folder, (time.time() - 300,) * 2)
    return folder


def test_it_goes_with_the_next_look(tmp_path):
    """A folder that no server holds is nobody's; one that fills slowly stays."""
    files = FileStore(tmp_path, unfinished=1e9)
    left = tmp_path / "uploads" / "left"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"half of a model")
    aged(left)
    with files.upload_folder() as filling:
        (filling / "0").write_bytes(b"arrives slowly")
        aged(filling)
        files.clean_up(set())
        assert list((tmp_path / "uploads").iterdir()) == [filling]
    assert list((tmp_path / "uploads").iterdir()) == []

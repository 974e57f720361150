"""State of an attempt that the disk has damaged: the next one makes it anew, and ends."""

from __future__ import annotations

import random
import shutil
import sqlite3

import pytest

from mataserver_reconstruct import database_check
from mataserver_reconstruct.files import MANIFEST

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]
PAGE = 4096


@pytest.fixture(scope="module")
def ended(strip, reconstructed):
    """The folder of a reconstruction that has ended."""
    folder, end, _ = reconstructed(strip, **QUICK)
    assert end.how == "done"
    return folder


QUICK = {"max_size": 640, "max_keypoints": 1024}


def noise(path, start=0):
    """Overwrite a file with noise, from a byte on."""
    data = path.read_bytes()
    path.write_bytes(data[:start] + random.Random(0).randbytes(len(data) - start))


@pytest.mark.parametrize(
    ("name", "start"), [("database.db", 0), ("database.db", PAGE), (MANIFEST, 0)]
)
def test_what_is_damaged_is_made_anew(ended, strip, begin, tmp_path, name, start):
    """Each attempt failed by it, and said that the same command goes on with it."""
    folder = tmp_path / "copy"
    shutil.copytree(ended, folder)
    noise(folder / "work" / name, start)
    process = begin(strip, folder, **QUICK)
    end = process.end()
    assert (end.how, end.figures["n_registered"]) == ("done", 6)
    said = [step.message for step in process.steps]
    assert any("damaged" in each for each in said) == (name != MANIFEST)
    assert database_check.main(str(folder / "work" / "database.db")) == 0


def test_what_says_nothing_about_the_content(tmp_path):
    """A database that is whole, or cannot be read now, is not given up."""
    path = tmp_path / "a.db"
    assert database_check.main(str(path)) == 0
    with sqlite3.connect(path) as opened:
        opened.execute("PRAGMA journal_mode = WAL")
        opened.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB NOT NULL)")
        opened.executemany("INSERT INTO rows (data) VALUES (?)", [(bytes(PAGE),)] * 20)
    opened.close()
    assert database_check.main(str(path)) == 0
    whole = path.read_bytes()
    path.write_bytes(whole[: 5 * PAGE])
    assert database_check.main(str(path)) == database_check.DAMAGED

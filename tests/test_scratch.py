"""Temporary directories of workers: gone with whoever had them, however that ended."""

from __future__ import annotations

import os
import signal
import tempfile
import time

import pytest

from mataserver.engines.zygote import ScratchDirectory, remove_stale


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Directories of other tests' workers are out of reach."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_one_that_is_in_use_is_left_alone(tmp_path):
    """Nobody sweeps what somebody has; it goes when it is removed."""
    scratch = ScratchDirectory()
    remove_stale()
    assert [str(path) for path in tmp_path.iterdir()] == [scratch.path]
    scratch.remove()
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept(tmp_path):
    """Its child holds the directory as long as it lives, then anybody's sweep removes it."""
    read, write = os.pipe()
    owner = os.fork()
    if owner == 0:
        scratch = ScratchDirectory()
        (tmp_path / str(scratch.path) / "file").write_text("left")
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        os.write(write, str(child).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(owner, 0)
    child = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    remove_stale()
    assert len(list(tmp_path.iterdir())) == 1
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        remove_stale()  # the kernel releases the lock at the child's end, which may come late
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_a_file_are_no_directories_of_workers(tmp_path):
    """A link that looks like one is not followed."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "mataserver-worker-link").symlink_to(kept)
    (tmp_path / "mataserver-worker-file").touch()
    remove_stale()
    assert len(list(tmp_path.iterdir())) == 3

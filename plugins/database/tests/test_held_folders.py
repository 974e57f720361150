"""Whose a folder is: its server's while that holds it, nobody's once nobody does."""

from __future__ import annotations

import os
import time

import pytest

from mataserver_database import boot, hold, is_left
from mataserver_database.held_folders import UNHELD_SECONDS, UNKNOWN_SECONDS


@pytest.fixture
def folder(tmp_path):
    """A folder, made a while ago."""
    made = tmp_path / "made"
    made.mkdir()
    aged(made, 2 * UNHELD_SECONDS)
    return made


def aged(folder, seconds):
    """Let a folder be that old."""
    then = time.time() - seconds
    os.utime(folder, (then, then))


def test_a_held_folder_is_its_servers(folder):
    """However old it seems."""
    held = hold(folder)
    aged(folder, 10 * UNKNOWN_SECONDS)
    assert not is_left(folder, boot())
    os.close(held)
    assert is_left(folder, boot())


def test_a_look_keeps_no_server_from_locking_its_new_folder(folder, monkeypatch):
    """A look takes the lock for a moment: a folder that is about to be locked is not looked at."""
    aged(folder, 0)
    looks = []
    monkeypatch.setattr("fcntl.flock", lambda *_: looks.append(1))
    assert not is_left(folder, boot())
    assert looks == []


def test_a_folder_of_another_machine_is_left_after_a_day(folder):
    """Its locks need not be seen here."""
    assert not is_left(folder, "another boot")
    aged(folder, UNKNOWN_SECONDS + 1)
    assert is_left(folder, "another boot")

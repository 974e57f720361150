"""The files by which gateways on a SQLite database see one another."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import types
from pathlib import Path

import pytest

from mataserver_fleet.gateway import presence
from mataserver_fleet.gateway.presence import PresenceFile
from open_files import no_descriptors


@contextlib.contextmanager
def gateways(folder, count):
    """Give gateways that run."""
    with contextlib.ExitStack() as running:
        made = [PresenceFile(folder, f"gateway-{number}") for number in range(count)]
        for each in made:
            each.begin()
            running.callback(each.close)
        yield made


@pytest.fixture
def two(tmp_path):
    """Two gateways that run."""
    with gateways(tmp_path, 2) as made:
        yield made


def test_the_file_of_a_gateway_that_was_killed(tmp_path):
    """It does not count, and is removed; those of gateways that run stay."""
    with gateways(tmp_path, 3) as every:
        (tmp_path / "gateway-killed").touch()
        assert [each.others() for each in every] == [2, 2, 2]
        assert len(list(tmp_path.iterdir())) == 3
        every[0].close()
        assert [each.others() for each in every[1:]] == [1, 1]
    assert not list(tmp_path.iterdir())


def test_without_descriptors_the_others_still_count(two):
    """A gateway that cannot look does not believe that it is alone."""
    assert two[0].others() == 1
    with no_descriptors():
        assert two[0].others() == 1
    two[1].close()
    assert two[0].others() == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_file_that_cannot_be_opened_counts_as_before(two, monkeypatch, number):
    """The folder could be read, with the last descriptor."""
    assert two[0].others() == 1

    def full(*_):
        raise OSError(number, "full")

    with monkeypatch.context() as patched:
        patched.setattr(presence, "os", types.SimpleNamespace(**{**vars(os), "open": full}))
        assert two[0].others() == 1


def test_a_gateway_that_began_without_descriptors_is_seen_later(tmp_path, two):
    """It makes its file once it can."""
    late = PresenceFile(tmp_path, "gateway-late")
    with no_descriptors():
        late.begin()
        with pytest.raises(OSError, match="Too many open files"):  # not: it is alone
            late.others()
    assert two[0].others() == 1
    assert late.others() == 2
    assert two[0].others() == 2
    late.close()
    assert (late.others(), two[0].others()) == (2, 1)  # closed: it does not come back


@pytest.mark.parametrize("failing", ["flock", "rename"])
def test_a_beginning_that_fails_leaves_nothing(tmp_path, monkeypatch, failing):
    """Neither a hidden file nor a descriptor."""
    before = len(list(Path("/proc/self/fd").iterdir()))

    def fail(*_):
        raise OSError(errno.ENOLCK, "no locks")

    if failing == "flock":
        monkeypatch.setattr(
            presence, "fcntl", types.SimpleNamespace(**{**vars(fcntl), "flock": fail})
        )
    else:
        monkeypatch.setattr("pathlib.Path.rename", fail)
    PresenceFile(tmp_path, "gateway-0").begin()
    assert not list(tmp_path.iterdir())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_a_gateway_left_that_was_killed_as_it_began(tmp_path, two):
    """It goes; that of one which begins just now stays."""
    left, begins = tmp_path / ".gateway-left", tmp_path / ".gateway-begins"
    left.touch()
    begins.touch()
    os.utime(left, (time.time() - 3600,) * 2)
    assert two[0].others() == 1
    assert (left.exists(), begins.exists()) == (False, True)

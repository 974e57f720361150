"""A stranger's archive is unpacked in a process of its own, which tells of it and has a time."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace

import pytest
from test_archive import PICTURE, packed

from mataserver import BadRequest, run_process
from mataserver_reconstruct.archive_check import ArchiveChecker
from mataserver_reconstruct.spec import Limits


@pytest.fixture
def ctx():
    """What a service is given, as far as this needs it."""
    return SimpleNamespace(run_process=run_process, log=logging.getLogger("test"))


async def test_what_is_whole_and_what_is_damaged(ctx, tmp_path):
    """The child passes the one, and names the entry of the other."""
    whole = packed([("a.jpg", PICTURE), ("b.jpg", PICTURE)])
    file = tmp_path / "a.zip"
    file.write_bytes(whole)
    proving = ArchiveChecker(ctx)
    await proving.check(file, Limits())
    file.write_bytes(whole[:40] + b"\xff" * 20 + whole[60:])
    with pytest.raises(BadRequest, match=re.escape("'a.jpg' is damaged")):
        await proving.check(file, Limits())


async def test_what_takes_too_long(ctx, tmp_path):
    """It is refused once its time is over."""
    file = tmp_path / "a.zip"
    file.write_bytes(packed([("a.jpg", PICTURE)]))
    with pytest.raises(BadRequest, match="too long to unpack"):
        await ArchiveChecker(ctx, timeout=0.01).check(file, Limits())

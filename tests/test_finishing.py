"""Work that goes on although its caller is cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mataserver.finishing import open_file


class Slow:
    """A path whose file is opened once it may be."""

    def __init__(self, path):
        self._path = path
        self.asked, self.may = threading.Event(), threading.Event()
        self.file = None

    def open(self, mode):
        """Open the file."""
        self.asked.set()
        self.may.wait(30)
        self.file = self._path.open(mode)
        return self.file


@pytest.mark.parametrize("times", [1, 3])
async def test_who_is_cancelled_leaves_no_file_open(times, tmp_path):
    """The file that the thread opens after all is closed before the cancellation is told."""
    slow = Slow(tmp_path / "file")
    opening = asyncio.create_task(open_file(slow, "wb"))
    await asyncio.to_thread(slow.asked.wait, 30)
    for _ in range(times):
        opening.cancel()
        await asyncio.sleep(0.01)
    assert not opening.done()
    slow.may.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert slow.file.closed


async def test_what_cannot_be_opened_is_told(tmp_path):
    """The system's error comes through."""
    with pytest.raises(FileNotFoundError):
        await open_file(tmp_path / "none" / "file", "wb")

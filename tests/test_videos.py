"""How long a source of video is waited for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mataserver.media import videos


def test_a_frame_that_was_kept_until_the_time_was_up(monkeypatch):
    """FFmpeg gives it instead of an error; taken for new it would begin the time anew."""
    now = [0.0]
    monkeypatch.setattr(videos, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def demux(_stream):
        for seconds in (0.0, 1.9, 2.0, 0.1):
            now[0] += seconds
            yield seconds

    found = videos._packets(SimpleNamespace(demux=demux), None, 2.0)
    assert [next(found), next(found)] == [0.0, 1.9]
    now[0] += 60  # whoever takes the frames may take their time
    with pytest.raises(videos.UnreadableVideo, match="it sent nothing for too long"):
        next(found)

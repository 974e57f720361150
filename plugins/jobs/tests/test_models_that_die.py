"""``infer`` jobs whose model cannot be loaded, because its worker dies each time."""

from __future__ import annotations

import pytest
from films import video
from serving_jobs import SMALL, asking, lines, sent

pytestmark = pytest.mark.long


async def test_a_model_whose_loads_kill_its_worker(tmp_path):
    """The job fails with the server's sentence in its first attempt, and frees its slot."""
    plugins = {"jobs": SMALL, "database": {}, "fake": {"load_exits": True}}
    async with asking(tmp_path / "data", engine="process", plugins=plugins) as ask:
        path = video(tmp_path / "v.mp4", 3)
        job = await sent(ask, path, model="fake-detect")
        shown = await ask.ended(job)
        assert (shown["state"], shown["attempt"]) == ("failed", 1)
        assert shown["error"] == "The model could not be loaded: its worker died"
        assert await lines(ask, job) == []

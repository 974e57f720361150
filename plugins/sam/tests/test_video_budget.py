"""What a session's answers gather in memory counts as the caller's bytes in flight."""

from __future__ import annotations

import pytest
import pytest_asyncio

from mataserver.testing import installed, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOXES = [{"type": "box", "box": [x, 0.5, 0.3, 0.4], "label": True} for x in (0.3, 0.5, 0.7)]
FULL = {"detail": "Too many request bytes are in flight"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory, video_api, video_folder, sam3_path):
    """Calls a server that keeps at most 4,000 bytes of all clients."""
    roots = [str(video_folder / "roots")]
    async with (
        serving(
            tmp_path_factory.mktemp("small"),
            entry_points=installed("sam"),
            engine="thread",
            threads=1,
            max_body_mb=0.004,
            max_inflight_mb=0.004,
            plugins={"sam": {"model": str(sam3_path), "video_roots": roots}},
        ) as served,
        video_api.Client(served) as called,
    ):
        yield called


async def test_frames_that_are_gathered(api, long_video_path):
    """A propagation that outgrows the room ends there: 503; the session goes on."""
    async with api.session(long_video_path, *BOXES) as one:
        for _ in range(2):
            assert await one.ask("POST", "/propagate", {}) == (503, FULL)
            told = await one.status()
            assert told["frames_processed"] < told["total_frames"]
            answer = await one.ok("POST", "/propagate", {"max_frames": 1})
            assert answer["total_frames"] == 1
        assert (await one.status())["status"] == "ready"


async def test_a_video_that_is_gathered(api, long_video_path, video_path):
    """A drawn video likewise."""
    async with api.session(long_video_path) as long, api.session(video_path) as short:
        assert await long.ask("POST", "/video", {"frames": {}}) == (503, FULL)
        video = short.client.http.post(
            f"/api/v1/video/session/{short.id}/video", json={"frames": {}}
        )
        async with video as response:
            assert response.status == 200
            assert await response.read()
        assert (await long.status())["status"] == "ready"

"""Video sessions that meet: limits, business, and clients that leave."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = "/api/v1/video/session/start"
COUNT = 8
TEXT = {"type": "text", "text": "red car"}
BOX = {"type": "box", "box": [0.5, 0.5, 0.4, 0.4], "label": True}
POINT = {"type": "point", "points": [[0.3, 0.4], [0.6, 0.7]], "point_labels": [1, 1]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(video_api, video_server):
    """Calls a server."""
    async with video_server(max_sessions=3) as served, video_api.Client(served) as called:
        yield called


async def test_too_many_sessions(api, video_path):
    """The fourth of three sessions is refused with 503, until one is closed."""
    async with api.session(video_path), api.session(video_path):
        async with api.session(video_path):
            status, answer = await api.ask("POST", START, {"video_path": str(video_path)})
            assert (status, answer["detail"]) == (503, "Maximum concurrent sessions reached (3)")
        async with api.session(video_path):
            pass


async def test_anothers_session_is_not_there(api, video_api, video_path):
    """Nobody else lists, tells, prompts, tracks or closes a session, but administrators."""
    async with api.session(video_path, BOX) as first, video_api.Client(api, video_api.OTHER) as her:
        calls = [
            ("POST", "/prompt", {"frame_index": 0, "prompts": [BOX]}),
            ("POST", "/propagate", {}),
            ("GET", "/status", None),
            ("GET", "/frame/0", None),
            ("POST", "/video", {"frames": {}}),
            ("POST", "/reset", None),
            ("DELETE", "/object/1", None),
            ("DELETE", "", None),
        ]
        for method, route, body in calls:
            told = await her.ask(method, f"/api/v1/video/session/{first.id}{route}", body)
            assert told == (404, {"detail": f"Session not found: {first.id}"})
        async with her.http.ws_connect(f"{video_api.STREAM}/{first.id}") as socket:
            await socket.send_json({})
            assert (await socket.receive_json())["error"] == f"Session not found: {first.id}"
        assert await her.total() == 0
        async with her.session(video_path, BOX) as own:
            assert (await her.total(), await api.total()) == (1, 2)
            assert (await own.ok("POST", "/propagate", {"max_frames": 1}))["total_frames"] == 1
        assert (await first.status())["status"] == "ready"
        gone = await her.ask("GET", f"/api/v1/video/session/{own.id}/status")
        assert gone[1]["status"] == "closed"
        assert (await api.ok("GET", f"/api/v1/video/session/{own.id}/status"))["status"] == "closed"


async def test_two_callers_choose_one_name(api, video_api, video_path):
    """Neither learns of the other's session: each has its own, with its own objects and end."""
    async with video_api.Client(api, video_api.OTHER) as her:
        async with her.session(video_path, BOX, name="street") as hers:
            async with api.session(video_path, TEXT, BOX, POINT, name="street") as own:
                counts = [(await each.status())["current_objects"] for each in (own, hers)]
                assert counts[0] > counts[1] == 1
                again = {"video_path": str(video_path), "session_id": "street"}
                assert (await her.ask("POST", START, again))[0] == 409
                assert (await own.ok("POST", "/propagate", {"max_frames": 1}))["total_frames"] == 1
            assert (await own.status())["status"] == "closed"
            assert (await own.ask("DELETE", ""))[0] == 404
            status = await hers.status()
            assert (status["status"], status["current_objects"]) == ("ready", 1)
        assert (await hers.status())["status"] == "closed"
        async with api.session(video_path, name="street"):
            assert (await hers.status())["status"] == "closed"


async def test_a_busy_session_refuses(api, video_path, long_video_path):
    """While a session tracks, everything that would change it is refused; others are served."""
    async with (
        api.session(long_video_path, TEXT) as busy,
        api.session(video_path, BOX) as other,
    ):
        tracking = asyncio.create_task(busy.ok("POST", "/propagate", {"max_frames": 24}))
        while (await busy.status())["status"] != "processing":
            await asyncio.sleep(0.01)
        asked = {"frame_index": 0, "prompts": [BOX]}
        calls = [
            ("POST", "/prompt", asked),
            ("POST", "/propagate", {}),
            ("POST", "/reset", None),
            ("DELETE", "/object/1", None),
        ]
        answers = [await busy.ask(*call) for call in calls]
        assert not tracking.done()
        refused = {"detail": f"Session {busy.id} is busy"}
        assert answers == [(409, refused)] * 4
        assert (await other.ok("POST", "/propagate", {}))["total_frames"] == COUNT
        assert (await tracking)["total_frames"] == 24
        assert (await busy.status())["status"] == "ready"


async def test_closing_stops_a_propagation(api, long_video_path):
    """A session can be closed while it tracks: that ends at the next frame."""
    async with api.session(long_video_path, TEXT) as busy:
        tracking = asyncio.create_task(busy.ask("POST", "/propagate", {}))
        while (await busy.status())["frames_processed"] < 2:
            await asyncio.sleep(0.01)
        assert (await busy.ok("DELETE", ""))["status"] == "closed"
        assert await tracking == (404, {"detail": f"Session {busy.id} was closed"})
        assert (await busy.ask("POST", "/propagate", {}))[0] == 404


async def test_a_client_that_goes_away_frees_its_session(api, long_video_path):
    """When the client of a propagation hangs up, the work ends and the session is ready."""
    async with api.session(long_video_path, TEXT) as one:
        tracking = asyncio.create_task(one.ask("POST", "/propagate", {}))
        while (await one.status())["frames_processed"] < 2:
            await asyncio.sleep(0.01)
        tracking.cancel()
        await asyncio.gather(tracking, return_exceptions=True)
        while (status := await one.status())["status"] != "ready":
            await asyncio.sleep(0.01)
        assert status["frames_processed"] < status["total_frames"]
        assert (await one.ok("POST", "/propagate", {"max_frames": 2}))["total_frames"] == 2


async def test_interleaved_sessions_equal_sequential_ones(api, video_path):
    """Two sessions that track at the same time get what each gets alone."""
    async with api.session(video_path, TEXT, BOX) as one, api.session(video_path, POINT) as other:
        both = await asyncio.gather(*(each.ok("POST", "/propagate", {}) for each in (one, other)))
    alone = []
    for prompts in ((TEXT, BOX), (POINT,)):
        async with api.session(video_path, *prompts) as each:
            alone.append(await each.ok("POST", "/propagate", {}))
    assert [each["results"] for each in both] == [each["results"] for each in alone]


async def test_idle_sessions_expire(video_api, video_server, video_path):
    """A session that nobody uses is closed after a while."""
    async with video_server(session_ttl_s=0.3) as server, video_api.Client(server) as api:
        await api.ok("POST", START, {"video_path": str(video_path), "session_id": "idle"})
        while await api.total():
            await asyncio.sleep(0.05)
        here = "/api/v1/video/session/idle"
        assert (await api.ok("GET", f"{here}/status"))["status"] == "closed"
        assert (await api.ask("POST", f"{here}/reset"))[0] == 404


async def test_video_can_be_turned_off(video_api, video_server, video_path):
    """With ``video_enabled: false`` no session starts: 503."""
    async with video_server(video_enabled=False) as server, video_api.Client(server) as api:
        status, answer = await api.ask("POST", START, {"video_path": str(video_path)})
        assert (status, answer["detail"]) == (503, "Video inference is turned off on this server")


async def test_without_a_model(video_api, video_server, video_path):
    """Without a model behind the API a session is refused with 503, and no place is taken."""
    async with video_server(model="") as server, video_api.Client(server) as api:
        for _ in range(11):
            status, answer = await api.ask("POST", START, {"video_path": str(video_path)})
            assert (status, "No model is configured" in answer["detail"]) == (503, True)


async def test_images_only(video_api, video_server, video_path, sam1_path):
    """A SAM 1 knows no videos: 503."""
    async with video_server(model=str(sam1_path)) as server, video_api.Client(server) as api:
        status, answer = await api.ask("POST", START, {"video_path": str(video_path)})
        assert (status, answer["detail"]) == (503, "The model supports images only, not videos")

"""The video half of the SAM3 inference API on a real server: every route, field and refusal."""

from __future__ import annotations

import asyncio
import base64
import re
import signal

import aiohttp
import pytest
import pytest_asyncio

from own_processes import workers

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = "/api/v1/video/session/start"
SESSIONS = "/api/v1/video/sessions"
COUNT = 8
TEXT = {"type": "text", "text": "red car"}
BOX = {"type": "box", "box": [0.5, 0.5, 0.4, 0.4], "label": True}
POINT = {"type": "point", "points": [[0.3, 0.4], [0.6, 0.7]], "point_labels": [1, 1]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(video_api, video_server):
    """Calls a server."""
    async with (
        video_server(engine="process", max_sessions=3) as served,
        video_api.Client(served) as called,
    ):
        yield called


@pytest.fixture(scope="module")
def in_base64(video_path):
    """The video in base64."""
    return base64.b64encode(video_path.read_bytes()).decode()


async def propagated(api, here):
    """Track through the whole video; check what is answered."""
    asked = {"direction": "both", "start_frame_index": 0, "max_frames": 100, "stream": False}
    tracked = await api.ok("POST", f"{here}/propagate", asked)
    assert set(tracked) == {"session_id", "results", "total_frames", "processing_time_ms"}
    assert tracked["session_id"] == "custom-session-id"
    assert list(tracked["results"]) == [str(frame) for frame in range(COUNT)]
    assert tracked["total_frames"] == COUNT
    assert tracked["processing_time_ms"] > 0
    for name, result in tracked["results"].items():
        assert set(result) == {"frame_index", "objects"}
        assert result["frame_index"] == int(name)
        for each in result["objects"]:
            assert set(each) == {"id", "mask", "box", "score"}
            assert isinstance(each["mask"], str)
            assert len(each["box"]) == 4
            assert 0 <= each["score"] <= 1
    assert any(result["objects"] for result in tracked["results"].values())
    # Every field has a default: so has no body at all, without a content type.
    assert (await api.ok("POST", f"{here}/propagate"))["total_frames"] == COUNT


async def told(api, here):
    """Check a session's status and its line of the list; return the status."""
    status = await api.ok("GET", f"{here}/status")
    assert status == {
        "session_id": "custom-session-id",
        "status": "ready",
        "current_objects": status["current_objects"],
        "frames_processed": COUNT,
        "total_frames": COUNT,
        "gpu_memory_used_mb": 0.0,
    }
    assert status["current_objects"] >= 2
    (listed,) = (await api.ok("GET", SESSIONS))["sessions"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", listed.pop("created_at"))
    assert listed == {
        "session_id": "custom-session-id",
        "type": "video",
        "status": "ready",
        "objects_count": status["current_objects"],
    }
    return status


async def emptied(api, here, status):
    """Remove an object and then all; check what is left each time."""
    removed = await api.ok("DELETE", f"{here}/object/2")
    assert removed == {"session_id": "custom-session-id", "obj_id": 2, "status": "removed"}
    left = (await api.ok("GET", f"{here}/status"))["current_objects"]
    assert left == status["current_objects"] - 1
    cleared = await api.ok("POST", f"{here}/reset")
    assert cleared == {
        "session_id": "custom-session-id",
        "status": "reset",
        "objects_cleared": left,
    }
    assert (await api.ok("GET", f"{here}/status"))["frames_processed"] == 0


async def test_a_session_from_start_to_end(api, video_api, video_path, in_base64):
    """The document's own walk: start, prompt, propagate, status, list, remove, reset, close."""
    body = {"video_base64": in_base64, "session_id": "custom-session-id"}
    assert await api.ok("POST", START, body) == {
        "session_id": "custom-session-id",
        "video_info": {
            "total_frames": COUNT,
            "fps": 10.0,
            "resolution": {"width": 80, "height": 64},
            "duration_seconds": 0.8,
        },
        "status": "ready",
    }
    here = "/api/v1/video/session/custom-session-id"
    prompts = {"frame_index": 0, "prompts": [TEXT, BOX], "obj_id": None}
    given = await api.ok("POST", f"{here}/prompt", prompts)
    assert set(given) == {"frame_index", "obj_id", "masks", "boxes", "scores", "status"}
    assert (given["frame_index"], given["status"]) == (0, "prompt_added")
    assert given["obj_id"] == [1, 2]
    assert len(given["masks"]) == len(given["boxes"]) == len(given["scores"]) == 2
    await propagated(api, here)
    await emptied(api, here, await told(api, here))
    closed = await api.ok("DELETE", here)
    assert closed.pop("memory_freed_mb") > 0.01
    assert closed == {"session_id": "custom-session-id", "status": "closed"}
    assert await api.ok("GET", SESSIONS) == {"sessions": [], "total_sessions": 0}
    assert (await api.ask("GET", f"{SESSIONS}?limit=1"))[0] == 422
    ended = await api.ok("GET", f"{here}/status")
    assert (ended["status"], ended["current_objects"]) == ("closed", 0)


async def test_a_frame_out_of_a_worker_s_process(api, video_path):
    """A frame can be looked at where the model has a process of its own, and its file is gone."""
    data = base64.b64encode(video_path.read_bytes()).decode()
    await api.ok("POST", START, {"video_base64": data, "session_id": "seen"})
    async with api.http.get("/api/v1/video/session/seen/frame/7") as answer:
        assert (answer.status, answer.content_type) == (200, "image/jpeg")
    await api.ok("DELETE", "/api/v1/video/session/seen")


async def test_health_counts_sessions(api, video_path):
    """``GET /health`` tells how many sessions are open."""
    assert (await api.ok("GET", "/health"))["active_sessions"] == 0
    async with api.session(video_path):
        assert (await api.ok("GET", "/health"))["active_sessions"] == 1


async def test_ids_are_made_up(api, video_path):
    """Without an id each session gets one of its own."""
    async with api.session(video_path) as one, api.session(video_path) as other:
        assert one.id != other.id
        assert one.id.startswith("session-")
        listed = await api.ok("GET", SESSIONS)
        assert [each["session_id"] for each in listed["sessions"]] == [one.id, other.id]
        assert listed["total_sessions"] == 2


async def test_an_id_can_be_used_again(api, video_path):
    """A closed session's id is free; an open one's is not."""
    async with api.session(video_path, name="again"):
        body = {"video_path": str(video_path), "session_id": "again"}
        status, answer = await api.ask("POST", START, body)
        assert (status, answer) == (409, {"detail": "Session again exists already"})
    async with api.session(video_path, name="again") as second:
        assert (await second.status())["status"] == "ready"


async def test_propagation_by_parts(api, video_path):
    """Direction, start and number of frames are obeyed; the default is both, from the first."""
    async with api.session(video_path, BOX) as one:
        asked = {"direction": "backward", "start_frame_index": 6, "max_frames": 3}
        answer = await one.ok("POST", "/propagate", asked)
        assert list(answer["results"]) == ["4", "5", "6"]
        answer = await one.ok("POST", "/propagate", {"direction": "forward", "max_frames": 2})
        assert list(answer["results"]) == ["0", "1"]
        assert (await one.ok("POST", "/propagate", {}))["total_frames"] == COUNT


async def test_rest_names_the_stream(api, video_path):
    """With ``stream: true`` nothing is computed: the answer says where to stream from."""
    async with api.session(video_path, BOX) as one:
        answer = await one.ok("POST", "/propagate", {"stream": True})
        assert answer == {
            "session_id": one.id,
            "results": {},
            "total_frames": 0,
            "processing_time_ms": 0.0,
            "stream_url": f"/api/v1/video/ws/propagate/{one.id}",
        }


async def test_corrections_and_formats(api, video_path):
    """``obj_id`` names the object to correct; ``mask_format`` chooses how masks are told."""
    async with api.session(video_path, BOX) as one:
        body = {"frame_index": 0, "prompts": [POINT], "obj_id": 1, "mask_format": "coco"}
        given = await one.ok("POST", "/prompt", body)
        assert given["obj_id"] == [1]
        assert given["masks"][0]["size"] == [64, 80]


UNPROCESSABLE = {
    "no video": ({}, "give one of video_url, video_base64, video_path"),
    "two videos": ({"video_url": "http://a", "video_path": "/a"}, "give one of"),
    "an odd id": ({"video_path": "/a", "session_id": "a/b"}, "session_id"),
    "no part of a path": ({"video_path": "/a", "session_id": ".."}, "session_id: expected"),
    "a dot": ({"video_path": "/a", "session_id": "."}, "session_id: expected"),
    "a long id": ({"video_path": "/a", "session_id": "a" * 129}, "session_id"),
    "a negative GPU": ({"video_path": "/a", "gpu_ids": [-1]}, "gpu_ids[0]"),
    "a GPU twice": ({"video_path": "/a", "gpu_ids": [0, 0]}, "gpu_ids names a GPU twice"),
    "no list of GPUs": ({"video_path": "/a", "gpu_ids": "0"}, "gpu_ids"),
}


@pytest.mark.parametrize(("body", "said"), UNPROCESSABLE.values(), ids=UNPROCESSABLE)
async def test_wrong_starts(api, body, said):
    """A body that does not fit is refused with 422 and the field."""
    status, answer = await api.ask("POST", START, body)
    assert status == 422
    assert said in answer["detail"]


async def test_a_codec_that_nobody_knows(api, video_path):
    """A video that no decoder is there for is the client's mistake: 400 with the reason."""
    data = video_path.read_bytes().replace(b"avc1", b"zzzz")
    body = {"video_base64": base64.b64encode(data).decode()}
    status, answer = await api.ask("POST", START, body)
    assert (status, "coded in an unknown way" in answer["detail"]) == (400, True)


async def test_gpus_that_are_not_here(api, video_path):
    """A GPU that the machine does not have cannot be chosen; no list is as none."""
    body = {"video_path": str(video_path), "gpu_ids": [0, 1]}
    status, answer = await api.ask("POST", START, body)
    assert (status, answer["detail"][:21]) == (422, "gpu_ids: there is no ")
    await api.ok(
        "POST", START, {"video_path": str(video_path), "gpu_ids": [], "session_id": "none"}
    )
    await api.ok("DELETE", "/api/v1/video/session/none")


async def test_unknown_sessions(api):
    """Every route of a session that never was answers 404."""
    here = "/api/v1/video/session/nobody"
    asked = {"frame_index": 0, "prompts": [TEXT]}
    routes = [
        ("POST", "/prompt", asked),
        ("POST", "/propagate", {}),
        ("GET", "/status", None),
        ("GET", "/frame/0", None),
        ("DELETE", "/object/1", None),
        ("POST", "/reset", None),
        ("DELETE", "", None),
    ]
    for method, route, body in routes:
        status, answer = await api.ask(method, here + route, body)
        assert (status, answer) == (404, {"detail": "Session not found: nobody"}), route


PROMPTS = {
    "no prompts": ({"frame_index": 0, "prompts": []}, 422, "prompts"),
    "no frame": ({"prompts": [TEXT]}, 422, "frame_index"),
    "a negative frame": ({"frame_index": -1, "prompts": [TEXT]}, 422, "frame_index"),
    "a frame beyond the end": (
        {"frame_index": 8, "prompts": [TEXT]},
        422,
        "frame_index: the video",
    ),
    "a box of three": ({"frame_index": 0, "prompts": [{**BOX, "box": [0, 0, 1]}]}, 422, "box"),
    "an unknown kind": ({"frame_index": 0, "prompts": [{"type": "mask"}]}, 422, "type"),
    "a negative box": ({"frame_index": 0, "prompts": [{**BOX, "label": False}]}, 422, "label"),
    "an unknown object": ({"frame_index": 0, "prompts": [POINT], "obj_id": 9}, 404, "Object 9"),
    "a text that corrects": ({"frame_index": 0, "prompts": [TEXT], "obj_id": 1}, 422, "correct"),
}


@pytest.mark.parametrize(("body", "code", "said"), PROMPTS.values(), ids=PROMPTS)
async def test_wrong_prompts(api, video_path, body, code, said):
    """A prompt that cannot be served says why, and the session is ready for the next."""
    async with api.session(video_path) as one:
        status, answer = await one.ask("POST", "/prompt", body)
        assert status == code
        assert said in answer["detail"]
        assert (await one.status())["status"] == "ready"


async def test_nothing_to_propagate(api, video_path):
    """Without prompts there is nothing to track: 400; a start beyond the end is 422."""
    async with api.session(video_path) as one:
        status, answer = await one.ask("POST", "/propagate", {})
        assert (status, "no prompts" in answer["detail"]) == (400, True)
        await one.ok("POST", "/prompt", {"frame_index": 0, "prompts": [BOX]})
        status, _ = await one.ask("POST", "/propagate", {"start_frame_index": COUNT})
        assert status == 422
        every = await one.ok("POST", "/propagate", {"max_frames": 10**30})
        assert len(every["results"]) == every["total_frames"] == COUNT
        for wrong in ({"direction": "sideways"}, {"max_frames": 0}, {"start_frame_index": -1}):
            assert (await one.ask("POST", "/propagate", wrong))[0] == 422
        status, answer = await one.ask("DELETE", "/object/77")
        assert (status, answer) == (404, {"detail": "Object 77 not found"})


async def test_sessions_need_the_key(api):
    """Without the server's key a session is as closed as everything else."""
    async with aiohttp.ClientSession(api.url) as stranger:
        for method, path in (("POST", START), ("GET", SESSIONS)):
            async with stranger.request(method, path, json={}) as answer:
                assert answer.status == 401


async def test_a_worker_that_dies_takes_its_sessions_along(api, video_path):
    """When the worker dies its sessions are lost: told as such, released, and new ones start."""
    async with api.session(video_path, TEXT, name="lost") as one:
        tracking = asyncio.create_task(one.ask("POST", "/propagate", {}))
        while (await one.status())["frames_processed"] < 2:
            await asyncio.sleep(0.01)
        _kill_worker()
        status, answer = await tracking
        assert (status, "worker died" in answer["detail"]) == (500, True)
        assert (await one.status())["status"] == "error"
        assert await api.total() == 0
        told = "Session lost is lost: the model's worker ended"
        assert await one.ask("POST", "/propagate", {}) == (404, {"detail": told})
    async with api.session(video_path, TEXT, name="lost") as one:
        assert (await one.ok("POST", "/propagate", {}))["total_frames"] == COUNT


def _kill_worker():
    """Kill the process that holds the model: the child of the zygote."""
    (worker,) = workers()
    worker.send_signal(signal.SIGKILL)

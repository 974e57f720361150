"""Tracking through the real server: sessions on detectors, pulls, REST, a worker that dies."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from PIL import Image

from mataserver import MataError, testing
from mataserver_client import AsyncClient
from own_processes import workers

CODES = Path(__file__).parents[3] / "examples" / "pictures" / "codes.jpg"
TEXTS = {"PALLET-0042", "https://example.org/item/7", "Aisle 5, shelf C"}


def picture(x):
    """A picture with a red square, which the fake detector finds."""
    image = Image.new("RGB", (200, 60), (60, 60, 60))
    image.paste((255, 0, 0), (x, 10, x + 30, 40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def register(data_dir, **models):
    """Write a registry with pip models and their tasks; underscores stand for hyphens."""
    entries = {
        name.replace("_", "-"): {"task": task, "source": "pip", "pulled_at": time.time()}
        for name, task in models.items()
    }
    (data_dir / "model_registry.json").write_text(json.dumps({"version": 1, "models": entries}))


@pytest.fixture
def serve(tmp_path):
    """``serve(engine=..., **settings)`` runs a server with a fake and a real detector."""
    register(tmp_path, fake_detect="detect", opencv_qr="detect", fake_classify="classify")
    points = [testing.FAKE, *testing.installed("track", "opencv")]
    return lambda **settings: testing.serving(tmp_path, entry_points=points, **settings)


async def create(http, model, **body):
    """Create a session for tracking; return the path of its socket."""
    asked = {"model": model, "task": "track", **body}
    async with http.post("/v1/sessions", json=asked) as response:
        made = await response.json()
        assert response.status == 201, made
        return f"/v1/stream/{made['session_id']}"


async def stepped(ws, frame):
    """Send a frame; return the answer."""
    await ws.send_bytes(frame)
    return await ws.receive_json(timeout=60)


def http_of(served):
    """Return an HTTP session that carries the key."""
    return aiohttp.ClientSession(served.url, headers=served.headers)


async def test_a_session_tracks_on_a_detector(serve):
    """Over WebSocket an object has an id from its second frame on, and every session counts anew.

    The fake detector's second, fainter box at the same place begins no track.
    """
    async with serve(engine="thread") as served, http_of(served) as http:
        first, second = [await create(http, "fake-detect") for _ in range(2)]
        async with http.ws_connect(first) as one, http.ws_connect(second) as two:
            for number in range(5):
                for ws in (one, two):
                    answer = await stepped(ws, picture(10 + 4 * number))
                    assert (answer["task"], answer["model"]) == ("track", "fake-detect")
                    found = [{"label": "200x60", "confidence": 0.9, "track_id": 1}]
                    box = [10.0 + 4 * number, 10.0, 40.0 + 4 * number, 40.0]
                    assert answer["detections"] == ([{**found[0], "bbox": box}] if number else [])


async def test_a_real_detector_is_tracked_in_a_process(serve):
    """Three QR codes keep their ids while the picture is sent again, out of a child process."""
    async with serve() as served, http_of(served) as http:
        async with http.ws_connect(await create(http, "opencv-qr")) as ws:
            answers = [await stepped(ws, CODES.read_bytes()) for _ in range(3)]
        ids = [{each["label"]: each["track_id"] for each in a["detections"]} for a in answers]
        assert ids[0] == {}
        assert ids[1] == ids[2]
        assert ids[2].keys() == TEXTS
        assert sorted(ids[2].values()) == [1, 2, 3]


async def test_ids_go_on_after_a_reconnect(serve):
    """A socket that was lost and made again finds the session's tracks."""
    async with serve(engine="thread") as served, http_of(served) as http:
        path = await create(http, "fake-detect")
        for expected in ([], [1]):
            async with http.ws_connect(path) as ws:
                answer = await stepped(ws, picture(10))
                assert [each["track_id"] for each in answer["detections"]] == expected


async def test_a_worker_that_dies_resets_the_tracks(serve):
    """The frame is an error message; then the session goes on, with fresh tracks and ``reset``."""
    async with serve() as served, http_of(served) as http:
        async with http.ws_connect(await create(http, "fake-detect")) as ws:
            before = [await stepped(ws, picture(10)) for _ in range(2)]
            [worker] = workers()
            worker.kill()
            worker.wait(timeout=20)
            after = []
            while len(after) < 2:
                answer = await stepped(ws, picture(10))
                if "detections" in answer:
                    after.append(answer)
                else:
                    assert answer["type"] == "error"
        for answers in (before, after):
            ids = [[each["track_id"] for each in a["detections"]] for a in answers]
            assert ids == [[], [1]]
        assert [a.get("reset") for a in (*before, *after)] == [None, None, True, None]


async def test_sessions_that_cannot_track_are_refused(serve):
    """Track on a classifier, and a parameter that does not exist, are 422."""
    async with serve(engine="thread") as served, http_of(served) as http:
        for model, params in (("fake-classify", {}), ("fake-detect", {"klasses": ["a"]})):
            asked = {"model": model, "task": "track", "params": params}
            async with http.post("/v1/sessions", json=asked) as response:
                assert response.status == 422


async def test_parameters_of_a_session(serve):
    """``classes`` and ``confidence`` of the session reach the tracker, settings the plugin."""
    settings = {"track": {"minimum_consecutive_frames": 3}}
    async with serve(engine="thread", plugins=settings) as served, http_of(served) as http:
        for params, expected in (
            ({"classes": ["200x60"]}, [[], [], [1]]),
            ({"classes": ["cat"]}, [[], [], []]),
            ({"confidence": 0.95}, [[], [], []]),
        ):
            async with http.ws_connect(await create(http, "fake-detect", params=params)) as ws:
                answers = [await stepped(ws, picture(10)) for _ in range(3)]
            assert [[d["track_id"] for d in a["detections"]] for a in answers] == expected


async def test_pull_for_tracking_and_rest(serve, tmp_path):
    """A detector that is pulled for the task track answers a picture with ids from 1, each time."""
    async with serve(engine="thread") as served, AsyncClient(served.url, served.key) as client:
        assert (await client.pull("fake-detect", "track")).status == "pulled"
        assert (await client.model("fake-detect")).task == "track"
        for _ in range(2):
            answer = await client.infer("fake-detect", picture(10), confidence=0.5)
            assert answer.task == "track"
            [found] = answer.detections
            assert (found.label, found.track_id) == ("200x60", 1)
        streamed = [each async for each in client.stream("fake-detect", [picture(10)] * 3)]
        assert streamed[-1].task == "track"
    registry = json.loads((tmp_path / "model_registry.json").read_text())
    entry = registry["models"]["fake-detect"]
    assert (entry["task"], entry["source"]) == ("track", "pip")


def test_pull_on_the_command_line(tmp_path):
    """``mataserver pull --task track`` registers a detector; of another model it says why not."""

    def pull(model):
        command = [sys.executable, "-m", "mataserver", "pull", model, "--task", "track"]
        variables = {**os.environ, "MATA_SERVER_DATA_DIR": str(tmp_path)}
        return subprocess.run(
            command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = pull("opencv-qr")
    assert (done.returncode, done.stdout) == (0, "Pulled opencv-qr (track)\n"), done.stderr
    refused = pull("rapidocr")
    assert refused.returncode == 1
    assert "rapidocr serves ocr, not track" in refused.stderr
    registry = json.loads((tmp_path / "model_registry.json").read_text())
    assert {name: each["task"] for name, each in registry["models"].items()} == {
        "opencv-qr": "track"
    }


async def test_only_detectors_can_be_pulled_for_tracking(serve):
    """A classifier is refused, and stays what it was."""
    async with serve(engine="thread") as served, http_of(served) as http:
        asked = {"model": "fake-classify", "task": "track"}
        async with http.post("/v1/models/pull", json=asked) as response:
            assert response.status == 400
            assert "mismatch" in (await response.json())["detail"]
        async with http.get("/v1/models/fake-classify") as response:
            assert (await response.json())["task"] == "classify"


async def test_a_configured_model_tracks(serve):
    """``models:`` may name a detector for the task track, with the tracker's params as defaults."""
    models = [{"model": "opencv-faces", "task": "track", "params": {"classes": ["face"]}}]
    async with serve(engine="thread", models=models) as served, http_of(served) as http:
        async with http.get("/v1/models/opencv-faces") as response:
            assert (await response.json())["task"] == "track"
        face = (CODES.parent / "astronaut.jpg").read_bytes()
        headers = {"Content-Type": "image/jpeg"}
        query = "/v1/infer?model=opencv-faces"
        async with http.post(query, data=face, headers=headers) as response:
            answer = await response.json()
    assert [(each["label"], each["track_id"]) for each in answer["detections"]] == [("face", 1)]


async def test_without_the_plugin_a_refusal_says_what_to_install(tmp_path):
    """In sessions, pulls, and models of the configuration."""
    said = "; no plugin here tracks: pip install mataserver-track (./plugins/track in a checkout)"
    register(tmp_path, opencv_qr="detect")
    wanted = {"model": "opencv-qr", "task": "track"}
    points = testing.installed("opencv")
    async with testing.serving(tmp_path, entry_points=points) as server:
        headers = {"Authorization": f"Bearer {server.key}"}
        async with aiohttp.ClientSession(server.url, headers=headers) as http:
            for path, status in (("/v1/sessions", 422), ("/v1/models/pull", 400)):
                async with http.post(path, json=wanted) as response:
                    assert response.status == status
                    assert (await response.json())["detail"].endswith(said)
    with pytest.raises(MataError, match="registered for detect, not track; no plugin here tracks"):
        async with testing.serving(tmp_path, entry_points=points, models=[wanted]):
            pass

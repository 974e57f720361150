"""``infer`` jobs through a real server with the fake models."""

from __future__ import annotations

import asyncio
import io
import json
import random
import signal
import zipfile

import aiohttp
import pytest
from films import archive, picture, video
from serving_jobs import apart, asking, children_of_jobs, lines, sent

from mataserver import BadRequest
from mataserver_jobs import item_sources
from understated_archive import STATED, understated, within

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def ask(tmp_path):
    """A server whose jobs may read the folder ``roots``."""
    roots = tmp_path / "roots"
    roots.mkdir()
    async with asking(tmp_path / "data", jobs={"roots": [str(roots)]}) as asked:
        yield asked


async def test_a_video(ask, tmp_path):
    """Every frame is answered once, as a request would be, and the summary tells the labels."""
    path = video(tmp_path / "v.mp4", 20)
    job = await sent(
        ask, path, model="fake-detect", params='{"confidence": 0.2}', every="", limit=""
    )
    shown = await ask.ended(job)
    assert shown["error"] is None
    assert (shown["spec"]["file"], shown["spec"]["task"]) == ("v.mp4", "detect")
    found = await lines(ask, job)
    assert [line["index"] for line in found] == list(range(20))
    assert [line["time"] for line in found] == pytest.approx([n / 25 for n in range(20)])
    (first, faint) = found[7]["result"]["detections"]
    assert (first["label"], faint["label"]) == ("96x64", "faint")
    assert first["bbox"] == pytest.approx([32, 16, 64, 48], abs=3)
    counted = {"96x64": 20, "faint": 20}
    assert shown["result"] == {
        "items": 20, "failed": 0, "failures": [], "labels": counted, "tracks": {}, "damaged": False,
    }  # fmt: skip
    _, summary = await ask("GET", f"/v1/jobs/{job}/files/summary.json")
    assert summary == shown["result"]
    options = {"spec": {"every": 6, "limit": 3}}
    assert (await ask("POST", f"/v1/jobs/{job}/restart", json=options))[0] == 202
    await ask.ended(job)
    assert [line["index"] for line in await lines(ask, job)] == [0, 6, 12]
    for name in ("path", "file", "task", "model"):
        asked = {"spec": {name: "/etc"}}
        status, body = await ask("POST", f"/v1/jobs/{job}/restart", json=asked)
        assert status == 422
        assert body["detail"].startswith(f"spec: {name}:")
    for wrong in ({"confidence": "high"}, {"colour": "red"}):
        asked = {"spec": {"params": wrong}}
        status, body = await ask("POST", f"/v1/jobs/{job}/restart", json=asked)
        anew = {"model": "fake-detect", "params": wrong}
        refused = await ask("POST", "/v1/jobs/infer/check", json=anew)
        assert (status, body) == refused, "as where a job is asked for"
        assert status == 422
    assert [line["index"] for line in await lines(ask, job)] == [0, 6, 12], "nothing was begun"


async def test_pictures(ask, tmp_path):
    """One broken picture of a ZIP has its error, the others their answers, by their names."""
    entries = [("p10.png", picture(20, 10)), ("p9.png", picture(9, 9)), ("p.txt", b"no picture")]
    path = archive(tmp_path / "pictures.zip", entries)
    query = "?model=fake-detect&every=1"
    status, job = await ask("POST", f"/v1/jobs/infer{query}", data=path.read_bytes())
    assert status == 202, job
    shown = await ask.ended(job["id"])
    assert (shown["result"]["items"], shown["result"]["failed"]) == (3, 1)
    told = "Done, but 1 of 3 could not be answered: results.jsonl tells why."
    assert (shown["state"], shown["message"]) == ("done", told)
    found = await lines(ask, job["id"])
    assert [line["file"] for line in found] == ["p9.png", "p10.png", "p.txt"]
    assert found[2]["error"]
    assert [line["result"]["detections"][0]["label"] for line in found[:2]] == ["9x9", "20x10"]


async def test_a_path(ask, tmp_path):
    """A folder below an allowed root is read; a path elsewhere, or through a link, is 404."""
    for number in range(3):
        (tmp_path / "roots" / f"{number}.png").write_bytes(picture(10 + number, 8))
    (tmp_path / "roots" / "out").symlink_to(tmp_path / "data")
    asked = {"model": "fake-classify", "path": str(tmp_path / "roots")}
    status, job = await ask("POST", "/v1/jobs/infer", json=asked)
    assert status == 202, job
    assert (await ask.ended(job["id"]))["result"]["labels"] == {f"{n}x8-0": 1 for n in (10, 11, 12)}
    for path in ("/etc/passwd", f"{tmp_path}/roots/../data", f"{tmp_path}/roots/out", "x", "\0"):
        status, body = await ask("POST", "/v1/jobs/infer", json={**asked, "path": path})
        assert status == 404, body
        assert "passwd" not in body["detail"]


@pytest.mark.parametrize(
    ("query", "data", "status", "told"),
    [
        ("", b"x", 422, "model"),
        ("model=fake-nothing", b"x", 404, "fake-nothing"),
        ("model=fake-detect", b"", 400, "empty"),
        ("model=fake-detect&every=0", b"x", 422, "every"),
        ("model=fake-detect&limit=no", b"x", 422, "limit"),
        ("model=fake-detect&params=[]", b"x", 422, "array"),
        ("model=fake-detect&params={", b"x", 422, "params"),
        ('model=fake-detect&params={"a":' + 2_000 * "[", b"x", 422, "params"),
        ("model=fake-detect&limit=18446744073709551616", b"x", 422, "limit"),
        ("model=fake-detect&path=/etc/passwd", b"x", 422, "path"),
        ("model=fake-detect&task=track", b"x", 422, "task"),
        ("model=fake-detect&model=fake-track", b"x", 422, "model: given twice"),
        ("model=fake-detec", b"x", 404, "did you mean fake-detect?"),
        ('model=fake-detect&params={"confidense":0.5}', b"x", 422, "did you mean confidence?"),
        ('model=fake-detect&params={"confidence":7}', b"x", 422, "params.confidence"),
        ('model=fake-track&params={"confidence":7}', b"x", 422, "params.confidence"),
    ],
)
async def test_refusals(ask, tmp_path, query, data, status, told):
    """What cannot be asked is refused at once, and leaves neither a job nor a file."""
    answer = await ask("POST", f"/v1/jobs/infer?{query}", data=data)
    assert answer[0] == status, answer
    assert told in answer[1]["detail"]
    assert (await ask("GET", "/v1/jobs"))[1]["total"] == 0
    assert list((tmp_path / "data" / "jobs").glob("*")) == []


async def test_a_query_beside_a_body(ask, tmp_path):
    """Beside JSON it is refused; beside a form it counts, unless both hold a value."""
    path = "/v1/jobs/infer?every=5"
    asked = {"model": "fake-detect", "path": str(tmp_path / "roots")}
    for wanted in (asked, {"model": "fake-detect", "upload": "none"}):
        status, body = await ask("POST", path, json=wanted)
        assert (status, body["detail"]) == (422, "every: not in the query; write it into the JSON")
        assert await ask("POST", "/v1/jobs/infer/check?every=5", json=wanted) == (status, body)
    form = aiohttp.FormData({"model": "fake-detect", "every": "2", "file": io.BytesIO(b"x")})
    status, body = await ask("POST", path, data=form)
    assert (status, body["detail"]) == (422, "every: given twice, in the query and in the body")
    assert (await ask("GET", "/v1/jobs"))[1]["total"] == 0
    form = aiohttp.FormData({"model": "fake-detect", "every": "", "file": io.BytesIO(b"x")})
    status, job = await ask("POST", path, data=form)
    assert (status, job["spec"]["every"]) == (202, 5)


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({"model": "fake-detect", "params": {"confidence": 0.5}, "every": 2}, 200, ""),
        ({"model": "fake-detec"}, 404, "did you mean fake-detect?"),
        ({"model": "fake-detect", "params": {"confidense": 0.5}}, 422, "did you mean confidence?"),
        ({"model": "fake-detect", "path": "/etc/passwd"}, 404, "plugins.jobs.roots"),
        ({"model": "fake-detect", "every": 0}, 422, "every"),
        ({}, 422, "model"),
    ],
)
async def test_what_would_be_refused_is_told_before_a_file_is_sent(ask, asked, status, told):
    """The check takes what a job would be asked, answers as that would, and makes none."""
    answer = await ask("POST", "/v1/jobs/infer/check", json=asked)
    assert answer[0] == status, answer
    if status == 200:
        assert answer[1] == {"model": "fake-detect", "task": "detect"}
    else:
        assert told in answer[1]["detail"]
    assert (await ask("GET", "/v1/jobs"))[1]["total"] == 0


async def test_a_server_without_roots_names_the_setting(tmp_path):
    """Where no folder was allowed, a path is refused with the setting that allows one."""
    async with asking(tmp_path) as ask:
        asked = {"model": "fake-detect", "path": str(tmp_path)}
        status, body = await ask("POST", "/v1/jobs/infer", json=asked)
    assert status == 404
    assert "jobs may not read folders here: plugins.jobs.roots" in body["detail"]


async def test_the_documents_examples_work_as_they_stand(ask, tmp_path):
    """Each body's example is taken by the route that it stands at."""
    packed = archive(tmp_path / "roots" / "a.zip", [("a.png", picture())])
    _, document = await ask("GET", "/openapi.json")
    bodies = document["paths"]["/v1/jobs/infer"]["post"]["requestBody"]["content"]
    form = bodies["multipart/form-data"]
    assert document["components"]["schemas"]["InferForm"]["properties"]["model"]["x-filled"]
    for example in (bodies["application/json"]["example"], form["example"]):
        assert example["model"] == "opencv-qr"  # a server has it from its start, this one has not
    asked = {**bodies["application/json"]["example"], "model": "fake-detect"}
    status, job = await ask("POST", "/v1/jobs/infer", json=asked)
    assert status == 202, job
    await sent(ask, packed, **form["example"] | {"model": "fake-detect"})
    checked = document["paths"]["/v1/jobs/infer/check"]["post"]["requestBody"]["content"]
    asked = {**checked["application/json"]["example"], "model": "fake-detect"}
    assert (await ask("POST", "/v1/jobs/infer/check", json=asked))[0] == 200


async def test_uploads_that_are_too_large(tmp_path):
    """413 over the route's own limit, which may be more than the server's; JSON stays small."""
    limits = {"max_upload_mb": 2}
    async with asking(tmp_path, jobs=limits, max_body_mb=1) as ask:
        url = "/v1/jobs/infer?model=fake-detect"
        assert (await ask("POST", url, data=io.BytesIO(b"x" * 1_500_000)))[0] == 202
        assert (await ask("POST", url, data=io.BytesIO(b"x" * 2_000_001)))[0] == 413
        assert (await ask("POST", url, data=io.BytesIO(b" " * 1_000_001), headers=JSON))[0] == 413


@pytest.mark.parametrize(
    ("model", "params", "error"),
    [
        ("fake-detect", {"behave": "raise"}, "No item could be answered"),
    ],
)
async def test_what_fails_for_every_frame(ask, tmp_path, model, params, error):
    """A model that always fails ends the job with the server's sentence."""
    path = video(tmp_path / "v.mp4", 3)
    shown = await ask.ended(await sent(ask, path, model=model, params=json.dumps(params)))
    assert shown["state"] == "failed"
    assert error in shown["error"]
    assert (shown["attempt"], "secret" in shown["error"]) == (1, False)


async def test_what_is_no_footage(ask, tmp_path):
    """A ZIP whose entry leads out fails the job with the entry's name."""
    path = archive(tmp_path / "v.zip", [("../../evil.png", picture())])
    shown = await ask.ended(await sent(ask, path, model="fake-detect"))
    assert shown["error"] == "../../evil.png: its name leads out of the ZIP file"
    assert not list(tmp_path.rglob("evil.png"))


def test_no_more_is_unpacked_than_an_entry_says(tmp_path):
    """What unpacks to far more takes no memory for it, or is refused by its method."""
    path = tmp_path / "v.zip"
    path.write_bytes(understated("a.png"))
    with within(5_000_000):
        (item,) = item_sources.open_source(path).items(0, 1)
    assert item.image == bytes(STATED)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path.write_bytes(understated("a.png", method))
        with (
            within(5_000_000),
            pytest.raises(BadRequest, match="packed by a method"),
        ):
            item_sources.open_source(path)


async def killed(ask, job, least):
    """Kill a job's process, at a random moment after ``least`` percent."""
    await ask.until(job, lambda shown: shown["progress"] > least and children_of_jobs())
    await asyncio.sleep(random.random() * 0.1)
    for process in children_of_jobs():
        process.send_signal(signal.SIGKILL)
    await ask.until(job, lambda shown: shown["state"] != "running" or shown["attempt"] > 1)


async def test_a_process_that_is_killed(ask, tmp_path):
    """Kill -9 at random moments: the job goes on, and every frame is answered exactly once."""
    path = video(tmp_path / "v.mp4", 60)
    job = await sent(ask, path, model="fake-detect", params='{"seconds": 0.03}')
    for least in (10.0, 50.0):
        await killed(ask, job, least)
    shown = await ask.ended(job)
    assert (shown["state"], shown["attempt"]) == ("done", 3)
    assert [line["index"] for line in await lines(ask, job)] == list(range(60))


async def test_tracks(ask, tmp_path):
    """A tracker's job that is killed begins again: its tracks are those of an undisturbed one."""
    path = video(tmp_path / "v.mp4", 40)
    job = await sent(ask, path, model="fake-track", params='{"seconds": 0.03}')
    await killed(ask, job, 20.0)
    shown = await ask.ended(job)
    assert (shown["state"], shown["attempt"]) == ("done", 2)
    one = {"label": "thing", "frames": 1}
    tracks = {str(n + 1): {**one, "first": n, "last": n} for n in range(40)}
    assert shown["result"]["tracks"] == tracks
    assert len(await lines(ask, job)) == 40
    assert (await ask("GET", "/v1/sessions"))[1] != []  # that of the killed one ends by its time


async def test_a_server_that_stops(tmp_path):
    """A job whose server stops goes on with the next, from the frame that it was at."""
    async with asking(tmp_path) as ask:
        path = video(tmp_path / "v.mp4", 60)
        job = await sent(ask, path, model="fake-detect", params='{"seconds": 0.03}')
        await ask.until(job, lambda shown: shown["progress"] > 20)
    so_far = (tmp_path / "jobs" / job / "output" / "results.jsonl").read_bytes().count(b"\n")
    assert 0 < so_far < 60
    async with asking(tmp_path) as ask:
        shown = await ask.ended(job)
        assert (shown["state"], shown["attempt"]) == ("done", 1)
        assert [line["index"] for line in await lines(ask, job)] == list(range(60))


async def test_a_server_that_is_killed(tmp_path):
    """Kill -9 of the server: its jobs' processes die with it, and the next one goes on at once."""
    path = video(tmp_path / "v.mp4", 60)
    async with apart(tmp_path / "data") as ask:
        job = await sent(ask, path, model="fake-detect", params='{"seconds": 0.03}')
        await ask.until(job, lambda shown: shown["progress"] > 10 + 40 * random.random())
    results = tmp_path / "data" / "jobs" / job / "output" / "results.jsonl"
    await asyncio.sleep(0.3)
    done = results.read_bytes()
    assert 0 < done.count(b"\n") < 60
    await asyncio.sleep(0.3)
    assert results.read_bytes() == done  # nobody writes any more
    async with apart(tmp_path / "data") as ask:
        shown = await ask.ended(job)
        assert shown["state"] == "done"
        assert [line["index"] for line in await lines(ask, job)] == list(range(60))


async def test_a_job_that_is_cancelled(ask, tmp_path):
    """What was answered until then can be read."""
    path = video(tmp_path / "v.mp4", 200)
    job = await sent(ask, path, model="fake-detect", params='{"seconds": 0.03}')
    await ask.until(job, lambda shown: shown["progress"] > 5)
    await ask("POST", f"/v1/jobs/{job}/cancel")
    assert (await ask.ended(job))["state"] == "cancelled"
    found = [line["index"] for line in await lines(ask, job)]
    assert found == list(range(len(found)))
    assert 0 < len(found) < 200


async def test_a_path_that_leads_elsewhere_when_the_job_runs(tmp_path):
    """A folder that became a link out of the roots is not read, as if it were asked for now."""
    roots, secret = tmp_path / "roots", tmp_path / "secret"
    shown, moved = roots / "shown", roots / "moved"
    for folder in (shown, secret):
        folder.mkdir(parents=True)
        archive(folder / "a.zip", [("a.png", picture())])
    jobs = []
    async with asking(tmp_path / "data", jobs={"roots": [str(roots)], "slots": 0}) as ask:
        for place in (shown, shown / "a.zip"):
            asked = {"model": "fake-detect", "path": str(place)}
            status, body = await ask("POST", "/v1/jobs/infer", json=asked)
            assert status == 202
            jobs.append(body["id"])
    shown.rename(moved)
    shown.symlink_to(secret)
    async with asking(tmp_path / "data", jobs={"roots": [str(roots)]}) as ask:
        for job in jobs:
            ended = await ask.ended(job)
            assert (ended["state"], ended["result"]) == ("failed", None)
            assert ended["error"].startswith("path: there is no such file below the folders")
            assert "results.jsonl" not in str(await ask("GET", f"/v1/jobs/{job}/files"))


async def test_a_path_that_moved_within_the_roots_is_read(tmp_path):
    """The same rule lets a link lead to another place below the roots."""
    roots = tmp_path / "roots"
    (roots / "shown").mkdir(parents=True)
    (roots / "shown" / "a.png").write_bytes(picture())
    asked = {"model": "fake-detect", "path": str(roots / "shown")}
    async with asking(tmp_path / "data", jobs={"roots": [str(roots)], "slots": 0}) as ask:
        _, body = await ask("POST", "/v1/jobs/infer", json=asked)
    (roots / "shown").rename(roots / "moved")
    (roots / "shown").symlink_to(roots / "moved")
    async with asking(tmp_path / "data", jobs={"roots": [str(roots)]}) as ask:
        assert (await ask.ended(body["id"]))["state"] == "done"


def test_a_picture_that_becomes_a_link_is_not_read(tmp_path):
    """What a folder's picture led to when the folder was looked at may lead out of it later."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(picture())
    given = item_sources.open_source(folder)
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to("/etc/hostname")
    first, second = given.items(0, 1)
    assert (first.file, first.error, len(first.image) > 0) == ("a.png", "", True)
    assert (second.error, second.image) == ("it leads out of the folder", b"")

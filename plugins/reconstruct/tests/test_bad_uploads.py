"""What is no upload, through a real socket: told at once, with nothing left behind."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import struct
import subprocess
import zlib
from pathlib import Path

import aiohttp
import pytest
from apart import Server
from PIL import Image
from serving_reconstruct import QUICK, asking, packed, session
from test_archive import BAD, PICTURE
from test_archive import packed as packed_entries

pytestmark = [pytest.mark.timeout(200), pytest.mark.long]


def picture(size=(320, 240), colour=(200, 200, 200), kind="JPEG"):
    """Return a picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def claiming(width, height):
    """Return a PNG whose header tells a size that its data have not."""
    plain = picture((8, 8), kind="PNG")
    head = b"IHDR" + struct.pack(">II", width, height) + plain[24:29]
    return plain[:12] + head + struct.pack(">I", zlib.crc32(head)) + plain[33:]


def folders(path):
    """Return what lies in the folder of the jobs."""
    return sorted(each.name for each in (path / "jobs").glob("*"))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile's, of what we make
async def test_every_bad_archive_is_400(tmp_path):
    """Each of over fifty kinds of bad archive is 400 with its entry or what it is; none is kept."""
    twice = packed_entries([("a.jpg", PICTURE), ("a.jpg", PICTURE)])
    async with asking(tmp_path) as ask:
        for kind, (data, why) in BAD.items():
            status, answer = await ask.send(twice if data is None else data)
            assert status == 400, (kind, answer)
            assert why in answer["detail"], kind
            assert list(answer) == ["detail"]
        assert (await ask("GET", "/v1/jobs"))[1]["total"] == 0
        assert folders(tmp_path) == []
        assert (await ask("GET", "/health"))[1]["status"] == "ok"
    assert len(BAD) >= 50


async def test_requests_that_are_refused(tmp_path):
    """No file, an empty one, no photograph, unknown and wrong fields: each with its status."""
    one = packed({"a.jpg": picture()})
    async with asking(tmp_path, reconstruct={"max_upload_mb": 1}) as ask:
        form = aiohttp.FormData({"dataset_name": "church"}, default_to_multipart=True)
        assert (await ask("POST", "/upload", data=form))[0] == 422
        assert (await ask("POST", "/upload", data=b""))[0] == 400
        for archive, status in {
            b"": 400,
            packed({}): 400,
            packed({"notes.txt": b"hi"}): 400,
            bytes(1_100_000): 413,
        }.items():
            assert (await ask.send(archive))[0] == status
        for name, value, status in [
            ("densty", "semi", 422),
            ("limits", "{}", 422),
            ("threads", "64", 422),
            ("images", "3", 422),
            ("density", "dense", 422),
            ("max_size", "10", 422),
            ("max_size", "many", 422),
            ("voxel", "nan", 422),
            ("voxel", "inf", 422),
            ("voxel", "-1", 422),
            ("scale", "2.5", 422),
            ("dataset_name", "a\nb", 422),
            ("dataset_name", "a\u202egnp.jpg", 422),
            ("scene_name", "a\x9b2J", 422),
            ("scene_name", "a" * 201, 422),
            ("matcher", "nobody", 422),
            ("matcher", "superpoint_lightglue", 503),
        ]:
            in_form = await ask.send(one, **{name: value})
            in_query = await ask.send(one, query={name: value})
            assert (in_form[0], in_query[0]) == (status, status), (name, value)
            assert name in in_form[1]["detail"] or value in in_form[1]["detail"]
        status, answer = await ask.send(one, query={"seed": "2"}, seed="3")
        assert (status, answer["detail"][:17]) == (422, "seed: given twice")
        status, answer = await ask.send(one, headers={"Idempotency-Key": "a" * 201})
        assert (status, answer["detail"][:15]) == (422, "Idempotency-Key")
        assert (await ask("GET", "/v1/jobs"))[1]["total"] == 0
        assert folders(tmp_path) == []


async def test_what_a_check_of_drift_ignores(tmp_path):
    """Fields beside the archive are named, but empty ones: clients send the form of an upload."""
    async with asking(tmp_path) as ask:
        asked = {"dataset_name": "church", "scene_name": ""}
        assert (await ask.send(packed({"a.jpg": picture()}), "/drift", **asked))[0] == 200
        assert ask.headers["X-Warning"] == "dataset_name: unknown field, ignored"


async def test_names_and_pictures_of_every_sort(tmp_path):
    """Unicode and colliding names, duplicates, truncated and huge pictures: all are told."""
    whole = picture((640, 480), kind="PNG")
    files = {
        "a/1.jpg": picture(), "b/1.jpg": picture(), "日本/ä ö.png": whole, "é.JPG": picture(),
        "twin.png": whole, "cut.png": whole[: len(whole) // 2],
        "wide.png": picture((60_000, 3), kind="PNG"), "vast.png": claiming(60_000, 60_000),
        "not.jpg": b"no picture", "none.jpg": b"",
    }  # fmt: skip
    async with asking(tmp_path) as ask:
        job = await ask.upload(packed(files), **QUICK)
        done = await ask.ended(job)
        assert (done["stage"], done["n_images"], done["n_points"]) == ("success", 10, 0)
        _, shown = await ask("GET", f"/v1/jobs/{job}")
        states = {each["name"]: each["status"] for each in shown["result"]["images"]}
        unread = {name for name, status in states.items() if status == "unreadable"}
        assert set(states) >= {"a/1.jpg", "b/1.jpg", "ä ö.png", "é.JPG", "twin.png"}
        assert unread >= {"cut.png", "vast.png", "not.jpg", "none.jpg"}
        _, text = await ask("GET", f"/download/jobs/{job}/csv")
        assert len(text.decode().splitlines()) == 11
        assert (await ask("GET", f"/download/jobs/{job}"))[0] == 404
        assert "more than once" in " ".join(shown["result"]["advice"])


async def test_another_users_job(tmp_path):
    """A job is another's 404 on every route, its owner's and an administrator's 200."""
    one = packed({"a.jpg": picture()})
    async with asking(tmp_path) as ask:
        job = await ask.upload(one, **QUICK)
        await ask.ended(job)
        paths = [
            each.format(job)
            for each in (
                "/status/{}", "/jobs/{}", "/jobs/{}/insights", "/jobs/{}/report", "/clusters/{}",
                "/download/jobs/{}/csv", "/download/jobs/{}/result.json",
            )
        ]  # fmt: skip
        for key, status in {"bob-key": 404, "root-key": 200, "reader-key": 404}.items():
            async with session(ask.served, key) as other:
                assert {(await other("GET", path))[0] for path in paths} == {status}, key
                _, lines = await other("GET", "/drift/history")
                assert (job.encode() in lines) == (status == 200)
        async with session(ask.served, "reader-key") as reader:
            assert (await reader.send(one))[0] == 403
        again = {(await ask("GET", path))[0] for path in paths}
        assert again == {200}


async def test_one_key_is_one_job(tmp_path):
    """An upload that is sent again with its idempotency key is the same job; another is 409."""
    one = packed({"a.jpg": picture()})
    async with asking(tmp_path, jobs={"slots": 0}) as ask:
        key = {"Idempotency-Key": "visit-1"}
        (_, first), (_, again) = [await ask.send(one, headers=key) for _ in range(2)]
        assert first == again
        assert (await ask.send(one, headers=key, density="semi"))[0] == 409
        assert folders(tmp_path) == [first["job_id"]]


async def resumable(ask, data, part=None):
    """Upload by tus, the first ``part`` bytes; return the id."""
    tus = {"Tus-Resumable": "1.0.0"}
    begun = await ask("POST", "/v1/uploads", headers={**tus, "Upload-Length": str(len(data))})
    assert begun[0] == 201, begun
    place = ask.headers["Location"].removeprefix(ask.served.url)
    kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    sent = await ask("PATCH", place, headers={**tus, **kind}, data=io.BytesIO(data[:part]))
    assert sent[0] == 204, sent
    return place.rpartition("/")[2]


async def test_an_upload_that_went_on(tmp_path):
    """An archive that came by tus is a job's once it is whole and an archive, and no other's."""
    one = packed({"a.jpg": picture()})
    async with asking(tmp_path, jobs={"slots": 0}) as ask:
        whole, cut = [await resumable(ask, one, part) for part in (None, 50)]
        bad = await resumable(ask, b"hello")
        key = {"Idempotency-Key": "visit-1"}
        asked = {"upload": whole, "density": "semi", "max_size": 640}
        async with session(ask.served, "bob-key") as bob:
            assert (await bob("POST", "/upload", json=asked))[0] == 404
        assert (await ask("POST", "/upload", json={"upload": cut}))[0] == 409
        status, answer = await ask("POST", "/upload", json={"upload": bad})
        assert (status, "not a ZIP" in answer["detail"]) == (400, True)
        for wrong in ({}, {"upload": whole, "densty": "semi"}, {"upload": whole, "density": "x"}):
            assert (await ask("POST", "/upload", json=wrong))[0] == 422
        status, first = await ask("POST", "/upload", json=asked, headers=key)
        assert status == 202
        _, shown = await ask("GET", f"/v1/jobs/{first['job_id']}")
        assert (shown["spec"]["density"], shown["spec"]["images"]) == ("semi", 1)
        assert (await ask("POST", "/upload", json=asked, headers=key))[1] == first
        assert (await ask("POST", "/upload", json=asked))[0] == 409
        assert (await ask("POST", "/upload", json={**asked, "seed": 1}, headers=key))[0] == 409
        assert (await ask("GET", "/v1/jobs"))[1]["total"] == 1


async def test_cancelled_and_queued(tmp_path):
    """A job that is cancelled while it waits is told so, and its downloads are 409."""
    async with asking(tmp_path, jobs={"slots": 0}) as ask:
        job = await ask.upload(packed({"a.jpg": picture()}))
        assert (await ask("POST", f"/v1/jobs/{job}/cancel"))[0] == 202
        shown = await ask.ended(job)
        assert (shown["stage"], shown["progress"], shown["download_url"]) == ("cancelled", 0, None)
        status, answer = await ask("GET", f"/download/jobs/{job}")
        assert status == 409
        assert "cancelled" in answer["detail"]


async def test_a_restart_keeps_what_was_sent(tmp_path):
    """A restart takes other options, and neither the limits nor what was found in the archive."""
    async with asking(tmp_path) as ask:
        job = await ask.upload(packed({"a.jpg": picture()}), **QUICK)
        first = await ask.ended(job)
        path = f"/v1/jobs/{job}/restart"
        manifest = tmp_path / "jobs" / job / "work" / "photos.json"
        before = manifest.stat().st_mtime_ns
        for kept in ({"limits": {}}, {"images": 5}, {"file": "x"}):
            assert (await ask("POST", path, json={"spec": kept}))[0] == 422
        assert (await ask("POST", path, json={"spec": {"scene_name": "tower"}}))[0] == 202
        again = await ask.ended(job)
        assert again["stage"] == "success"
        assert again["finished_at"] > first["finished_at"]
        assert manifest.stat().st_mtime_ns == before  # its photographs are not read again
        _, lines = await ask("GET", "/drift/history")
        assert lines.count(b"\n") == 1
        assert b'"scene_name":"tower"' in lines
        assert (await ask("GET", "/drift/history?scene_name=tower"))[0] == 422


async def test_a_restart_refuses_what_an_upload_refuses(tmp_path):
    """Names with turned writing, and matchers that cannot work, are told to whoever asks."""
    wrong = {"dataset_name": "a\u202eb", "matcher": "none", "scale": "one", "threads": 2}
    async with asking(tmp_path) as ask:
        job = await ask.upload(packed({"a.jpg": picture()}), **QUICK)
        await ask.ended(job)
        for options in ({name: value} for name, value in wrong.items()):
            sent = {name: str(value) for name, value in options.items()}
            assert (await ask.send(packed({"a.jpg": picture()}), **sent))[0] == 422
            status, answer = await ask("POST", f"/v1/jobs/{job}/restart", json={"spec": options})
            assert (status, next(iter(options)) in answer["detail"]) == (422, True), answer
        asked = {"spec": {"matcher": "mast3r"}}
        assert (await ask("POST", f"/v1/jobs/{job}/restart", json=asked))[0] == 503
        assert (await ask("GET", f"/status/{job}"))[1]["stage"] == "success"


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path):
    """A client that leaves in the middle of its upload leaves no file and no job."""
    async with asking(tmp_path) as ask:
        place = ask.served.url.removeprefix("http://").split(":")
        with socket.create_connection((place[0], int(place[1]))) as client:
            head = (
                "POST /upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-key\r\n"
                "Content-Type: application/zip\r\nContent-Length: 1000000\r\n\r\n"
            )
            client.sendall(head.encode() + bytes(200_000))
            async with asyncio.timeout(20):
                while not folders(tmp_path):
                    await asyncio.sleep(0.02)
        async with asyncio.timeout(20):
            while folders(tmp_path):
                await asyncio.sleep(0.02)
        assert (await ask("GET", "/v1/jobs"))[1]["total"] == 0


async def test_memory_stays_flat_during_an_upload(tmp_path):
    """An upload of 150 MB does not stand in the server's memory, nor does its check."""
    files = {f"{at}.jpg": os.urandom(15_000_000) for at in range(10)}
    archive = packed(files)
    (tmp_path / "photos.zip").write_bytes(archive)
    (tmp_path / "data").mkdir()
    server = Server(tmp_path / "data", jobs={"slots": 0})
    try:
        server.until("/ready", lambda answer: answer.status == 200)
        before = peak(server.process.pid)
        sent = subprocess.run(
            ["curl", "-sS", "-H", "Authorization: Bearer ada-key", "-F",
             f"file=@{tmp_path / 'photos.zip'}", f"{server.url}/upload"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "job_id" in sent.stdout
        assert peak(server.process.pid) - before < 40
    finally:
        server.kill()


def peak(pid):
    """Return the most memory that a process has had, in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [each for each in lines if each.startswith("VmHWM")]
    return int(line.split()[1]) / 1e3


async def test_an_upload_to_a_full_disk(tmp_path):
    """507 for what the disk has no room for; nothing of it stays."""
    async with asking(tmp_path, jobs={"min_free_mb": 10**9}) as ask:
        for path in ("/upload", "/drift"):
            status, answer = await ask.send(packed({"a.jpg": picture()}), path)
            assert (status, "disk" in answer["detail"]) == (507, True), path
        assert folders(tmp_path) == []

"""Uploads by tus 1.0 through a real server: begun, broken off, gone on with, taken by a job."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from films import video
from serving_jobs import apart, asking, lines, session
from yarl import URL

from mataserver import OutOfMemory, Unavailable
from mataserver_jobs import uploads as module
from mataserver_jobs.uploads import Uploads

TUS = {"Tus-Resumable": "1.0.0"}

PART = {**TUS, "Content-Type": "application/offset+octet-stream"}

DATA = random.Random(7).randbytes(3_000_000)


@pytest.fixture
async def ask(tmp_path):
    """A server that takes uploads of 4 MB, and 8 MB in all."""
    limits = {"max_upload_mb": 4, "uploads_mb": 8}
    keys = ["test-key", "bob-key", "eve-key"]
    async with asking(tmp_path, jobs=limits, api_keys=keys) as asked:
        yield asked


async def begun(ask, length, **headers):
    """Begin an upload; return its path."""
    given = {**TUS, "Upload-Length": str(length), **headers}
    async with ask.session.post("/v1/uploads", headers=given) as response:
        assert response.status == 201, await response.text()
        assert response.headers["Tus-Resumable"] == "1.0.0"
        assert response.headers["Upload-Expires"].endswith("GMT")
        return URL(response.headers["Location"]).path


async def offset(ask, path):
    """Return where an upload goes on."""
    async with ask.session.head(path, headers=TUS) as response:
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        return int(response.headers["Upload-Offset"])


async def part(ask, path, at, data, **headers):
    """Send a part; return status and where it goes on then."""
    given = {**PART, "Upload-Offset": str(at), **headers}
    async with ask.session.patch(path, data=io.BytesIO(data), headers=given) as response:
        return response.status, response.headers.get("Upload-Offset")


@contextlib.asynccontextmanager
async def broken_off(ask, path, at, data, **headers):
    """Send the half of a part, give what is answered, and vanish."""
    url = ask.session._base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        given = {**PART, "Upload-Offset": at, "Content-Length": len(data), "Host": "x", **headers}
        given["Authorization"] = ask.session.headers["Authorization"]
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        writer.write(f"PATCH {path} HTTP/1.1\r\n{head}\r\n".encode() + data[: len(data) // 2])
        await writer.drain()
        yield reader
    finally:  # also what was not sent yet goes with it: a server that reads no more keeps it open
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def arrived(ask, path, least):
    """Wait until so much of an upload is there; return how much."""
    async with asyncio.timeout(10):
        while (at := await offset(ask, path)) < least:
            await asyncio.sleep(0.02)
    return at


async def written(folder, path, least):
    """Wait until that many bytes of an upload are in its file, whether they count or not."""
    data = folder / "jobs" / "uploads" / path.rpartition("/")[2] / "data"
    async with asyncio.timeout(20):
        while data.stat().st_size < least:
            await asyncio.sleep(0.01)


def checksum(data, algorithm="sha1"):
    """Return the header of a checksum."""
    digest = base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
    return {"Upload-Checksum": f"{algorithm} {digest}"}


async def test_a_client_that_breaks_off(ask, tmp_path):
    """What arrived before a break stays; the client asks where, and goes on there."""
    name = base64.b64encode("yard é.mp4".encode()).decode()
    path = await begun(ask, len(DATA), **{"Upload-Metadata": f"filename {name},empty"})
    async with broken_off(ask, path, 0, DATA):
        half = await arrived(ask, path, len(DATA) // 2)
    assert half == len(DATA) // 2
    assert (await part(ask, path, half + 1, b"x"))[0] == 409
    assert await part(ask, path, half, DATA[half:]) == (204, str(len(DATA)))
    assert (tmp_path / "jobs" / "uploads" / path.rpartition("/")[2] / "data").read_bytes() == DATA


async def test_a_connection_that_hangs(ask):
    """A client that lost its connection goes on with another; the old request ends."""
    path = await begun(ask, len(DATA))
    async with broken_off(ask, path, 0, DATA) as answer:
        half = await arrived(ask, path, len(DATA) // 2)
        assert await part(ask, path, half, DATA[half:]) == (204, str(len(DATA)))
        assert b" 409 " in await answer.readline()


async def test_a_server_that_is_killed(tmp_path):
    """After kill -9 an upload goes on where it was, and a job answers every frame of it."""
    data = video(tmp_path / "v.mp4", 40).read_bytes()
    async with contextlib.AsyncExitStack() as stack, apart(tmp_path / "data") as ask:
        path = await begun(ask, len(data))
        await stack.enter_async_context(broken_off(ask, path, 0, data))
        await arrived(ask, path, len(data) // 2)
    async with apart(tmp_path / "data") as ask:
        at = await offset(ask, path)
        assert await part(ask, path, at, data[at:]) == (204, str(len(data)))
        asked = {"model": "fake-detect", "upload": path.rpartition("/")[2]}
        status, job = await ask("POST", "/v1/jobs/infer", json=asked)
        assert status == 202, job
        assert (await ask.ended(job["id"]))["result"]["items"] == 40
        assert len(await lines(ask, job["id"])) == 40


async def test_a_job_takes_it(ask, tmp_path):
    """The bytes are the job's then; a request that is sent again is the same job."""
    data = video(tmp_path / "v.mp4", 5).read_bytes()
    name = base64.b64encode(b"v.mp4").decode()
    path = await begun(ask, len(data), **{"Upload-Metadata": f"filename {name}"})
    asked = {"model": "fake-detect", "upload": path.rpartition("/")[2]}
    status, body = await ask("POST", "/v1/jobs/infer", json=asked)
    assert (status, body["detail"]) == (409, f"The upload has 0 of {len(data)} bytes")
    await part(ask, path, 0, data)
    once = {"Idempotency-Key": "once"}
    _, first = await ask("POST", "/v1/jobs/infer", json=asked, headers=once)
    _, again = await ask("POST", "/v1/jobs/infer", json=asked, headers=once)
    assert (first["id"], first["spec"]["file"]) == (again["id"], "v.mp4")
    assert first["bytes_used"] == len(data)
    status, body = await ask("POST", "/v1/jobs/infer", json=asked)
    assert (status, body["detail"]) == (409, "A job has taken the upload")
    assert (await part(ask, path, len(data), b""))[0] == 409
    assert (await ask.ended(first["id"]))["result"]["items"] == 5
    assert [each.name for each in (tmp_path / "jobs" / "uploads").glob("*/*")] == ["known.json"]
    other = {"model": "fake-classify", "upload": asked["upload"]}
    assert (await ask("POST", "/v1/jobs/infer", json=other, headers=once))[0] == 409
    both = {**asked, "path": "/x"}
    assert (await ask("POST", "/v1/jobs/infer", json=both))[0] == 422


async def test_one_job_takes_it(ask):
    """Of requests that come together one gets the upload, and the others are told that it is."""
    path = await begun(ask, len(DATA))
    assert (await part(ask, path, 0, DATA))[0] == 204
    asked = {"model": "fake-detect", "upload": path.rpartition("/")[2]}
    asking = [ask("POST", "/v1/jobs/infer", json=asked) for _ in range(6)]
    answers = await asyncio.gather(*asking)
    assert sorted(status for status, _ in answers) == [202, *(5 * [409])]
    assert (await ask("GET", "/v1/jobs"))[1]["total"] == 1


async def test_it_is_given_up_while_a_job_takes_it(ask, monkeypatch):
    """Who sent the job is told of it, which has the bytes; the upload is gone."""
    path = await begun(ask, len(DATA))
    assert (await part(ask, path, 0, DATA))[0] == 204
    uploads = ask.served.service("jobs").uploads
    give = uploads.hand_over

    def given(upload, target):
        give(upload, target)
        uploads.remove(upload.id)  # as DELETE does

    monkeypatch.setattr(uploads, "hand_over", given)
    asked = {"model": "fake-detect", "upload": path.rpartition("/")[2]}
    status, job = await ask("POST", "/v1/jobs/infer", json=asked)
    assert (status, job.get("bytes_used")) == (202, len(DATA)), job
    assert (await ask("GET", "/v1/jobs"))[1]["total"] == 1
    assert (await ask("POST", "/v1/jobs/infer", json=asked))[0] == 404


async def test_bytes_that_may_not_count_are_no_jobs(ask, tmp_path):
    """While a part arrives whose checksum may be wrong, no job takes what is there."""
    path = await begun(ask, 3)
    head = {**PART, "Upload-Offset": "0", "Upload-Checksum": "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    sent, more = asyncio.Event(), asyncio.Event()

    async def body():
        yield b"abc"
        sent.set()
        await more.wait()

    sending = asyncio.ensure_future(ask("PATCH", path, data=body(), headers=head))
    await sent.wait()
    await written(tmp_path, path, 3)
    assert await offset(ask, path) == 0
    asked = {"model": "fake-detect", "upload": path.rpartition("/")[2]}
    assert (await ask("POST", "/v1/jobs/infer", json=asked))[0] == 409
    more.set()
    assert (await sending)[0] == 460
    assert await offset(ask, path) == 0


async def test_checksums(ask, tmp_path):
    """A part counts whole and right or not at all, also when it breaks off."""
    path = await begun(ask, len(DATA))
    wrong = checksum(b"other")
    assert (await part(ask, path, 0, DATA[:9], **wrong))[0] == 460
    assert await offset(ask, path) == 0
    assert await part(ask, path, 0, DATA[:9], **checksum(DATA[:9])) == (204, "9")
    assert await part(ask, path, 9, DATA[9:20], **checksum(DATA[9:20], "sha256")) == (204, "20")
    for unknown in ("md5 x", "sha1 x", "sha1", "sha1 " + base64.b64encode(b"short").decode()):
        assert (await part(ask, path, 20, b"x", **{"Upload-Checksum": unknown}))[0] == 400
    async with broken_off(ask, path, 20, DATA[20:], **checksum(DATA[20:])):
        await written(tmp_path, path, 1_000)
        assert await offset(ask, path) == 20
    assert await part(ask, path, 20, DATA[20:]) == (204, str(len(DATA)))


async def test_a_server_that_is_killed_in_a_part_with_a_checksum(tmp_path):
    """After kill -9 none of the part counts; what came before it does."""
    async with contextlib.AsyncExitStack() as stack, apart(tmp_path) as ask:
        path = await begun(ask, len(DATA))
        assert await part(ask, path, 0, DATA[:9], **checksum(DATA[:9])) == (204, "9")
        await stack.enter_async_context(broken_off(ask, path, 9, DATA[9:], **checksum(DATA[9:])))
        await written(tmp_path, path, 1_000)
    async with apart(tmp_path) as ask:
        assert await offset(ask, path) == 9
        assert await part(ask, path, 9, DATA[9:]) == (204, str(len(DATA)))
    data = tmp_path / "jobs" / "uploads" / path.rpartition("/")[2]
    assert (data / "data").read_bytes() == DATA


async def test_what_is_spoken(ask):
    """The version and the limits are told to everybody; another version is 412."""
    async with ask.session.options("/v1/uploads") as response:
        assert response.status == 204
        assert response.headers["Tus-Version"] == "1.0.0"
        assert response.headers["Tus-Max-Size"] == "4000000"
        named = response.headers["Tus-Extension"].split(",")
        assert named == ["creation", "expiration", "termination", "checksum"]
        assert response.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"
    for headers in ({}, {"Tus-Resumable": "0.2.2"}):
        given = {**headers, "Upload-Length": "3"}
        async with ask.session.post("/v1/uploads", headers=given) as response:
            assert response.status == 412
            assert response.headers["Tus-Version"] == "1.0.0"
            assert response.headers["Tus-Resumable"] == "1.0.0"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"Upload-Length": "-1"}, 400),
        ({"Upload-Length": "x"}, 400),
        ({"Upload-Length": "9" * 40}, 400),
        ({"Upload-Defer-Length": "1"}, 400),
        ({"Upload-Length": "4000001"}, 413),
        ({"Upload-Length": "1", "Upload-Metadata": "filename ***"}, 400),
        ({"Upload-Length": "1", "Upload-Metadata": "a " + "x" * 5000}, 400),
    ],
)
async def test_what_cannot_begin(ask, tmp_path, headers, status):
    """No length, too much of it, or a name that is none: it is refused, and nothing stays."""
    async with ask.session.post("/v1/uploads", headers={**TUS, **headers}) as response:
        assert response.status == status
    assert not (tmp_path / "jobs" / "uploads").exists()


async def test_parts_that_are_wrong(ask):
    """More than the length, another type, no offset, an upload that is none."""
    path = await begun(ask, 10)
    assert (await part(ask, path, 0, b"x" * 11))[0] == 413
    assert await offset(ask, path) == 10
    assert (await part(ask, path, "", b"x"))[0] == 400
    kind = {"Content-Type": "application/octet-stream"}
    assert (await part(ask, path, 10, b"x", **kind))[0] == 415
    assert (await part(ask, path, 10, b"x", **{"Content-Encoding": "gzip"}))[0] == 400
    for other in ("x", "00000000-0000-4000-8000-000000000000", "..%2f..", "%00"):
        assert (await part(ask, URL(f"/v1/uploads/{other}", encoded=True), 0, b"x"))[0] == 404


async def test_an_upload_of_nothing(ask):
    """A file of no bytes is whole at once, and makes no job."""
    path = await begun(ask, 0)
    assert await part(ask, path, 0, b"") == (204, "0")
    asked = {"model": "fake-detect", "upload": path.rpartition("/")[2]}
    status, body = await ask("POST", "/v1/jobs/infer", json=asked)
    assert (status, body["detail"][:18]) == (400, "The file is empty:")


async def test_giving_it_up(ask, tmp_path):
    """An upload that is given up goes at once, also while it is written."""
    path = await begun(ask, len(DATA))
    async with broken_off(ask, path, 0, DATA) as answer:
        await arrived(ask, path, 1)
        assert (await ask("DELETE", path, headers=TUS))[0] == 204
        assert b" 409 " in await answer.readline()
    async with ask.session.head(path, headers=TUS) as response:
        assert response.status == 404
    assert list((tmp_path / "jobs" / "uploads").iterdir()) == []


async def test_whose_uploads(tmp_path):
    """Another's upload is 404 on every route, and no job of others takes it."""
    scopes = ["infer", "jobs:read", "jobs:write"]
    keys = [
        *({"key": f"{name}-key", "name": name, "scopes": scopes} for name in ("ada", "bob")),
        {"key": "reader-key", "name": "reader", "scopes": ["jobs:read"]},
    ]
    async with asking(tmp_path, key="ada-key", api_keys=keys) as ask:
        path = await begun(ask, 3)
        async with session(ask.served, "bob-key") as bob:
            assert (await part(bob, path, 0, b"abc"))[0] == 404
            assert (await bob("DELETE", path, headers=TUS))[0] == 404
            asked = {"model": "fake-detect", "upload": path.rpartition("/")[2]}
            assert (await bob("POST", "/v1/jobs/infer", json=asked))[0] == 404
        async with session(ask.served, "reader-key") as reader:
            given = {**TUS, "Upload-Length": "1"}
            assert (await reader("POST", "/v1/uploads", headers=given))[0] == 403
        assert await offset(ask, path) == 0


async def full(ask):
    """Begin an upload of a byte, for which there must be no room; return why."""
    given = {**TUS, "Upload-Length": "1"}
    async with ask.session.post("/v1/uploads", headers=given) as response:
        assert response.status == 507
        assert response.headers["Tus-Resumable"] == "1.0.0"
        return (await response.json())["detail"]


async def test_the_room_for_uploads(ask):
    """Over what all uploads may take, or an owner's, a new one is 507: nobody takes all of it."""
    first = await begun(ask, 4_000_000)
    assert "Your uploads have no room" in await full(ask)
    async with session(ask.served, "bob-key") as bob, session(ask.served, "eve-key") as eve:
        await begun(bob, 4_000_000)
        assert await full(eve) == "There is no room for another upload"
        assert (await ask("DELETE", first, headers=TUS))[0] == 204
        await begun(eve, 1)


@pytest.mark.parametrize("servers", [1, 2])
def test_two_that_begin_at_once(tmp_path, servers):
    """Of two uploads that would take more than there is together one is refused.

    Also where each is asked of another server on the same folder.
    """
    both = threading.Barrier(2)

    def clock():  # asked once the room was found
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        return 1.0

    limits = {"max_bytes": 5, "budget": 8, "keep": 60.0, "min_free": 0}
    of = [Uploads(tmp_path / "uploads", **limits, clock=clock) for _ in range(servers)]
    with ThreadPoolExecutor(2) as pool:
        told = [pool.submit(of[0].create, "ada", 5), pool.submit(of[-1].create, "bob", 5)]
    failures = [each.exception() for each in told]
    assert failures.count(None) == 1
    assert any(isinstance(each, OutOfMemory) for each in failures)


def test_a_server_that_keeps_the_folder(tmp_path, monkeypatch):
    """Another server that hangs with the lock makes a request 503, not wait for ever."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    limits = {"max_bytes": 5, "budget": 8, "keep": 60.0, "min_free": 0}
    uploads = Uploads(tmp_path / "uploads", **limits)
    with (tmp_path / ".uploads.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unavailable):
            uploads.create("ada", 5)
    assert uploads.create("ada", 5).length == 5


async def test_a_place_that_cannot_be_told(ask, tmp_path):
    """A request whose ``Host`` is no name begins no upload that nobody could go on with."""
    given = {**TUS, "Upload-Length": "4000000", "Host": "a b"}
    async with ask.session.post("/v1/uploads", headers=given) as response:
        assert response.status == 400
    assert not list((tmp_path / "jobs" / "uploads").glob("*"))

"""Jobs by the Python client, through a real server and connections that break."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
import tempfile

import msgspec
import pytest
from aiohttp import web
from cutting_proxy import CuttingProxy
from films import video
from serving_jobs import asking, lines

from mataserver_client import (
    AsyncClient,
    AuthenticationFailed,
    BadAnswer,
    Client,
    Conflict,
    ConnectionFailed,
    InvalidParams,
    Job,
    NotFound,
    downloads,
    jobs,
    patience,
)

pytestmark = pytest.mark.long

DATA = random.Random(7).randbytes(1_000_000)


@pytest.fixture
async def ask(tmp_path):
    """A server with jobs."""
    async with asking(tmp_path / "data") as asked:
        asked.data_dir = tmp_path / "data"
        yield asked


@pytest.fixture
async def proxy(monkeypatch):
    """What cuts connections, and a client that takes small parts and pauses shortly."""
    monkeypatch.setattr(jobs, "PART_BYTES", 100_000)
    monkeypatch.setattr(downloads, "PART_BYTES", 100_000)
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.01)
    async with CuttingProxy() as proxy:
        yield proxy


async def echoed(ask, data):
    """Have a job whose result is a file; return its id."""
    status, job = await ask("POST", "/lab/count", json={"to": 1})
    assert status == 202
    await ask.ended(job["id"])
    [path] = ask.data_dir.glob(f"**/{job['id']}/output")
    (path / "folder").mkdir()
    (path / "folder" / "large file.bin").write_bytes(data)
    return job["id"], path / "folder" / "large file.bin"


async def test_a_video_is_a_plain_clients_job(ask, tmp_path):
    """A program without an event loop sends a video, follows its job, and fetches what it made."""
    path, sent = video(tmp_path / "v.mp4", 12), []

    def run():
        with Client(ask.served.url, "test-key") as client:
            upload = client.send_file(path, progress=lambda *now: sent.append((client, *now)))
            spec = {"model": "fake-detect", "upload": upload, "every": 2}
            with pytest.raises(InvalidParams, match="confidence"):
                client.create_job("infer", **spec, params={"confidence": 7})
            jobs = [client.create_job("infer", **spec, idempotency_key="k") for _ in range(2)]
            assert jobs[0] == jobs[1]
            states = list(client.follow_job(jobs[0]))
            ended = client.wait_job(jobs[0])
            with pytest.raises(Conflict):
                client.cancel_job(jobs[0])
            got = client.download_job(jobs[0], tmp_path / "got")
            again = client.download_job(jobs[0], tmp_path / "one", "results.jsonl")
            with pytest.raises(NotFound, match="no file nothing"):
                client.download_job(jobs[0], tmp_path / "one", "nothing")
            found = [json.loads(line) for line in again[0].read_text().splitlines()]
            client.delete_job(jobs[0])
            with pytest.raises(NotFound):
                client.job(jobs[0])
            return states, ended, got, found

    states, ended, got, found = await asyncio.to_thread(run)
    assert [each[1:] for each in sent] == [(path.stat().st_size,) * 2]
    assert states[-1] == ended
    assert all(a != b for a, b in itertools.pairwise(states))
    assert (ended.state, ended.result["items"], ended.progress) == ("done", 6, 100.0)
    assert {each.name for each in got} == {"results.jsonl", "summary.json", "annotated.mp4"}
    assert {each.name for each in (tmp_path / "got").iterdir()} == {each.name for each in got}
    assert [each["index"] for each in found] == [0, 2, 4, 6, 8, 10]


async def test_an_open_file_is_sent_whole_and_stays_open(ask, tmp_path):
    """Where it stands does not matter; one without a name is given one."""
    data = video(tmp_path / "v.mp4", 4).read_bytes()
    with tempfile.TemporaryFile() as nameless, (tmp_path / "v.mp4").open("rb") as named:
        nameless.write(data)
        named.read(9)
        files = [
            (named, {}),
            (named, {"name": "made.mp4"}),
            (nameless, {}),
            (io.BytesIO(data), {}),
        ]
        names = ["v.mp4", "made.mp4", "file", "file"]
        async with AsyncClient(ask.served.url, "test-key") as client:
            for (file, more), name in zip(files, names, strict=True):
                upload = await client.send_file(file, **more)
                job = await client.create_job("infer", model="fake-detect", upload=upload)
                ended = await client.wait_job(job)
                assert (ended.result["items"], ended.spec["file"]) == (4, name)
                assert not file.closed
            for no_file in (io.StringIO("text"), DATA):
                with pytest.raises(TypeError, match="binary mode"):
                    await client.send_file(no_file)


async def test_files_arrive_whole_by_connections_that_break(ask, proxy, tmp_path):
    """What breaks costs a part: a file is whole at the server, and here again."""
    pictures = tmp_path / "v.avi"
    pictures.write_bytes(video(tmp_path / "v.mp4", 12).read_bytes() + DATA)
    proxy.target, proxy.limit = ask.served.url, 250_000
    async with AsyncClient(proxy.url, "test-key") as client:
        upload = await client.send_file(pictures)
        assert proxy.cuts > 2
        job = await client.create_job("infer", model="fake-detect", upload=upload, annotate=False)
        assert (await client.wait_job(job)).state == "done"
        assert len(await lines(ask, job)) == 12
        job, file = await echoed(ask, DATA)
        cuts = proxy.cuts
        [_, got] = sorted(await client.download_job(job, tmp_path / "got"), reverse=True)
    assert proxy.cuts > cuts + 2
    assert got == tmp_path / "got" / "folder" / "large file.bin"
    assert got.read_bytes() == DATA
    assert [each.name for each in got.parent.iterdir()] == [file.name]


async def test_a_download_is_continued_by_another_program(ask, proxy, tmp_path):
    """What a program had when it ended is not fetched again."""
    job, file = await echoed(ask, DATA)
    name, proxy.target, proxy.limit = f"folder/{file.name}", ask.served.url, 550_000
    proxy.at_cut = lambda: setattr(proxy, "target", None)
    async with AsyncClient(proxy.url, "test-key") as client:
        loading = asyncio.create_task(client.download_job(job, tmp_path, name))
        while proxy.target is not None:
            await asyncio.sleep(0.01)
        loading.cancel()
        await asyncio.wait({loading})
    proxy.target, proxy.limit, before = ask.served.url, None, proxy.passed
    async with AsyncClient(proxy.url, "test-key") as client:
        [got] = await client.download_job(job, tmp_path, name)
    assert got.read_bytes() == DATA
    assert proxy.passed - before < 600_000


async def test_several_programs_download_into_one_folder(ask, proxy, tmp_path):
    """Each returns where the file is: they write the same bytes, and one of them puts it there."""
    job, _ = await echoed(ask, DATA)
    proxy.target = ask.served.url

    async def download():
        async with AsyncClient(proxy.url, "test-key") as client:
            return await client.download_job(job, tmp_path / "got", "folder/large file.bin")

    for _ in range(10):
        for paths in await asyncio.gather(*(download() for _ in range(6))):
            assert [path.read_bytes() for path in paths] == [DATA]
    assert [path.name for path in (tmp_path / "got" / "folder").iterdir()] == ["large file.bin"]


async def test_who_is_overtaken_by_two_programs_downloads_anew(ask, proxy, tmp_path, monkeypatch):
    """They put the same file in its place, one after the other: it has not changed."""
    job, _ = await echoed(ask, DATA)
    put, overtaken, proxy.target = downloads._put, [], ask.served.url

    def late(written, part, target):
        if not overtaken:
            overtaken.append(target)
            target.write_bytes(DATA)  # before the other goes, whose number it would have
            part.unlink()
        return put(written, part, target)

    monkeypatch.setattr(downloads, "_put", late)
    async with AsyncClient(proxy.url, "test-key") as client:
        [got] = await client.download_job(job, tmp_path / "got", "folder/large file.bin")
    assert got.read_bytes() == DATA
    assert [*got.parent.iterdir()] == overtaken == [got]


def test_what_has_the_number_of_a_file_that_is_gone_is_not_put(tmp_path):
    """File systems give it to the next one, which may be another program's beginning."""
    part, target = tmp_path / "some.part" / "tag", tmp_path / "file"
    part.parent.mkdir()
    part.write_bytes(DATA)
    written = part.stat()
    part.write_bytes(DATA[:9])
    assert not downloads._put(written, part, target)
    assert not target.exists()


async def test_a_file_that_changes_meanwhile_is_not_mixed(ask, proxy, tmp_path):
    """Parts of two files never make one."""
    job, file = await echoed(ask, DATA)
    proxy.target, proxy.limit = ask.served.url, 250_000
    proxy.at_cut = lambda: file.write_bytes(DATA[::-1])
    async with AsyncClient(proxy.url, "test-key") as client:
        with pytest.raises(Conflict, match=r"changed while it was downloaded: folder/large"):
            await client.download_job(job, tmp_path, f"folder/{file.name}")
        assert not (tmp_path / "folder" / file.name).exists()
        proxy.limit = None
        [got] = await client.download_job(job, tmp_path, f"folder/{file.name}")
    assert got.read_bytes() == DATA[::-1]
    assert [*got.parent.iterdir()] == [got]  # nothing is left of what it was


@pytest.mark.parametrize("came", [0, 100_000])
async def test_a_file_that_changed_since_it_was_listed_is_the_new_one(
    ask, proxy, tmp_path, monkeypatch, came
):
    """Its size is the one it has now, and what a program left of another does not begin it."""
    job, file = await echoed(ask, DATA)
    name, begin = f"folder/{file.name}", downloads.Download.run
    proxy.target, proxy.limit = ask.served.url, came + 50_000 if came else None
    proxy.at_cut = lambda: setattr(proxy, "target", None)
    other = DATA[::-1] + (b"" if came else b"more")

    async def changed(download):
        file.write_bytes(other)
        return await begin(download)

    async with AsyncClient(proxy.url, "test-key") as client:
        if came:
            loading = asyncio.create_task(client.download_job(job, tmp_path, name))
            while proxy.target is not None:
                await asyncio.sleep(0.01)
            loading.cancel()
            await asyncio.wait({loading})
            proxy.target, proxy.limit = ask.served.url, None
            assert sum(each.stat().st_size for each in tmp_path.rglob("folder/*.part/*")) == came
        monkeypatch.setattr(downloads.Download, "run", changed)
        [got] = await client.download_job(job, tmp_path, name)
    assert got.read_bytes() == other
    assert [*got.parent.iterdir()] == [got]


async def test_what_has_come_is_told_before_the_next_fails(ask, tmp_path):
    """Of several files, each is told when it is there, also one whose name has no room for more."""
    job, file = await echoed(ask, DATA)
    long, gone, told = file.parent.with_name("n" * 255), file.parent.with_name("gone"), []
    file.rename(long)
    gone.write_bytes(DATA)

    def progress(path):
        told.append((path, path.read_bytes()))
        gone.unlink()

    names = [long.name, gone.name]
    async with AsyncClient(ask.served.url, "test-key") as client:
        with pytest.raises(NotFound):
            await client.download_job(job, tmp_path / "got", *names, progress=progress)
    assert told == [(tmp_path / "got" / names[0], DATA)]


async def test_a_job_is_followed_over_a_restart(proxy, tmp_path):
    """The server ends and another begins: the iterator goes on, to the job's end."""
    states, begun = [], asyncio.Event()

    async def follow(client, job):
        async for state in client.follow_job(job):
            states.append(state)
            begun.set()

    async with AsyncClient(proxy.url, "test-key") as client, asyncio.TaskGroup() as tasks:
        async with asking(tmp_path) as ask:
            proxy.target = ask.served.url
            job = await ask.count(300)
            tasks.create_task(follow(client, job))
            await begun.wait()
            proxy.target = None
        before = len(states)
        async with asking(tmp_path) as ask:
            proxy.target = ask.served.url
            ended = await client.wait_job(job)
            await ask.ended(job)
            while states[-1].finished_at is None:
                await asyncio.sleep(0.01)
    assert len(states) > before
    assert states[-1] == ended
    assert ended.result["counted"] == 300
    progress = [each.progress for each in states]
    assert progress == sorted(progress)


@pytest.mark.parametrize("end", ["removed", "revoked", "silent"])
async def test_a_job_that_is_no_more_ends_who_follows_it(proxy, tmp_path, monkeypatch, end):
    """A job that was removed, a key that was revoked, a server that stays away: each is told."""
    told = {"removed": NotFound, "revoked": AuthenticationFailed, "silent": ConnectionFailed}
    keys = {"revoked": ["another-key"]}.get(end, ["test-key"])
    if end == "silent":
        monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.0)
    async with AsyncClient(proxy.url, "test-key") as client:
        with pytest.raises(ConnectionFailed):
            await client.wait_job("1")
        async with asking(tmp_path) as ask:
            proxy.target = ask.served.url
            job = await ask.count(10_000)
            states = client.follow_job(job)
            assert (await anext(states)).finished_at is None
            proxy.target, proxy.limit = None, 0
            if end == "removed":
                await remove(ask, job)
        async with asking(tmp_path, api_keys=keys) as ask:
            proxy.target, proxy.limit = None if end == "silent" else ask.served.url, None
            with pytest.raises(told[end]):
                [state async for state in states]


async def remove(ask, job):
    """Cancel and remove a job, by another client."""
    async with AsyncClient(ask.served.url, "test-key") as client:
        assert (await client.cancel_job(job)).id == job
        assert (await client.wait_job(job)).state == "cancelled"
        await client.delete_job(job)


async def test_what_no_server_of_ours_says_is_refused(aiohttp_server, tmp_path):
    """A file that leads out of the folder is not written; parts that are none are told."""
    names = ["../x.bin", "x.bin"]

    async def files(_):
        name = names.pop(0)
        return web.json_response({"files": [{"name": name, "size": 9, "modified": 1.0}]})

    async def no_part(_):
        return web.Response(body=b"123456789", headers={"ETag": '"1"'})

    app = web.Application()
    app.router.add_get("/v1/jobs/1/files", files)
    app.router.add_get("/v1/jobs/1/files/x.bin", no_part)
    server = await aiohttp_server(app)
    async with AsyncClient(str(server.make_url(""))) as client:
        with pytest.raises(BadAnswer, match="leads out"):
            await client.download_job("1", tmp_path / "in")
        with pytest.raises(BadAnswer, match="not the part"):
            await client.download_job("1", tmp_path / "in")
    assert list(tmp_path.rglob("x.bin")) == []


async def test_a_job_has_the_fields_of_the_document(ask):
    """The client's struct is what the server tells of a job, but that any state is a text."""
    _, document = await ask("GET", "/openapi.json")
    told = document["components"]["schemas"]["JobView"]
    [mine] = msgspec.json.schema_components([Job])[1].values()
    assert mine["required"] == told["required"]
    for name, field in mine["properties"].items():
        wanted = {k: v for k, v in told["properties"][name].items() if k != "enum"}
        assert field == wanted | ({"type": "string"} if name == "state" else {}), name

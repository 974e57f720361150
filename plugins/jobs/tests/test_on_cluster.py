"""Jobs on the nodes of a cluster: the table decides, whatever becomes of a node."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import time
from pathlib import Path

import pytest
from films import video
from serving_jobs import asking, lines, sent

from mataserver import MataError
from mataserver_jobs import file_transfer
from mataserver_jobs.disk import FULL
from mataserver_jobs.returned_files import ReturnedFiles
from mataserver_jobs.runner import LocalRunner
from stand_in_cluster import StandInCluster

pytestmark = pytest.mark.long

SOON = 60.0


@pytest.fixture
async def cluster(tmp_path):
    """Two nodes, with whom the folder of the jobs is shared."""
    made = StandInCluster(tmp_path / "cluster")
    await made.open("one", "two")
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def running(queue, kinds, folder, engine, **options):
    """Run a runner until the context ends."""
    runner = LocalRunner(queue, kinds, folder / "jobs", engine.run_process, **options)
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        await runner.close()
        await task


async def ended(queue, job):
    """Wait for a job's end."""
    async with asyncio.timeout(SOON):
        while not (record := await queue.get(job.id)).ended:
            await asyncio.sleep(0.02)
    return record


async def begun(queue, job):
    """Wait until a job has told of itself."""
    async with asyncio.timeout(SOON):
        while (await queue.get(job.id)).progress <= 0:
            await asyncio.sleep(0.02)


async def test_a_job_outlives_its_node(queue, kinds, tmp_path, cluster):
    """Its second attempt, on the other node, goes on where the first one was."""
    job = await queue.submit("count", "ada", {"to": 400})
    async with running(queue, kinds, tmp_path, cluster.engine()):
        await begun(queue, job)
        (busy,) = [name for name, node in cluster.nodes.items() if node.pids]
        await cluster.kill(busy)
        record = await ended(queue, job)
    assert (record.state, record.result) == ("done", {"counted": 400, "attempt": 2})
    steps = (tmp_path / "jobs" / job.id / "output" / "steps").read_text().splitlines()
    assert 400 <= len(steps) <= 401  # the one in which it was killed may stand there twice


@pytest.fixture
def node_folders(tmp_path, monkeypatch):
    """Where the nodes have folders of their own, in place of that of the jobs."""
    folder = tmp_path / "nodes"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def given(tmp_path, job, **files):
    """Put files into what a job is given."""
    for name, content in files.items():
        path = tmp_path / "jobs" / job.id / "input" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


async def test_a_jobs_files_go_over_the_wire(queue, kinds, tmp_path, cluster, node_folders):
    """A node without the folder is sent the input, and its output comes back, byte for byte.

    What is there of a killed process before goes, and nothing stays on the node.
    """
    left = node_folders / "mataserver-job-left"
    left.mkdir()
    (left / "lock").touch()
    files = {"empty": b"", "a__large": os.urandom(3_500_000), "a__b__small": b"x"}
    job = await queue.submit("echo", "ada", {"copies": 600})
    given(tmp_path, job, **files)
    async with running(queue, kinds, tmp_path, cluster.engine(), transfers_files=True):
        record = await ended(queue, job)
    assert (record.state, record.error) == ("done", None)
    output = tmp_path / "jobs" / job.id / "output"
    for name, content in files.items():
        assert (output / name.replace("__", "/")).read_bytes() == content
    assert len(list((output / "copies").iterdir())) == 600
    assert not Path(record.result["folder"]).exists()
    assert not list(node_folders.glob("mataserver-job-*"))
    assert {path.name for path in (tmp_path / "jobs" / job.id).iterdir()} <= {
        *("input", "output", "log"),
    }


async def test_a_job_over_the_wire_outlives_its_node(queue, kinds, tmp_path, cluster, node_folders):
    """Its second attempt begins anew on the other node, and what it made comes back."""
    job = await queue.submit("count", "ada", {"to": 200})
    async with running(queue, kinds, tmp_path, cluster.engine(), transfers_files=True):
        await begun(queue, job)
        (busy,) = [name for name, node in cluster.nodes.items() if node.pids]
        await cluster.kill(busy)
        record = await ended(queue, job)
    assert (record.state, record.result) == ("done", {"counted": 200, "attempt": 2})
    steps = (tmp_path / "jobs" / job.id / "output" / "steps").read_text().splitlines()
    assert steps == [str(number) for number in range(200)]


async def test_a_job_on_a_node_is_cancelled(queue, kinds, tmp_path, cluster):
    """It is asked to stop, one that does not listen is killed, and the log is here."""
    job = await queue.submit("misbehave", "ada", {"how": "deaf"})
    async with running(queue, kinds, tmp_path, cluster.engine()) as runner:
        await begun(queue, job)
        await queue.cancel(job.id)
        runner.wake()
        record = await ended(queue, job)
    assert record.state == "cancelled"


async def test_a_job_is_cancelled_while_its_input_travels(
    queue, kinds, tmp_path, cluster, node_folders, monkeypatch
):
    """The rest of it is not sent, and the node keeps nothing."""
    fed, size = [], 10_000

    def slowly(folder, sent):
        for byte in (folder / sent.files[0].name).read_bytes():
            fed.append(byte)
            time.sleep(0.02)
            yield bytes([byte])

    monkeypatch.setattr(file_transfer, "read_pieces", slowly)
    job = await queue.submit("echo", "ada", {"copies": 1})
    given(tmp_path, job, slow=bytes(size))
    async with running(queue, kinds, tmp_path, cluster.engine(), transfers_files=True) as runner:
        async with asyncio.timeout(SOON):
            while not fed:
                await asyncio.sleep(0.02)
        await queue.cancel(job.id)
        runner.wake()
        record = await ended(queue, job)
    assert record.state == "cancelled"
    assert len(fed) < size
    assert not list((tmp_path / "jobs" / job.id).glob("arriving*"))


async def test_the_disk_fills_while_a_jobs_files_come(
    queue, kinds, tmp_path, cluster, node_folders, monkeypatch
):
    """It fails, and what came of them gives its room back."""
    take, came = ReturnedFiles.take, []

    async def full(returned_files, message, process):
        await take(returned_files, message, process)
        came.extend((tmp_path / "jobs" / job.id).glob("arriving-*"))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ReturnedFiles, "take", full)
    job = await queue.submit("echo", "ada", {"copies": 1})
    async with running(queue, kinds, tmp_path, cluster.engine(), transfers_files=True):
        record = await ended(queue, job)
    assert (record.state, record.error, len(came)) == ("failed", FULL, 1)
    assert not list((tmp_path / "jobs" / job.id).glob("arriving-*"))


async def test_what_a_lost_claim_made_is_no_result(
    queue, kinds, tmp_path, cluster, node_folders, monkeypatch
):
    """Another server's attempt has begun when an older one ends: that one's files are not taken."""
    job = await queue.submit("echo", "ada", {"copies": 1})
    take, lost = ReturnedFiles.take, asyncio.Event()

    async def late(returned_files, message, process):
        await take(returned_files, message, process)
        if not lost.is_set():  # its lease is over, and the job is another server's
            await queue.recover(await queue.leases())
            assert await queue.claim("another", ["echo"]) is not None
            lost.set()

    monkeypatch.setattr(ReturnedFiles, "take", late)
    async with running(queue, kinds, tmp_path, cluster.engine(), transfers_files=True):
        async with asyncio.timeout(SOON):
            await lost.wait()
    record = await queue.get(job.id)
    assert (record.state, record.holder) == ("running", "another")
    assert {path.name for path in (tmp_path / "jobs" / job.id).iterdir()} <= {"log"}


async def test_a_job_that_breaks_has_its_log_here(queue, kinds, tmp_path, cluster):
    """As one of this machine: an error of its code is tried again, and then told."""
    job = await queue.submit("misbehave", "ada", {"how": "raise"})
    async with running(queue, kinds, tmp_path, cluster.engine()):
        record = await ended(queue, job)
    assert (record.state, "RuntimeError" in record.error) == ("failed", True)
    assert "secret detail" in (tmp_path / "jobs" / job.id / "log").read_text()


class Unlike:
    """A cluster whose nodes have another release."""

    @contextlib.asynccontextmanager
    async def run_process(self, *_args, **_options):
        """Refuse, as the engine does."""
        raise MataError("The node one has mataserver 9.9")
        yield


async def test_a_node_that_cannot_start_a_job(queue, kinds, tmp_path):
    """It costs an attempt at once, and the last one tells why; it does not wait for a lease."""
    job = await queue.submit("count", "ada", {"to": 3})
    async with running(queue, kinds, tmp_path, Unlike()):
        record = await ended(queue, job)
    assert (record.state, "mataserver 9.9" in record.error) == ("failed", True)


async def test_a_job_waits_for_the_cluster(queue, kinds, tmp_path, cluster, caplog):
    """Without one no attempt is counted, and it runs once there is one."""
    await cluster.kill_head()
    job = await queue.submit("count", "ada", {"to": 3})
    async with running(queue, kinds, tmp_path, cluster.engine()):
        async with asyncio.timeout(SOON):
            while "waits: The Ray cluster is out of reach" not in caplog.text:
                await asyncio.sleep(0.02)
        await cluster.start_head()
        record = await ended(queue, job)
    assert (record.state, record.result["attempt"]) == ("done", 1)


async def test_a_video_outlives_the_node_under_it(tmp_path, cluster):
    """A real server, whose job looks at a video on a node that is killed: every frame is there."""
    on_cluster = {"cluster": {"cpu": 1}}
    engines = {"ray": cluster.engine()}
    async with asking(tmp_path / "data", jobs=on_cluster, engines=engines) as ask:
        path = video(tmp_path / "v.mp4", 60)
        job = await sent(ask, path, model="fake-detect", params=json.dumps({"seconds": 0.1}))
        async with asyncio.timeout(SOON):
            while (await ask("GET", f"/v1/jobs/{job}"))[1]["progress"] <= 5:
                await asyncio.sleep(0.02)
        (busy,) = [name for name, node in cluster.nodes.items() if node.pids]
        await cluster.kill(busy)
        shown = await ask.ended(job, SOON)
        assert (shown["error"], shown["attempt"]) == (None, 2)
        found = await lines(ask, job)
        assert [line["index"] for line in found] == list(range(60))

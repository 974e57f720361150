"""Jobs as they are taken in and restarted, whenever the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import time
from pathlib import Path

import msgspec
import pytest

from mataserver_database.held_folders import UNKNOWN_SECONDS
from mataserver_jobs.desk import Desk
from mataserver_jobs.disk import FULL
from mataserver_jobs.kinds import JobKind
from mataserver_jobs.storage import Storage


class Nothing(msgspec.Struct):
    """What such a job is asked."""


def run(_job):
    """Never runs: no runner takes it."""


@pytest.fixture
def desk(store, tmp_path):
    """A desk that no runner works for."""
    kinds = {"nothing": JobKind(name="nothing", run=run, spec=Nothing)}
    return Desk(store, Storage(tmp_path / "jobs", min_free=0), kinds, lambda: None, 10**9)


async def submitted(desk, owner="ada"):
    """Take a job in that was given a file."""
    async with desk.draft() as draft:
        (draft.input / "given").write_text(draft.id)
        return await desk.submit(draft, "nothing", owner, Nothing())


async def left(work, moment):
    """Begin something whose client leaves after some steps of the loop."""
    task = asyncio.create_task(work)
    for _ in range(moment):
        await asyncio.sleep(0.0002)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_client_that_leaves_while_its_job_is_taken(desk):
    """A job is queued with what it was given, or there is neither a job nor a file."""
    for moment in range(40):
        await left(submitted(desk), moment)
    records = (await desk.store.find()).jobs
    assert {path.name for path in desk.storage.root.iterdir()} == {each.id for each in records}
    for each in records:
        assert (desk.storage.folder(each.id) / "input" / "given").read_text() == each.id


async def test_a_client_that_leaves_a_restart(desk):
    """What a job made goes only when it is queued again."""
    for moment in range(20):
        record = await submitted(desk)
        await desk.store.cancel(record.id)
        output = desk.storage.folder(record.id) / "output"
        output.mkdir()
        ended = await desk.store.get(record.id)
        await left(desk.restart(ended, {}), moment)
        state = (await desk.store.get(record.id)).state
        assert output.exists() == (state == "cancelled"), moment


@pytest.mark.parametrize(
    ("resumes", "error", "stays"),
    [(False, None, False), (True, None, True), (True, FULL, True), (True, "It died", False)],
)
async def test_what_a_restart_goes_on_with(desk, resumes, error, stays):
    """A kind that resumes finds its work again, unless that may be what it failed of."""
    kinds = {"nothing": JobKind(name="nothing", run=run, spec=Nothing, resumes=resumes)}
    desk = Desk(desk.store, desk.storage, kinds, lambda: None, 10**9)
    record = await submitted(desk)
    claimed = await desk.store.claim("us", ["nothing"])
    for name in ("work", "output"):
        (desk.storage.folder(record.id) / name).mkdir()
    if error is None:
        await desk.store.finish(claimed, {})
    else:
        await desk.store.fail(claimed, error)
    await desk.restart(await desk.store.get(record.id), {})
    left = {path.name for path in desk.storage.folder(record.id).iterdir() if path.is_dir()}
    assert left == ({"input", "work"} if stays else {"input"})


def aged(folder):
    """Have a folder be some minutes old."""
    os.utime(folder, (time.time() - 300,) * 2)
    return folder


async def test_what_a_killed_server_left_of_an_upload_is_removed(desk):
    """Its folder is of no job and of no draft: it goes with the next sweep, at the start too."""
    with contextlib.ExitStack() as held:
        killed = desk.storage.make("00000000-0000-4000-8000-000000000000", held)
    (killed / ".0123.part").write_bytes(b"half of a film")
    aged(killed.parent)
    async with desk.draft() as draft:
        (draft.input / ".4567.part").write_bytes(b"arrives slowly")
        uploading = aged(draft.input.parent)
        record = await submitted(desk)
        aged(desk.storage.folder(record.id))
        for age in (300, 86_400 * 2, -86_400):  # the last two: the clock was set meanwhile
            os.utime(uploading, (time.time() - age,) * 2)
            await desk.sweep()
            found = {path.name for path in desk.storage.root.iterdir()}
            assert found == {uploading.name, record.id}
    assert [path.name for path in desk.storage.root.iterdir()] == [record.id]


async def test_a_server_that_is_killed_at_any_step(tmp_path):
    """While it makes a job's folder, or removes one: the next sweep leaves nothing of it."""
    script = Path(__file__).with_name("killed_at_each_step.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, tmp_path, stdout=asyncio.subprocess.PIPE
    )
    told = (await process.communicate())[0].decode()
    assert process.returncode == 0
    steps = re.fullmatch(r"make took (\d+) steps\nremove took (\d+) steps\n", told)
    assert steps, told
    assert all(int(each) > 5 for each in steps.groups())


async def test_what_another_machine_receives_stays_for_a_day(desk):
    """Its lock need not be seen here, and its folder is as old as the beginning of a large file."""
    with contextlib.ExitStack() as held:
        folder = desk.storage.make("00000000-0000-4000-8000-000000000000", held).parent
    (folder / ".boot").write_text("another-boot")
    aged(folder)
    await desk.sweep()
    assert folder.exists()
    os.utime(folder, (time.time() - UNKNOWN_SECONDS - 60,) * 2)
    await desk.sweep()
    assert not folder.exists()

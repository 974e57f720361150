"""What a page that takes long, hangs or is abandoned does to its worker and to other pages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import threading

import aiohttp
import pytest

from api_answers import until
from conftest import picture
from mataserver.processes import kernel
from mataserver.testing import installed, serving
from mataserver_ocr import page_queue
from mataserver_ocr.page_model import last
from mataserver_ocr.page_queue import PageQueue

PROGRAM = f"""#!{sys.executable}
import sys, time
if "--list-langs" in sys.argv:
    print("List of available languages in /nowhere (3):", "endless", "eng", "slow", sep="\\n")
    sys.exit()
language = sys.argv[sys.argv.index("-l") + 1]
time.sleep({{"eng": 0, "slow": 3, "endless": 1000}}[language])
for kind in ("tsv", "txt"):
    open(f"{{sys.argv[2]}}.{{kind}}", "w").close()
"""
"""In the place of Tesseract: its languages differ in how long a page takes, which is read empty."""


@contextlib.asynccontextmanager
async def loaded(folder, name, **given):
    """Yield a server whose ``infer_timeout`` is 1 s, a client, and an engine's worker."""
    async with (
        serving(
            folder,
            entry_points=installed("ocr"),
            models=[{"model": name, "task": "ocr", "preload": True, "max_batch": 64}],
            plugins={"ocr": {name: given}},
            infer_timeout=1.0,
            decode_timeout=0.5,
            confine_models=False,  # the stand-in lies where a worker may run nothing
        ) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        slots = served.composed.pool._slots
        await until(lambda: any(slot.worker is not None for slot in slots), 60.0)
        [slot] = slots
        yield http, slot.worker


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put the program above on PATH as ``tesseract``."""
    program = tmp_path / "bin" / "tesseract"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


async def answer(http, name, **params):
    """Return the status and the body of a request for one page."""
    query = {"model": name, **params}
    async with http.post("/v1/infer", params=query, data=picture()) as response:
        return response.status, await response.json()


def children(pid):
    """Return the processes that a process has started."""
    return [child for child, parent in kernel.process_parents() if parent == pid]


@pytest.mark.parametrize(
    "name", ["rapidocr"] + ["tesseract"] * (shutil.which("tesseract") is not None)
)
async def test_a_short_infer_timeout_finds_a_worker_that_hangs(tmp_path, name):
    """It does not wait for the time that a page may take, 30 or 45 s, nor for that of a batch."""
    async with loaded(tmp_path, name) as (http, worker):
        for pid in worker.pids:
            os.kill(pid, signal.SIGSTOP)
        status, body = await answer(http, name)
    assert status == 500
    assert "gave no answer within 1 s" in body["detail"]


@pytest.mark.usefixtures("stand_in")
async def test_a_page_has_its_time_whatever_the_infer_timeout(tmp_path):
    """A page of three seconds is read, as its program works; it took a longer ``timeout``."""
    async with loaded(tmp_path, "tesseract") as (http, worker):
        assert (await answer(http, "tesseract", language="slow"))[0] == 200
        assert worker.is_alive


@pytest.mark.usefixtures("stand_in")
async def test_a_slow_page_fails_alone(tmp_path):
    """Pages that come together each have their own time: 400 for the slow ones, no 500."""
    async with loaded(tmp_path, "tesseract", timeout=1) as (http, worker):
        asked = ["endless", "eng", "endless", "eng"]
        answers = [answer(http, "tesseract", language=each) for each in asked]
        found = await asyncio.gather(*answers)
        assert [status for status, _ in found] == [400, 200, 400, 200]
        assert found[0][1]["detail"] == "tesseract did not finish this image within 1 s"
        assert worker.is_alive
        assert children(*worker.pids) == []


@pytest.mark.usefixtures("stand_in")
async def test_a_page_ends_when_its_client_leaves(tmp_path):
    """Its program is killed, and the next page is read."""
    async with loaded(tmp_path, "tesseract") as (http, worker):
        request = asyncio.create_task(answer(http, "tesseract", language="endless"))
        await until(lambda: children(*worker.pids))
        request.cancel()
        await until(lambda: not children(*worker.pids))
        assert (await answer(http, "tesseract"))[0] == 200
        assert worker.is_alive


def test_pages_are_read_one_at_a_time_and_show_that_they_are():
    """Both streams say that the model works, also the one whose turn has not come."""
    pages, ends, running = PageQueue(60.0), [threading.Event(), threading.Event()], []

    def read(clock, index):
        running.append(index)
        ends[index].wait(60.0)
        return index

    first, second = (pages.stream(lambda clock, i=i: read(clock, i)) for i in (0, 1))
    assert [next(first), next(second), next(first)] == ["", "", ""]
    assert running == [0]
    for end in ends:
        end.set()
    assert last(first) == 0
    assert last(second) == 1


def test_a_stream_that_is_closed_stops_its_page_or_forgets_it():
    """A page whose turn has not come is never read."""
    pages, read, stopped = PageQueue(60.0), [], threading.Event()

    def until_stopped(clock):
        while clock.left:
            stopped.wait(0.01)
        stopped.set()

    running, waiting = pages.stream(until_stopped), pages.stream(read.append)
    assert [next(running), next(waiting)] == ["", ""]
    waiting.close()
    running.close()
    assert stopped.wait(60.0)
    assert last(pages.stream(lambda _: "next")) == "next"
    assert read == []


def test_a_page_that_does_not_end_in_its_time_is_taken_to_hang(monkeypatch):
    """Nothing more is yielded, so that the server ends the worker."""
    monkeypatch.setattr(page_queue, "BEAT", 0.01)
    monkeypatch.setattr(page_queue, "SPARE", 0.05)
    late = []

    def hang(clock):
        while clock.late < 0.2:
            threading.Event().wait(0.01)
        late.append(clock.late)

    items = PageQueue(0.01).stream(hang)
    while (item := next(items)) == "":
        assert not late
    assert item is None

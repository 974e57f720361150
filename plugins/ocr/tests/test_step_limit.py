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


engines = pytest.mark.parametrize(
    "name", ["rapidocr"] + ["tesseract"] * (shutil.which("tesseract") is not None)
)


@engines
@pytest.mark.parametrize(("timeout", "seconds"), [(100, 110.0), (3600, 3600.0)])
async def test_a_model_composed_of_an_engine_has_a_pages_time(tmp_path, name, timeout, seconds):
    """It waits for a page in one step of its own, in which the worker can give no sign of life."""
    async with loaded(tmp_path, name, timeout=timeout) as (_, worker):
        assert worker.report.step_timeout == seconds


@engines
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

    def read(index):
        running.append(index)
        ends[index].wait(60.0)
        return index

    first, second = (pages.stream(list, lambda *_, i=i: read(i)) for i in (0, 1))
    assert [next(first), next(second), next(first)] == ["", "", ""]
    assert running == [0]
    for end in ends:
        end.set()
    assert last(first) == 0
    assert last(second) == 1


def test_a_stream_that_is_closed_stops_its_page_or_forgets_it():
    """A page whose turn has not come is never read."""
    pages, read, stopped = PageQueue(60.0), [], threading.Event()

    def until_stopped(_, clock):
        while clock.left:
            stopped.wait(0.01)
        stopped.set()

    running, waiting = pages.stream(list, until_stopped), pages.stream(list, read.append)
    assert [next(running), next(waiting)] == ["", ""]
    waiting.close()
    running.close()
    assert stopped.wait(60.0)
    assert last(pages.stream(list, lambda *_: "next")) == "next"
    assert read == []


def test_a_page_that_does_not_end_in_its_time_is_taken_to_hang(monkeypatch):
    """Nothing more is yielded, so that the server ends the worker."""
    monkeypatch.setattr(page_queue, "BEAT", 0.01)
    monkeypatch.setattr(page_queue, "SPARE", 0.05)
    late = []

    def hang(_, clock):
        while clock.late < 0.2:
            threading.Event().wait(0.01)
        late.append(clock.late)

    items = PageQueue(0.01).stream(list, hang)
    while (item := next(items)) == "":
        assert not late
    assert item is None


def test_a_queue_that_idled_is_not_late(monkeypatch):
    """Long after a page's time was over, the next page still says that the model works."""
    now, pages, end = [0.0], PageQueue(60.0), threading.Event()
    monkeypatch.setattr(page_queue, "monotonic", lambda: now[0])
    assert last(pages.stream(list, lambda *_: "first")) == "first"
    now[0] = 1_000.0
    started = threading.Event()

    def picture():  # the next page's own clock is set in the same thread, before this
        assert started.wait(60.0)
        return []

    items = pages.stream(picture, lambda *_: end.wait(60.0))
    assert pages._running.late < 0
    assert next(items) == ""
    started.set()
    end.set()
    assert last(items) is True


def test_an_abandoned_page_that_cannot_be_ended_does_not_hang(monkeypatch):
    """The page behind it says that the model works, until the first one's own time is over."""
    now, pages, end = [0.0], PageQueue(60.0), threading.Event()
    monkeypatch.setattr(page_queue, "monotonic", lambda: now[0])
    abandoned, behind = (pages.stream(list, lambda *_: end.wait(60.0)) for _ in range(2))
    assert [next(abandoned), next(behind)] == ["", ""]
    abandoned.close()
    now[0] = 60.0 + page_queue.SPARE - 1.0
    assert pages._running.left == 0.0
    assert next(behind) == ""
    now[0] = 60.0 + page_queue.SPARE + 1.0
    assert pages._running.late > page_queue.SPARE
    end.set()
    assert last(behind) is True


def test_all_streams_together_take_one_beat(monkeypatch):
    """The more pages wait, the shorter each waits for: the one that is ready is answered soon."""
    pages, end, waited, wait = PageQueue(60.0), threading.Event(), [], page_queue.wait

    def noted(futures, patience, when):
        waited.append(patience)
        return wait(futures, 0.0, when)

    monkeypatch.setattr(page_queue, "wait", noted)
    streams = [pages.stream(list, lambda *_: end.wait(60.0)) for _ in range(8)]
    for _ in range(2):
        assert {next(each) for each in streams} == {""}
    assert sum(waited[8:]) == pytest.approx(page_queue.BEAT)
    end.set()
    assert all(last(each) for each in streams)


def test_a_page_is_decoded_when_its_turn_comes():
    """What waits takes no memory for its pixels, and what is closed meanwhile is never decoded."""
    pages, end, decoded = PageQueue(60.0), threading.Event(), []
    first, second, third = (
        pages.stream(lambda i=i: decoded.append(i), lambda *_: end.wait(60.0)) for i in range(3)
    )
    assert [next(each) for each in (first, second, third)] == ["", "", ""]
    assert decoded == [0]
    second.close()
    end.set()
    assert last(first) is last(third) is True
    assert decoded == [0, 2]

"""The video that a job made, on Jobs."""

from __future__ import annotations

import aiohttp
import pytest
from console_pages import CHROMIUM, END, SQUARE, asked, served, shown

from camera_sources import make_video

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
VIDEO = "document.querySelector('.jobmid video')"
PLAYS = f"{VIDEO}?.readyState > 1 && {VIDEO}.videoWidth > 0"
RANGES = """fetch(document.querySelector(".jobmid video").src, { headers: { Range: "bytes=8-19" } })
  .then(async (answer) => [answer.status, answer.headers.get("Content-Type"),
    (await answer.arrayBuffer()).byteLength])"""


async def a_job(server, data, name):
    """Return a job of a file that has ended, with what it made drawn into a video."""
    form = aiohttp.FormData({"model": "fake-detect", "annotate": "true"})
    form.add_field("file", data, filename=name)
    job = (await asked(server, "POST", "/v1/jobs/infer", data=form))["id"]
    while (await asked(server, "GET", f"/v1/jobs/{job}"))["state"] != "done":
        pass
    return job


async def test_a_video_is_played(tmp_path):
    """In the page, from any place of it, as its Content-Security-Policy lets it; it downloads."""
    video = make_video(tmp_path / "shelf.mp4", count=100)
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        job = await a_job(server, video.read_bytes(), video.name)
        await person.go(f"jobs?id={job}")
        await person.until(PLAYS)
        assert await person.evaluate(f"{RANGES}.then(JSON.stringify)") == '[206,"video/mp4",12]'
        seek = f"""new Promise((done) => {{ const video = {VIDEO}; video.muted = true;
          video.onended = () => done(true); video.currentTime = video.duration - 0.2;
          video.play(); }})"""
        assert await person.evaluate(seek)
        link = "document.querySelector('.jobmid a[download]').getAttribute('href')"
        assert await person.evaluate(link) == f"v1/jobs/{job}/files/annotated.mp4"
        assert await person.faults() == []
        await person.screen(390, 844, phone=True)
        wide = "document.documentElement.scrollWidth <= 390"
        await person.until(f"{wide} && {VIDEO}.getBoundingClientRect().width > 300")


async def test_a_video_after_the_session(tmp_path):
    """One that did not come because the session was over is played after signing in again."""
    video = make_video(tmp_path / "shelf.mp4")
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        job = await a_job(server, video.read_bytes(), video.name)
        await person.go(f"jobs?id={job}")
        await person.until(PLAYS)
        await person.evaluate(f"{END}")
        await person.evaluate(f"{VIDEO}.load(), 0")
        await person.until("!!document.querySelector('.signin')")
        await person.enter()
        await person.until(f"!document.querySelector('.signin') && {PLAYS}")
        assert not await person.evaluate("!!document.querySelector('.jobmid .note')")


async def test_a_connection_that_breaks_again_and_again(tmp_path):
    """A video that breaks after each first picture is loaded anew a few times, then said so."""
    video = make_video(tmp_path / "shelf.mp4")
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        job = await a_job(server, video.read_bytes(), video.name)
        await person.go(f"jobs?id={job}")
        await person.until(PLAYS)
        await person.evaluate(f"""(() => {{ const video = {VIDEO}; window.loads = 0;
          const fail = () => video.dispatchEvent(new Event("error"));
          video.addEventListener("loadeddata", () => {{ window.loads += 1; fail(); }});
          fail(); }})(), 0""")
        await person.sees("The connection broke again and again.")
        assert await person.evaluate("window.loads") == 3


async def test_a_video_that_no_browser_plays(tmp_path):
    """The page says so, and it can be downloaded all the same; a job without one shows none."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        video = make_video(tmp_path / "shelf.mp4")
        job = await a_job(server, video.read_bytes(), video.name)
        (made,) = (tmp_path / "data").rglob("annotated.mp4")
        made.write_bytes(SQUARE)
        await person.go(f"jobs?id={job}")
        await person.sees("This browser cannot play it.")
        assert await person.evaluate("!!document.querySelector('.jobmid a[download]')")

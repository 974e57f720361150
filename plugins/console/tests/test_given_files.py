"""Files that people give: a folder, one of many that is no picture, one that changed meanwhile."""

from __future__ import annotations

import io
import os

import planted_film
import pytest
from console_pages import CHROMIUM, SQUARE, asked, served, shown
from PIL import Image
from test_at_hand import drop

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
CHANGED = "cannot be read any more"


def folder(path):
    """Return a folder of pictures, two of one name, with what is no picture and what is hidden."""
    (path / "below").mkdir(parents=True)
    for name in ("1.png", "2.png", "10.png", "below/1.png"):
        (path / name).write_bytes(SQUARE)
    (path / "broken.jpg").write_bytes(b"no picture")
    (path / "notes.txt").write_text("no picture")
    (path / ".hidden.png").write_bytes(SQUARE)
    return path


def change(path):
    """Change a file; a browser looks at the second."""
    path.write_bytes(path.read_bytes() + bytes(9))
    os.utime(path, (1, 1))


async def known(person, files):
    """Wait until the browser knows files as they are now: it looks after they are chosen."""
    await person.evaluate(f"""Promise.all([...{files}]
      .map((file) => file.slice(0, 1).arrayBuffer())).then(() => 0)""")


async def test_a_folder_that_is_dropped_is_its_pictures(tmp_path):
    """A model runs over all of them, also two of one name; the one that failed is told."""
    given = folder(tmp_path / "trip")
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("jobs")
        await person.sees("Drop pictures")
        await drop(person, ".jobs", files=[str(given)])
        await person.pick("fake-detect")
        await person.click("Start", "dialog")
        await person.sees("Done, but 1 of 5 could not be answered: results.jsonl tells why.")
        await person.until("document.querySelectorAll('.note.warn li').length === 1")
        assert (await person.text(".note.warn li")).startswith("broken.jpg: ")
        job = (await person.evaluate("location.hash")).partition("id=")[2]
        said = await person.evaluate(f"""fetch("v1/jobs/{job}/files/results.jsonl")
          .then((answer) => answer.text()).then((all) => all.trim().split("\\n")
          .map((each) => JSON.parse(each).file).join(" "))""")
        assert said == "1.png 2.png 10.png below/1.png broken.jpg"


async def test_many_pictures_that_fail(tmp_path):
    """The first of them are named, with why; how many more there are is said."""
    given = folder(tmp_path / "trip")
    for number in range(7):
        (given / f"bad {number}.jpg").write_bytes(b"<b>no picture")
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("jobs")
        await person.sees("Drop pictures")
        await drop(person, ".jobs", files=[str(given)])
        await person.pick("fake-detect")
        await person.click("Start", "dialog")
        await person.until("!!document.querySelector('.note.warn ul')")
        assert "Done, but 8 of 12 could not be answered" in await person.text(".note.warn")
        *named, more = (await person.text(".note.warn ul")).splitlines()
        assert [each.partition(":")[0] for each in named] == [f"bad {n}.jpg" for n in range(5)]
        assert more == "and 3 more"
        (job,) = (await asked(server, "GET", "/v1/jobs"))["jobs"]
        assert [f"{each['file']}: {each['error']}" for each in job["result"]["failures"]] == named
        assert await person.faults() == []


async def test_a_folder_of_no_pictures(tmp_path):
    """What is taken of a folder is said where there is nothing of it."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no picture")
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.sees("Drop a picture here")
        await drop(person, ".stage", files=[str(tmp_path / "texts")])
        await person.sees("There is no picture in texts.")


HELD = """(() => {
  const { setTimeout: wait, clearTimeout: clear, fetch: ask } = window;
  const now = performance.now();
  performance.now = () => now;
  window.held = new Map();
  window.setTimeout = (act, pause, ...given) => {
    const id = wait(pause > 3000 ? () => {} : act, pause, ...given);
    if (pause > 3000) held.set(id, act);
    return id;
  };
  window.clearTimeout = (id) => { held.delete(id); clear(id); };
  window.parts = [];
  window.fetch = (path, options) => (options?.method === "PATCH"
    ? new Promise((go) => parts.push(() => go(ask(path, options)))) : ask(path, options));
})()"""
"""The clock of a page stands still: long pauses end when told to, and a file's parts go then."""


async def test_an_upload_is_read_out_now_and_then(tmp_path):
    """A screen reader is not told of each part: what it says changes every five seconds at most."""
    said = "document.querySelector('dialog [role=status]').textContent"
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate(HELD)
        await person.go("jobs")
        await person.click("New job")
        await person.pick("fake-detect")
        path = tmp_path / "one.mp4"
        path.write_bytes(bytes(7_000_000))
        await person.choose_all("dialog input[type=file]", [path])
        await person.click("Start", "dialog")
        await person.until("parts.length === 1")
        first = await person.evaluate(said)
        for shown_now in ("2.1 MB of", "4.2 MB of"):
            await person.evaluate("parts.shift()(); 0")
            await person.until("parts.length === 1")
            await person.until(
                f"document.querySelector('dialog').innerText.includes('{shown_now}')"
            )
            assert await person.evaluate(said) == first
        await person.evaluate("held.forEach((act) => act()); 0")
        await person.until(f"{said}.startsWith('4.2 MB of')")
        assert await person.faults() == []


@pytest.mark.parametrize("gone", ["video", "picture"])
async def test_a_file_that_changed_is_not_waited_for(tmp_path, gone):
    """A new job says so: no answer comes from a file, however often the server is asked."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("jobs")
        await person.click("New job")
        await person.pick("fake-detect")
        names = ["one.mp4"] if gone == "video" else ["one.png", "two.png"]
        paths = [tmp_path / name for name in names]
        for path in paths:  # a picture that is sent as a video would be refused
            path.write_bytes(SQUARE if gone == "picture" else SQUARE[::-1])
        await person.choose_all("dialog input[type=file]", paths)
        await known(person, "document.querySelector('dialog input[type=file]').files")
        change(paths[-1])
        await person.click("Start", "dialog")
        await person.sees(f"{names[-1]} {CHANGED}")
        assert await person.evaluate("!document.querySelector('.silence, dialog .meter')")
        await person.choose_all("dialog input[type=file]", paths)
        await person.click("Start", "dialog")
        await person.until("!!document.querySelector('.jobhead .state')")
        (job,) = (await asked(server, "GET", "/v1/jobs"))["jobs"]
        assert job["spec"]["file"] == ("one.mp4" if gone == "video" else "pictures.zip")


FIRST_PART_HELD = """(() => {
  const real = fetch;
  window.fetch = (path, options) => {
    if (options?.method !== "PATCH") return real(path, options);
    window.fetch = real;
    return new Promise((go) => { window.release = () => go(real(path, options)); });
  };
})()"""
"""Holds the first part of a file back."""


@pytest.mark.parametrize("changed", ["1.png", "2.png", "3.png"])
async def test_a_picture_that_changes_while_its_zip_is_sent(tmp_path, changed):
    """A part of a ZIP begins with what did not change: the picture behind it is named."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("jobs")
        await person.click("New job")
        await person.pick("fake-detect")
        paths = [tmp_path / f"{at}.png" for at in (1, 2, 3)]
        for path in paths:
            path.write_bytes(SQUARE + os.urandom(1_500_000))
        await person.choose_all("dialog input[type=file]", paths)
        await person.evaluate(f"{FIRST_PART_HELD}, 0")
        await person.click("Start", "dialog")
        await person.until("!!window.release")
        change(tmp_path / changed)
        await person.evaluate("release(), 0")
        await person.sees(f"{changed} {CHANGED}")
        assert await person.evaluate("!document.querySelector('.silence, dialog .meter')")


async def test_a_video_that_changed_and_a_picture_that_is_none(tmp_path):
    """Segment says it in its own words, and takes the file again."""
    given = {"plugins": {"sam": {"model": "planted-film"}}}
    points, models = [planted_film.POINT], planted_film.NAMES
    async with (
        served(tmp_path, "sam", points=points, registered=models, **given) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment?kind=video")
        await person.evaluate("""window.real = XMLHttpRequest.prototype.send;
          XMLHttpRequest.prototype.send = function (body) { window.held = [this, body]; }; 0""")
        await person.choose("input[data-video]", os.urandom(1000), "one.mp4")
        await person.until("!!window.held")
        await known(person, "[held[1]]")
        change(tmp_path / "one.mp4")
        await person.evaluate("real.call(...held); XMLHttpRequest.prototype.send = real; 0")
        await person.sees(f"one.mp4 {CHANGED}")
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        await person.choose("input[data-video]", picture.getvalue(), "one.png")
        await person.sees("one.png is a picture and no video")

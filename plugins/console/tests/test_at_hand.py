"""What hands do: write numbers, drag sliders, drop files and links, choose with the keyboard."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import zipfile

import pytest
from console_pages import CHROMIUM, SQUARE, asked, served, shown
from test_finding import press
from test_trying import NAMES
from test_two_tabs import slow_job

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
FIELD = "document.querySelector('[data-param=confidence] input[type=number]')"
COPY = 1
"""The operation that a drag offers."""


async def write(person, text):
    """Press the keys of a text, one after the other; each is drawn before the next."""
    for letter in text:
        await press(person, letter, code=190 if letter == "." else ord(letter.upper()))
        await person.evaluate("new Promise((drawn) => requestAnimationFrame(() => drawn(0)))")


async def drop(person, selector, *, files=(), items=()):
    """Drag something over an element and let it go there."""
    place = await person.evaluate(f"""(({{ left, top, width, height }}) =>
      [left + width / 2, top + height / 2])
      (document.querySelector("{selector}").getBoundingClientRect())""")
    data = {"items": list(items), "files": list(files), "dragOperationsMask": COPY}
    given = {"x": place[0], "y": place[1], "data": data}
    for kind in ("dragEnter", "dragOver", "drop"):
        await person.page.call("Input.dispatchDragEvent", type=kind, **given)


async def test_a_number_is_written_letter_by_letter(tmp_path):
    """What is not a number yet stays as it is written, and an empty field is empty."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.until(f"!!{FIELD}")
        await person.evaluate(f"{FIELD}.focus(), {FIELD}.select(); 0")
        await press(person, "Backspace", code=8)
        await person.evaluate("new Promise((drawn) => setTimeout(() => drawn(0), 50))")
        assert await person.evaluate(f"{FIELD}.value") == ""
        await write(person, "0.35")
        assert await person.evaluate(f"{FIELD}.value") == "0.35"
        await person.until("location.hash.includes('confidence=0.35')")
        slider = "document.querySelector('[data-param=confidence] input[type=range]').value"
        assert await person.evaluate(slider) == "0.35"
        await person.fill("[data-param=confidence] input[type=range]", "0.2")
        await person.until(f"{FIELD}.value === '0.2'")
        await person.evaluate(f"{FIELD}.focus(), {FIELD}.select(); 0")
        await press(person, "Backspace", code=8)
        await person.until("!location.hash.includes('confidence')")
        await person.evaluate(f"{FIELD}.blur()")
        await person.until(f"{FIELD}.value === '0.5'")


async def test_a_slider_that_is_moved_for_long(tmp_path):
    """A browser takes 200 changes of an address in ten seconds: the slider follows all the same."""
    slide = """(async () => {
      const slider = document.querySelector("[data-param=confidence] input[type=range]");
      const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
      for (let at = 0; at <= 300; at += 1) {
        set.call(slider, String((at % 100) / 100));
        if (at === 300) set.call(slider, "0.77");
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        await new Promise((drawn) => requestAnimationFrame(drawn));
      }
      return [slider.value, document.querySelector("[data-param=confidence] input").value];
    })()"""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.until(f"!!{FIELD}")
        assert await person.evaluate(slide) == ["0.77", "0.77"]
        await person.until("location.hash.includes('confidence=0.77')")
        await person.evaluate("document.querySelector('.nav a[href=\"#/models\"]').click()")
        await person.until("location.hash === '#/models'")
        await person.evaluate("history.back()")
        await person.until("location.hash.includes('confidence=0.77')")


async def test_files_that_are_no_pictures(tmp_path):
    """An empty one is told at once; of one that the server cannot read the page says no more."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.give(b"", "nothing.png")
        await person.sees("nothing.png is empty: it has 0 bytes.")
        await person.give(b"%PDF-1.7", "paper.pdf")
        await person.sees("This browser cannot show this picture itself.")
        await person.until("!!document.querySelector('.right .note.bad')?.innerText")
        assert "The server read it" not in await person.text()
        await person.go("ask?model=fake-vlm")
        await person.sees("This browser cannot show paper.pdf itself.")


async def test_a_file_that_changes_after_it_was_chosen(tmp_path):
    """It is asked about as it was: a browser refuses to send it, which is no silent server."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.give(SQUARE, "square.png")
        await person.until(NAMES + ".length === 1")
        (tmp_path / "square.png").write_bytes(SQUARE + b"more")
        os.utime(tmp_path / "square.png", (1e9, 1e9))  # browsers compare seconds
        await person.fill("[data-param=confidence] input[type=range]", "0.2")
        await person.until(NAMES + ".length === 2")
        assert "No answer from" not in await person.text()


async def test_what_is_dropped(tmp_path):
    """A picture is taken, a link is told, and no page is put away by a file that it cannot take."""
    path = tmp_path / "dropped.png"
    path.write_bytes(SQUARE)
    link = {"mimeType": "text/uri-list", "data": "http://127.0.0.1:9/picture.png"}
    async with (
        served(tmp_path, max_body_mb=1) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("models")
        await person.until("document.querySelectorAll('tr[data-model]').length > 3")
        await person.evaluate("window.here = true; 0")
        await drop(person, ".content", files=[str(path)])
        await drop(person, ".content", items=[link])
        await person.go("try?model=fake-detect")
        await person.sees("Drop a picture here")
        await drop(person, ".stage", items=[link])
        await person.sees("is a link and no file")
        await drop(person, ".stage", files=[str(path)])
        await person.sees("dropped.png\n64 \u00d7 64")
        assert "is a link and no file" not in await person.text()
        await person.until(NAMES + ".length === 1")
        film = tmp_path / "film.mp4"
        film.write_bytes(SQUARE)
        await drop(person, ".stage", files=[str(film)])
        await person.sees("film.mp4 is a video.")
        await drop(person, ".stage", files=[str(path), str(film)])
        await person.sees("This is the first of 2 files.")
        assert "is a video" not in await person.text()
        large = tmp_path / "large.png"
        large.write_bytes(SQUARE + bytes(1_100_000))
        await drop(person, ".stage", files=[str(large)])
        await person.sees("raise max_body_mb")
        assert "first of 2" not in await person.text()
        assert await person.evaluate("window.here")


async def test_pictures_are_packed_for_a_job(tmp_path):
    """Dropped on Jobs they are in the dialog; a model looks at each of them."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.write_bytes(SQUARE)
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("jobs")
        await person.sees("No job yet.")
        await drop(person, ".jobmid", files=[str(path) for path in paths])
        await person.until("document.querySelector('dialog input[type=file]')?.files.length === 3")
        await person.pick("fake-detect")
        await person.click("Start", "dialog")
        await person.until("!!document.querySelector('.jobhead .state.ok')")
        (job,) = (await asked(server, "GET", "/v1/jobs"))["jobs"]
        assert (job["spec"]["file"], job["result"]["items"]) == ("pictures.zip", 3)
        await person.click("New job")
        both = io.BytesIO()
        with zipfile.ZipFile(both, "w") as archive:
            archive.writestr("a.png", SQUARE)
        (tmp_path / "b.zip").write_bytes(both.getvalue())
        await person.choose_all("dialog input[type=file]", [paths[0], tmp_path / "b.zip"])
        await person.click("Start", "dialog")
        await person.sees("Choose pictures, or one video or ZIP: not both.")


async def test_what_is_dropped_while_a_job_is_made(tmp_path):
    """Its field takes it as a field does, the dialog hands it on, and a link is told."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(SQUARE)
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    names = """[...document.querySelector('dialog input[type=file]')?.files ?? []]
      .map((file) => file.name).join()"""
    link = {"mimeType": "text/uri-list", "data": "http://127.0.0.1:9/picture.png"}
    field = "dialog input[type=file]"
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("jobs")
        await person.sees("No job yet.")
        await person.evaluate("window.here = true; 0")
        await drop(person, ".jobmid", items=[link])
        await person.sees("is a link and no file")
        await person.click("New job")
        await person.until("!!document.querySelector('dialog[open] input[type=file]')")
        assert "is a link and no file" not in await person.text()
        await drop(person, field, files=paths[:1])
        await person.until(f"{names} === '0.png'")
        await drop(person, "dialog h2", files=paths[1:])
        await person.until(f"{names} === '1.png,2.png'")
        await drop(person, field, items=[link])
        await person.until("document.querySelector('dialog').innerText.includes('is a link')")
        await person.evaluate("document.querySelector('dialog fieldset').disabled = true; 0")
        await drop(person, field, files=paths[:1])
        await person.until(f"{names} === '0.png'")
        assert await person.evaluate("window.here")


async def test_a_link_on_a_page_of_videos(tmp_path):
    """It is told there, too, before a video is open."""
    link = {"mimeType": "text/uri-list", "data": "http://127.0.0.1:9/film.mp4"}
    async with served(tmp_path, "sam") as server, shown(server.url, tmp_path) as person:
        await person.go("segment?kind=video")
        await person.sees("Drop a video here")
        await drop(person, ".stagebox", items=[link])
        await person.sees("is a link and no file")


async def test_a_model_is_chosen_by_its_letters(tmp_path):
    """Enter takes the first that is found, Home stays in the field, up leads to the last."""
    focused = "document.activeElement.innerText"
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.click("Model:")
        await person.until("document.activeElement.matches('.menu input')")
        await press(person, "ArrowUp", code=38)
        last = "[...document.querySelectorAll('.menu [role=option]')].at(-1).innerText"
        await person.until(f"{focused} === {last}")
        await person.evaluate("document.querySelector('.menu input').focus()")
        await write(person, "turne")
        await press(person, "Home", code=36)
        assert await person.evaluate("document.activeElement.matches('.menu input')")
        await press(person, "Enter", code=13)
        await person.until("location.hash === '#/try?model=turned'")
        await person.until("document.activeElement.className === 'picker'")


async def test_a_first_answer_that_takes_long(tmp_path):
    """A line says that it comes, on a page that shows nothing yet; it goes with the answer."""
    line = "!!document.querySelector('.bar > .running')"
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.until(f"!({line})")
        await person.evaluate("""window.real = fetch; window.held = [];
          window.fetch = async (path, options) => {
            if (path === "v1/settings") await new Promise((go) => held.push(go));
            return real(path, options);
          }; 0""")
        await person.go("server")
        await person.until(line)
        await person.evaluate("held.map((go) => go()), 0")
        await person.until(f"!({line}) && document.querySelectorAll('.settings tbody tr').length")


async def test_on_paper(tmp_path):
    """There is no navigation, no button, and a dark page is a light one."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.evaluate("document.documentElement.dataset.theme = 'dark'; 0")
        await person.go("models")
        await person.until("document.querySelectorAll('tr[data-model]').length > 3")
        await person.page.call("Emulation.setEmulatedMedia", media="print")
        seen = """[...document.querySelectorAll(".side, .tabs-bottom, .btn")]
          .filter((each) => each.checkVisibility()).length"""
        assert await person.evaluate(seen) == 0
        assert await person.evaluate("getComputedStyle(document.body).color") == "rgb(19, 23, 29)"
        await person.page.call("Emulation.setEmulatedMedia", media="")


async def test_a_camera_that_is_not_there_yet(tmp_path):
    """Nothing can be taken before it shows something; then it is the picture."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.evaluate("""window.real = navigator.mediaDevices.getUserMedia
            .bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (asked) => {
            await new Promise((go) => { window.go = go; });
            return real(asked);
          }; 0""")
        await person.click("Camera")
        take = "document.querySelector('dialog .primary')"
        await person.until(f"{take}?.disabled && !!window.go")
        await person.evaluate("window.go(); 0")
        await person.click("Take the picture", "dialog")
        await person.sees("camera.jpg")


async def test_a_log_that_grows(tmp_path):
    """It is followed at its end; who reads further up is left there."""
    box = "document.querySelector('.joblog')"
    end = f"{box}.scrollHeight - {box}.scrollTop - {box}.clientHeight < 24"
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate("""window.real = fetch; window.lines = 100;
          window.fetch = (path, options) => (/log$/.test(path)
            ? Promise.resolve(new Response("a line of the log\\n".repeat(lines)))
            : real(path, options)); 0""")
        await person.go(f"jobs?id={await slow_job(server)}")
        await person.until(f"{box}?.innerText.split('\\n').length > 99 && {end}")
        await person.evaluate("window.lines = 200; 0")
        await person.until(f"{box}.innerText.split('\\n').length > 199 && {end}")
        await person.evaluate(f"""{box}.scrollTop = 300; window.lines = 300;
          new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(() => seen(0))))
          """)
        await person.until(f"{box}.innerText.split('\\n').length > 299")
        assert await person.evaluate(f"{box}.scrollTop") == 300


def wait_behind(job, number, path):
    """Put jobs into the database that are younger than a job, of a kind that no server runs."""
    own = {"id": "lower(hex(randomblob(16)))", "kind": "'other'", "state": "'queued'"}
    own |= {"holder": "NULL", "lease_until": "NULL", "created_at": "created_at + n.value"}
    with contextlib.closing(sqlite3.connect(path)) as database:
        names = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
        values = ", ".join(own.get(name, name) for name in names)
        numbers = "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT ?)"
        copied = f"{numbers} INSERT INTO jobs SELECT {values} FROM jobs, n WHERE id = ?"
        database.execute(copied, (number, job))
        database.commit()


async def test_more_jobs_than_the_list_has(tmp_path):
    """The one that runs is the oldest: its filter finds it, and the numbers are of all."""
    rows = "document.querySelectorAll('.joblist li a').length"
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        wait_behind(await slow_job(server, 2), 203, tmp_path / "data" / "mataserver.db")
        await person.go("jobs")
        await person.sees("The newest 200 of 204.")
        await person.sees("Running 1")
        await person.sees("Queued 203")
        await person.click("Running 1")
        await person.until(f"{rows} === 1")
        assert "%" in await person.text(".joblist")
        await person.click("All")
        await person.until(f"{rows} === 200")
        await person.click("More", ".joblist")
        await person.until(f"{rows} === 204")


async def test_a_talk_stays_while_another_page_is_open(tmp_path):
    """What was said, and what was being written; an answer under way is stopped."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("ask?seconds=0.4")
        await person.give()
        await person.fill("#question", "How large is it?")
        await person.click("Ask", ".talk")
        await person.until("/^64/.test(document.querySelector('.answer')?.innerText)")
        await person.fill("#question", "And the next")
        await person.go("models")
        await person.until("document.querySelectorAll('tr[data-model]').length > 3")
        await person.go("ask?seconds=0")
        await person.sees("Stopped: what was written stays.")
        assert await person.text(".question") == "How large is it?"
        assert await person.evaluate("document.querySelector('#question').value") == "And the next"
        await person.click("Ask", ".talk")
        await person.until("document.querySelectorAll('.answer')[1]?.innerText === '64x64'")

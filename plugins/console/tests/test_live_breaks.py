"""Live: what breaks off goes on by itself, and what is told and drawn is of the picture at hand."""

from __future__ import annotations

import asyncio

import planted_clock
import pytest
from console_pages import CHROMIUM, asked, served, shown
from test_looking import sessions
from test_two_tabs import another

from silent_way import SilentWay

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
LIVE = "!!document.querySelector('.vl .state.ok') && !!document.querySelector('.vl b')"
LOST = "document.querySelector('.vl')?.innerText.includes('No connection')"
FAILED = "document.querySelector('.note.bad')?.innerText ?? ''"


async def test_a_connection_that_breaks(tmp_path):
    """The camera stays on, and the stream goes on as soon as the server answers."""
    async with (
        served(tmp_path) as server,
        SilentWay(server.url) as way,
        shown(way.url, tmp_path) as person,
    ):
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(LIVE)
        (before,) = await sessions(server, 1)
        way.cut()
        await person.until(LOST)
        await person.sees("It goes on by itself.")
        assert await person.evaluate("document.querySelector('video').srcObject.active")
        way.speak()
        await person.until(LIVE)
        (now,) = await sessions(server, 1)
        assert now["session_id"] != before["session_id"]
        assert await person.evaluate(FAILED) == ""
        assert "It goes on by itself." not in await person.text()
        await person.click("Stop")
        await sessions(server, 0)


LATER = """(() => {
  const now = performance.now.bind(performance), { send } = WebSocket.prototype;
  window.skipped = window.pings = 0;
  performance.now = () => now() + window.skipped;
  WebSocket.prototype.send = function (data) {
    if (data.length) window.pings += 1;
    return send.call(this, data);
  };
})()"""
"""Lets time go by for a page, and counts its questions."""


async def test_a_connection_that_falls_silent(tmp_path):
    """It is noticed, and another one is begun; the place of the one before is free."""
    async with (
        served(tmp_path) as server,
        SilentWay(server.url) as way,
        shown(way.url, tmp_path) as person,
    ):
        await person.evaluate(LATER)
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(LIVE)
        (before,) = await sessions(server, 1)
        way.silence()
        await person.until("skipped += 1000, pings === 1")
        await person.evaluate("skipped += 30000")
        await person.until(LOST)
        await person.until(LIVE)
        (now,) = await sessions(server, 1)
        assert now["session_id"] != before["session_id"]
        assert await person.evaluate(FAILED) == ""


async def test_a_page_that_nobody_looks_at_for_long(tmp_path):
    """The server ends its session; who comes back sees it go on."""
    async with (
        served(tmp_path, session_ttl=1) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(LIVE)
        async with another(person, server, tmp_path, "#/models"):
            await person.until("document.hidden")
            await sessions(server, 0)
        await person.page.call("Page.bringToFront")
        await person.until(LIVE)
        await sessions(server, 1)
        assert await person.evaluate(FAILED) == ""


async def test_a_page_that_was_frozen(tmp_path):
    """A browser pauses its video, as does a key for media: the frames go on all the same."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(LIVE)
        await person.evaluate("document.querySelector('video').pause()")
        await person.until("!document.querySelector('video').paused")
        (before,) = await sessions(server, 1)
        while (await sessions(server, 1))[0]["results"] < before["results"] + 5:
            await asyncio.sleep(0.05)


BROKEN = """(() => {
  const { send } = WebSocket.prototype;
  window.most = 0;
  WebSocket.prototype.send = function (data) {
    if (data.size) {
      if (!this.sent) {
        this.sent = this.answered = 0;
        this.addEventListener("message", () => { this.answered += 1; });
      }
      if ([2, 4].includes(this.sent)) data = new Blob(["no picture"]);
      this.sent += 1;
      window.most = Math.max(window.most, this.sent - this.answered);
      window.all = this.sent;
    }
    return send.call(this, data);
  };
})()"""
"""Has two frames be none, and counts those that are on their way."""


async def test_frames_that_cannot_be_read(tmp_path):
    """They are answered by an error, and no more than two are on their way afterwards."""
    points, known = [planted_clock.POINT], planted_clock.TASKS
    async with (
        served(tmp_path, points=points, registered=known) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate(f"{BROKEN}; {planted_clock.CAMERA}")
        await person.go("live?model=clock")
        await person.click("Start")
        await person.until("window.all > 12")
        assert await person.evaluate("most") == 2
        await person.until("!document.querySelector('.note.warn')")
        dropped = "document.querySelector('[data-figure=Dropped] dd').firstChild.textContent"
        assert (await person.evaluate(dropped)).strip() == "0"


HOLD = """(() => {
  const real = fetch;
  window.bodies = [];
  window.fetch = (path, options) => {
    if (path !== "v1/sessions" || !options?.body) return real(path, options);
    bodies.push(JSON.parse(options.body));
    return new Promise(() => {});
  };
})()"""
"""Notes the sessions that a page begins, which are never made."""
UPRIGHT = planted_clock.CAMERA.replace("width: 640, height: 480", "width: 480, height: 640")
TURN = "canvas.width = 640, canvas.height = 480"
RATIO = """(({ width, height }) => (width / height).toFixed(2))
  (document.querySelector('.vid').getBoundingClientRect())"""


async def test_a_phone_that_is_turned(tmp_path):
    """Its picture is never stretched: not before the first answer, nor after a turn."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        camera = UPRIGHT.replace("const pen", "window.canvas = canvas; const pen")
        await person.evaluate(f"{camera}; {HOLD}")
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until("document.querySelector('.vl')?.innerText.includes('Loading')")
        await person.until(f"{RATIO} === '0.75'")
        assert await person.text(".vr") == "480 \u00d7 640"
        await person.evaluate(TURN)
        await person.until(f"{RATIO} === '1.33'")


async def test_another_model_is_tracked_too(tmp_path):
    """Where Track is on, a stream that another model goes on with is tracked as well."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.evaluate(HOLD)
        await person.go("live?model=fake-detect")
        await person.click("Track")
        await person.click("Start")
        await person.until("bodies.length === 1")
        await person.click("Model:")
        await person.click("many", ".menu")
        await person.until("bodies.length === 2")
        assert await person.evaluate("bodies") == [
            {"model": "fake-detect", "task": "track"},
            {"model": "many", "task": "track"},
        ]


async def test_rates(tmp_path):
    """A slow model has one, too; where nothing comes any more it falls; what is off has none."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        rates = await person.evaluate("""import("./console/stream.mjs").then(({ Meter }) => {
          const told = (times, ...looks) => {
            const meter = new Meter();
            for (const at of times) meter.result(at, 10);
            return looks.map((now) => Number(meter.figures(now).results.toFixed(2)));
          };
          const quick = Array.from({ length: 30 }, (_, at) => at * 100);
          return [told([0, 4000, 8000], 8100, 12000, 40000), told(quick, 2950, 5000, 9000)];
        })""")
        (slow, later, _), (usual, falling, gone) = rates
        assert (slow, later) == (0.25, 0.25)
        assert usual == 10
        assert usual > falling > gone
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(LIVE)
        rate = "document.querySelector('[data-figure=Camera] dd').innerText[0]"
        await person.until(f"{rate} !== '\u2013'")
        (session,) = await sessions(server, 1)
        await asked(server, "DELETE", f"/v1/sessions/{session['session_id']}")
        await person.until(f"{FAILED} !== ''")
        await person.until(f"{rate} === '\u2013'")


SLOW = """(() => {
  const now = performance.now.bind(performance);
  window.late = 3000;
  performance.now = () => now() + window.late;
})()"""
"""Has a page take its answers for older than they are."""
STILL = "document.querySelector('.vid canvas')"
GREEN = f"""(() => {{
  const seen = {STILL}, copy = new OffscreenCanvas(seen.width, seen.height).getContext("2d");
  copy.drawImage(seen, 0, 0);
  return [seen.width, seen.height, copy.getImageData(320, 300, 1, 1).data[1] > 60];
}})()"""


async def test_a_slow_model(tmp_path):
    """What it found is shown on the picture that it was given, not on what moved on since."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(LIVE)
        assert await person.evaluate(f"{STILL}.hidden")
        await person.evaluate(SLOW)
        await person.until(f"!{STILL}.hidden")
        assert await person.evaluate(GREEN) == [640, 480, True]
        await person.evaluate("late = 0")
        await person.until(f"{STILL}.hidden")

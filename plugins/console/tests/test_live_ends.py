"""Live: what would never go on ends in words, and pictures that are not shown take no memory."""

from __future__ import annotations

import pytest
from console_pages import CHROMIUM, asked, served, shown
from test_live_breaks import FAILED, LIVE, LOST
from test_looking import sessions

from silent_way import SilentWay

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
SOON = """(() => {
  const later = setTimeout;
  window.setTimeout = (act, time, ...given) => later(act, time > 900 ? time / 20 : time, ...given);
})();"""
"""Has a page wait for a short time only."""
BARRED = """(() => {
  const real = WebSocket;
  window.barred = window.begun = 0;
  window.WebSocket = class extends real {
    constructor(url) {
      window.begun += 1;
      super(window.barred-- > 0 ? new URL("v1/nowhere", url) : url);
    }
  };
})();"""
"""Has so many handshakes answered with 404, as a proxy does that knows no WebSockets."""


async def test_where_no_websocket_passes(tmp_path):
    """It ends after some tries, with the reason, and leaves no session behind."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.evaluate(SOON + BARRED)
        await person.go("live?model=fake-detect")
        await person.evaluate("barred = 3")
        await person.click("Start")
        await person.until(LIVE)  # what passes in the end goes on
        assert await person.evaluate("begun") == 4
        await person.click("Stop")
        await person.evaluate("barred = Infinity, begun = 0")
        await person.click("Start")
        await person.until(f"({FAILED}).includes('may not let WebSockets through')")
        assert await person.evaluate("begun") == 5
        assert await person.evaluate("document.querySelector('video').srcObject") is None
        assert "It goes on by itself." not in await person.text()
        await sessions(server, 0)


async def test_where_websockets_open_and_break(tmp_path):
    """A proxy that lets no frame through is one that lets no WebSocket through."""
    begun, bars = [], True

    def passes(data):
        is_frame = data[:1] in {b"\x81", b"\x82"}  # of a text or bytes; requests begin with letters
        begun.extend([data] * (bars and is_frame))
        return not (bars and is_frame)

    async with (
        served(tmp_path) as server,
        SilentWay(server.url, passes) as way,
        shown(way.url, tmp_path) as person,
    ):
        await person.evaluate(SOON)
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(f"({FAILED}).includes('may not let WebSockets through')")
        assert len(begun) == 5
        await sessions(server, 0)
        bars = False
        await person.click("Start")
        await person.until(LIVE)


FULL = """(() => {
  const real = fetch;
  window.refused = window.refusal = 0;
  window.fetch = (path, options) => {
    if (path !== "v1/sessions" || !options?.body || !window.refusal) return real(path, options);
    window.refused += 1;
    const { refusal: status } = window;
    return Promise.resolve(new Response('{"detail": "There is no room"}', { status }));
  };
})();"""
"""Has another session refused."""


@pytest.mark.parametrize(("status", "tries"), [(507, 1), (403, 1), (500, 5)])
async def test_another_session_that_is_refused(tmp_path, status, tries):
    """After a connection that broke, what the server says of the next one is told."""
    async with (
        served(tmp_path) as server,
        SilentWay(server.url) as way,
        shown(way.url, tmp_path) as person,
    ):
        await person.evaluate(SOON + FULL)
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(LIVE)
        await person.evaluate(f"refusal = {status}")
        way.cut()
        await person.until(LOST)
        way.speak()
        await person.until(f"({FAILED}).includes('There is no room')")
        assert await person.evaluate("refused") == tries
        assert "It goes on by itself." not in await person.text()
        await sessions(server, 0)


HELD = """(() => {
  const make = createImageBitmap, { close } = ImageBitmap.prototype;
  const now = performance.now.bind(performance);
  performance.now = () => now() + 3000;  // answers are taken for older than they are
  const { drawImage } = CanvasRenderingContext2D.prototype;
  window.made = [], window.freed = new Set(), window.drawn = [], window.held = [];
  CanvasRenderingContext2D.prototype.drawImage = function (picture, ...given) {
    if (made.includes(picture)) drawn.push(made.indexOf(picture));
    return drawImage.call(this, picture, ...given);
  };
  ImageBitmap.prototype.close = function () { freed.add(this); return close.call(this); };
  window.createImageBitmap = async (of, ...given) => {
    const picture = await make(of, ...given);
    if (!(of instanceof Blob)) return picture;
    made.push(picture);
    await new Promise((done) => { held.push(done); });
    return picture;
  };
})();"""
"""Holds the pictures that answers are shown on, and notes what becomes of them."""


async def test_pictures_that_are_not_shown(tmp_path):
    """Each is closed: of several that come at once, late, or after the end."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.evaluate(HELD)
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until("held.length > 3")
        await person.evaluate("for (const go of held.splice(1)) go()")
        await person.until("drawn.length > 0")
        await person.until("held.length > 2")
        await person.evaluate("for (const go of held.splice(0, held.length - 1)) go()")
        await person.until("drawn.length > 1")
        assert await person.evaluate("!drawn.includes(0) && held.length > 0")
        await person.click("Stop")
        await person.evaluate("for (const go of held.splice(0)) go()")
        await person.until("made.every((each) => freed.has(each))")
        assert await person.evaluate("drawn.every((each, at) => !at || each > drawn[at - 1])")


async def test_a_key_that_is_revoked(tmp_path):
    """What it waits for is said: it does not go on by itself."""
    async with served(tmp_path, "database", "accounts") as server:
        body = {"name": "camera", "scopes": ["infer", "models:read"]}
        made = await asked(server, "POST", "/v1/keys", json=body)
        async with shown(server.url, tmp_path, key=made["key"]) as person:
            await person.go("live?model=fake-detect")
            await person.click("Start")
            await person.until(LIVE)
            await asked(server, "DELETE", f"/v1/keys/{made['id']}")
            await person.until("!!document.querySelector('.signin')")
            await person.sees("It goes on once you have signed in again.")
            assert "It goes on by itself." not in await person.text()
